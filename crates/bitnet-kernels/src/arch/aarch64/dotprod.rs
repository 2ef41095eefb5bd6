//! Products of bytes with the dot product instructions of ARMv8.2: `sdot` adds four of them to a 32-bit lane, so nothing
//! can overflow up to the column limit that loading checks.

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

/// `sums + Σ` of the products of four neighbours.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add(mut sums: Sums, codes: int8x16_t, x: int8x16_t) -> Sums {
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
fn widen(wide: int32x4_t, sums: Sums) -> int32x4_t {
    vaddq_s32(wide, sums)
}

super::ternary::ternary_kernels! { "neon,dotprod" }
super::planes::plane_kernels! { "neon,dotprod" }
