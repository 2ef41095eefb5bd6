//! Products of bytes with what every 64-bit ARM processor has: `smlal` adds them to 16-bit lanes.

use super::bytes::*;
use std::arch::aarch64::*;

/// Two products of bytes are added to each lane by [`add`].
type Sums = int16x8_t;
/// Blocks of 128 columns whose ternary products fit: each adds 16 products of at most 2 · 127 to a lane, 8 blocks 32512.
const FLUSH: usize = 8;

#[inline]
#[target_feature(enable = "neon")]
fn none() -> Sums {
    vdupq_n_s16(0)
}

#[inline]
#[target_feature(enable = "neon")]
fn add(sums: Sums, codes: V, x: V) -> Sums {
    let (codes, x) = (vreinterpretq_s8_u8(codes), vreinterpretq_s8_u8(x));
    vmlal_high_s8(vmlal_s8(sums, vget_low_s8(codes), vget_low_s8(x)), codes, x)
}

#[inline]
#[target_feature(enable = "neon")]
fn widen(wide: V, sums: Sums) -> V {
    vreinterpretq_u8_s32(vpadalq_s16(vreinterpretq_s32_u8(wide), sums))
}

crate::arch::sixteen_bytes::ternary_kernels! { "neon" }
crate::arch::sixteen_bytes::plane_kernels! { "neon" }
