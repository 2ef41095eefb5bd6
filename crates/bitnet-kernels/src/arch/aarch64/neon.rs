//! Products of bytes with what every 64-bit ARM processor has: `smlal` adds them to 16-bit lanes.

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

/// `sums + Σ` of the products of neighbours, in some order.
#[inline]
#[target_feature(enable = "neon")]
fn add(sums: Sums, codes: int8x16_t, x: int8x16_t) -> Sums {
    vmlal_high_s8(vmlal_s8(sums, vget_low_s8(codes), vget_low_s8(x)), codes, x)
}

/// Moves sums on to 32 bits.
#[inline]
#[target_feature(enable = "neon")]
fn widen(wide: int32x4_t, sums: Sums) -> int32x4_t {
    vpadalq_s16(wide, sums)
}

super::ternary::ternary_kernels! { "neon" }
super::planes::plane_kernels! { "neon" }
