//! Products of bytes in 16-bit lanes.

use super::float_simd128;
use std::arch::wasm32::*;

type V = v128;
/// Two products of bytes are added to each of eight lanes by [`add`].
type Sums = v128;
/// Blocks of 128 columns whose ternary products fit: each adds 16 products of at most 2 · 127 to a lane, 8 blocks 32512.
const FLUSH: usize = 8;

fn none() -> Sums {
    i16x8_splat(0)
}

#[inline]
#[target_feature(enable = "simd128")]
fn add(sums: Sums, codes: V, x: V) -> Sums {
    let low = i16x8_add(sums, i16x8_extmul_low_i8x16(codes, x));
    i16x8_add(low, i16x8_extmul_high_i8x16(codes, x))
}

#[inline]
#[target_feature(enable = "simd128")]
fn widen(wide: V, sums: Sums) -> V {
    i32x4_add(wide, i32x4_extadd_pairwise_i16x8(sums))
}

#[inline]
#[target_feature(enable = "simd128")]
fn splat(x: u8) -> V {
    u8x16_splat(x)
}

/// # Safety
/// Sixteen bytes from `at` must be readable.
#[inline]
#[target_feature(enable = "simd128")]
unsafe fn load(at: *const u8) -> V {
    // SAFETY: the caller's promise; the load needs no alignment.
    unsafe { v128_load(at.cast()) }
}

#[inline]
#[target_feature(enable = "simd128")]
fn and(a: V, b: V) -> V {
    v128_and(a, b)
}

#[inline]
#[target_feature(enable = "simd128")]
fn add8(a: V, b: V) -> V {
    u8x16_add(a, b)
}

/// In every byte.
#[inline]
#[target_feature(enable = "simd128")]
fn shift_right<const N: u32>(v: V) -> V {
    u8x16_shr(v, N)
}

/// All ones where a bit is set.
#[inline]
#[target_feature(enable = "simd128")]
fn sixteen_bits(bits: [u8; 2]) -> V {
    let place = u64x2_splat(0x8040_2010_0804_0201);
    let copies = bits.map(|bits| u64::from(bits) * 0x0101_0101_0101_0101);
    u8x16_eq(v128_and(u64x2(copies[0], copies[1]), place), place)
}

/// The sums of the 32-bit lanes of four vectors.
#[inline]
#[target_feature(enable = "simd128")]
fn four_sums(v: [V; 4]) -> [i32; 4] {
    v.map(|v| {
        let v = i32x4_add(v, i32x4_shuffle::<2, 3, 0, 1>(v, v));
        i32x4_extract_lane::<0>(v).wrapping_add(i32x4_extract_lane::<1>(v))
    })
}

/// `a * b + c`, rounded once.
#[inline]
#[target_feature(enable = "simd128")]
fn fma(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
    let [a, b, c] = [a, b, c].map(|x| f32x4(x[0], x[1], x[2], x[3]));
    let v = float_simd128::fma(a, b, c);
    [f32x4_extract_lane::<0>(v), f32x4_extract_lane::<1>(v), f32x4_extract_lane::<2>(v), f32x4_extract_lane::<3>(v)]
}

crate::arch::sixteen_bytes::ternary_kernels! { "simd128" }
crate::arch::sixteen_bytes::plane_kernels! { "simd128" }
