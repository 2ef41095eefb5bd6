//! Products of bytes with the dot product instructions of ARMv8.2: `sdot` adds four of them to a 32-bit lane, so nothing
//! can overflow up to the column limit that loading checks.

use super::bytes::*;
use std::arch::aarch64::*;
use std::arch::asm;

/// Four products of bytes are added to each lane by [`add`].
type Sums = int32x4_t;
/// Blocks of columns whose products fit.
const FLUSH: usize = usize::MAX;

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn none() -> Sums {
    vdupq_n_s32(0)
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add(mut sums: Sums, codes: V, x: V) -> Sums {
    // The intrinsic `vdotq_s32` is not stable yet.
    // SAFETY: works on registers alone, and the processor has the instruction.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sums, in(vreg) codes, in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn widen(wide: V, sums: Sums) -> V {
    vreinterpretq_u8_s32(vaddq_s32(vreinterpretq_s32_u8(wide), sums))
}

crate::arch::sixteen_bytes::ternary_kernels! { "neon,dotprod" }
crate::arch::sixteen_bytes::plane_kernels! { "neon,dotprod" }
