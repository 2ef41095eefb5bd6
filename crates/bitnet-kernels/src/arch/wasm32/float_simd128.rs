//! [`Lanes`] on 128-bit vectors of WebAssembly: four of four. There is no instruction that multiplies and adds with one
//! rounding: it is computed in binary64, to the same bits.

use crate::ahead::Ahead;
use crate::lanes::{LANES, Lanes, POW2_BIAS};
use std::arch::wasm32::*;

/// The tier: a module that runs has it.
#[derive(Clone, Copy)]
pub(crate) struct Simd128;

/// `a b + c`, rounded once.
///
/// The product is exact in binary64. The sum is rounded there *to odd*: towards zero, and then the last bit is set if that
/// was not exact. As binary64 has more than two bits beyond those of binary32, rounding the odd result to binary32
/// gives what rounding the exact sum gives (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
#[inline(always)]
pub(super) fn fma(a: v128, b: v128, c: v128) -> v128 {
    let high = |v| i32x4_shuffle::<2, 3, 2, 3>(v, v);
    i32x4_shuffle::<0, 1, 4, 5>(fma_low(a, b, c), fma_low(high(a), high(b), high(c)))
}

/// The lower two lanes.
#[inline(always)]
fn fma_low(a: v128, b: v128, c: v128) -> v128 {
    let product = f64x2_mul(f64x2_promote_low_f32x4(a), f64x2_promote_low_f32x4(b));
    let c = f64x2_promote_low_f32x4(c);
    let sum = f64x2_add(product, c);
    // What the sum lacks, exactly (Knuth). NaN if the sum is not finite.
    let c_part = f64x2_sub(sum, product);
    let lack = f64x2_add(f64x2_sub(product, f64x2_sub(sum, c_part)), f64x2_sub(c, c_part));
    let inexact = f64x2_lt(f64x2_splat(0.0), f64x2_abs(lack));
    // All ones where the sum was rounded away from zero: its bits are one too many.
    let away = i64x2_shr(v128_xor(sum, lack), 63);
    let down = i64x2_add(sum, v128_and(away, inexact));
    f32x4_demote_f64x2_zero(v128_or(down, u64x2_shr(inexact, 63)))
}

/// Lanes 0..4, 4..8, 8..12, 12..16.
#[derive(Clone, Copy)]
pub(crate) struct Quad([v128; 4]);

/// Wraps one expression on each of the four parts.
macro_rules! each {
    (|$i:ident| $part:expr) => {
        Quad(std::array::from_fn(|$i| $part))
    };
}

/// Reads the sixteen bytes at `16 i`.
#[inline(always)]
fn load(x: &[u8], i: usize) -> v128 {
    let x: &[u8; 16] = &x.as_chunks().0[i];
    // SAFETY: the load is that of an array of sixteen bytes, and needs no alignment.
    unsafe { v128_load(x.as_ptr().cast()) }
}

/// Eight bytes at `8 i` as four numbers of 16 bits in lanes of 32.
#[inline(always)]
fn load_u16(x: &[u8; 2 * LANES], i: usize) -> v128 {
    u32x4_extend_low_u16x8(u64x2_splat(u64::from_le_bytes(x.as_chunks().0[i])))
}

/// `if a > b { a } else { b }`
#[inline(always)]
fn larger(a: v128, b: v128) -> v128 {
    f32x4_pmax(b, a)
}

/// Reduces by the tree of [`Lanes::sum`].
#[inline(always)]
fn tree(v: Quad, f: impl Fn(v128, v128) -> v128) -> f32 {
    let v = f(f(v.0[0], v.0[2]), f(v.0[1], v.0[3]));
    let v = f(v, i32x4_shuffle::<2, 3, 2, 3>(v, v));
    f32x4_extract_lane::<0>(f(v, i32x4_shuffle::<1, 1, 1, 1>(v, v)))
}

impl Lanes for Simd128 {
    type V = Quad;
    const ACCUMULATORS: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> Quad {
        Quad([f32x4_splat(x); 4])
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Quad {
        each!(|i| f32x4(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]))
    }
    #[inline(always)]
    fn store(self, v: Quad, out: &mut [f32; LANES]) {
        for (out, v) in out.as_chunks_mut::<4>().0.iter_mut().zip(v.0) {
            // SAFETY: the store is that of an array of four floats, and needs no alignment.
            unsafe { v128_store(out.as_mut_ptr().cast(), v) };
        }
    }
    #[inline(always)]
    fn load_f32(self, x: &[u8; 4 * LANES]) -> Quad {
        each!(|i| load(x, i))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 2 * LANES]) -> Quad {
        each!(|i| i32x4_shl(load_u16(x, i), 16))
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 2 * LANES]) -> Quad {
        each!(|i| {
            let bits = load_u16(x, i);
            let magnitude = v128_and(bits, i32x4_splat(0x7fff));
            let sign = i32x4_shl(v128_xor(bits, magnitude), 16);
            // The exponent's bias differs by 112, and a product with 2^112 is exact, of subnormal numbers too.
            let number = f32x4_mul(i32x4_shl(magnitude, 13), f32x4_splat(f32::from_bits((127 + 112) << 23)));
            let special = i32x4_gt(magnitude, i32x4_splat(0x7bff)); // infinite or NaN
            v128_or(number, v128_or(sign, v128_and(special, i32x4_splat(0x7f80_0000))))
        })
    }
    #[inline(always)]
    fn i8_lanes(self, x: u128) -> Quad {
        let x = u64x2(x as u64, (x >> 64) as u64);
        let (low, high) = (i16x8_extend_low_i8x16(x), i16x8_extend_high_i8x16(x));
        let parts = [
            i32x4_extend_low_i16x8(low),
            i32x4_extend_high_i16x8(low),
            i32x4_extend_low_i16x8(high),
            i32x4_extend_high_i16x8(high),
        ];
        each!(|i| f32x4_convert_i32x4(parts[i]))
    }
    #[inline(always)]
    fn add(self, a: Quad, b: Quad) -> Quad {
        each!(|i| f32x4_add(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn sub(self, a: Quad, b: Quad) -> Quad {
        each!(|i| f32x4_sub(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn mul(self, a: Quad, b: Quad) -> Quad {
        each!(|i| f32x4_mul(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn div(self, a: Quad, b: Quad) -> Quad {
        each!(|i| f32x4_div(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn fma(self, a: Quad, b: Quad, c: Quad) -> Quad {
        each!(|i| fma(a.0[i], b.0[i], c.0[i]))
    }
    #[inline(always)]
    fn larger(self, a: Quad, b: Quad) -> Quad {
        each!(|i| larger(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn smaller(self, a: Quad, b: Quad) -> Quad {
        each!(|i| f32x4_pmin(b.0[i], a.0[i]))
    }
    #[inline(always)]
    fn pow2(self, n: Quad) -> Quad {
        let k = self.add(n, self.splat(POW2_BIAS));
        each!(|i| i32x4_shl(k.0[i], 23))
    }
    #[inline(always)]
    fn sum(self, v: Quad) -> f32 {
        tree(v, |a, b| f32x4_add(a, b))
    }
    #[inline(always)]
    fn largest(self, v: Quad) -> f32 {
        tree(v, larger)
    }
    #[inline(always)]
    fn byte_products<const H: usize, const W: usize>(
        self,
        x: &[[u8; 4 * LANES]],
        stride: usize,
        y: [&[[i8; 4]]; H],
        offset: [i32; H],
        _ahead: &mut Ahead,
    ) -> [[Quad; W]; H] {
        // Even and odd bytes become 16-bit numbers: pairs of products are added in 32 bits.
        let y = y.map(|codes| &codes[..y[0].len()]);
        let mut sums = [[[i32x4_splat(0); 4]; W]; H];
        for g in 0..y[0].len() {
            let x = &x[g * stride..][..W];
            for h in 0..H {
                let y = i32x4_splat(i32::from_le_bytes(y[h][g].map(|y| y as u8)));
                let (even_y, odd_y) = (i16x8_shr(i16x8_shl(y, 8), 8), i16x8_shr(y, 8));
                for w in 0..W {
                    for i in 0..4 {
                        let x = load(&x[w], i);
                        let even = i32x4_dot_i16x8(v128_and(x, i16x8_splat(0xff)), even_y);
                        let odd = i32x4_dot_i16x8(u16x8_shr(x, 8), odd_y);
                        sums[h][w][i] = i32x4_add(sums[h][w][i], i32x4_add(even, odd));
                    }
                }
            }
        }
        std::array::from_fn(|h| {
            std::array::from_fn(|w| each!(|i| f32x4_convert_i32x4(i32x4_sub(sums[h][w][i], i32x4_splat(offset[h])))))
        })
    }
}
