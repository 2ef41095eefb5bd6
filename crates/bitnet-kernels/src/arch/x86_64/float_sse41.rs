//! [`Lanes`] on SSE4.1: four registers of four. Without FMA and F16C, both are computed from integers and binary64, to
//! the same bits.

use crate::ahead::Ahead;
use crate::lanes::{Kernel, LANES, Lanes, POW2_BIAS};
use std::arch::x86_64::*;

/// Proof that the processor has SSE4.1.
#[derive(Clone, Copy)]
pub(crate) struct Sse41(());

impl Sse41 {
    /// The tier, if the processor has it.
    #[inline]
    pub(crate) fn new() -> Option<Self> {
        is_x86_feature_detected!("sse4.1").then_some(Sse41(()))
    }

    /// Runs `kernel` in a function that is compiled for this tier.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "sse4.1")]
        fn enter<K: Kernel>(lanes: Sse41, kernel: K) -> K::Output {
            kernel.run(lanes)
        }
        // SAFETY: `self` exists, so the processor has the features.
        unsafe { enter(self, kernel) }
    }
}

/// `a b + c`, rounded once.
///
/// The product is exact in binary64. The sum is rounded there *to odd*: towards zero, and then the last bit is set if that
/// was not exact. As binary64 has more than two bits beyond those of binary32, rounding the odd result to binary32
/// gives what rounding the exact sum gives (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
///
/// # Safety
/// The processor must have SSE4.1.
#[inline(always)]
pub(super) unsafe fn fma(a: __m128, b: __m128, c: __m128) -> __m128 {
    // SAFETY: the caller's promise.
    unsafe {
        let high = fma_low(_mm_movehl_ps(a, a), _mm_movehl_ps(b, b), _mm_movehl_ps(c, c));
        _mm_movelh_ps(fma_low(a, b, c), high)
    }
}

/// The lower two lanes.
#[inline(always)]
unsafe fn fma_low(a: __m128, b: __m128, c: __m128) -> __m128 {
    // SAFETY: the caller's promise.
    unsafe {
        let product = _mm_mul_pd(_mm_cvtps_pd(a), _mm_cvtps_pd(b));
        let c = _mm_cvtps_pd(c);
        let sum = _mm_add_pd(product, c);
        // What the sum lacks, exactly (Knuth). NaN if the sum is not finite.
        let c_part = _mm_sub_pd(sum, product);
        let lack = _mm_add_pd(_mm_sub_pd(product, _mm_sub_pd(sum, c_part)), _mm_sub_pd(c, c_part));
        let inexact = _mm_castpd_si128(_mm_cmplt_pd(_mm_setzero_pd(), _mm_andnot_pd(_mm_set1_pd(-0.0), lack)));
        // All ones where the sum was rounded away from zero: its bits are one too many.
        let signs = _mm_castpd_si128(_mm_xor_pd(sum, lack));
        let away = _mm_srai_epi32::<31>(_mm_shuffle_epi32::<0b11_11_01_01>(signs));
        let down = _mm_add_epi64(_mm_castpd_si128(sum), _mm_and_si128(away, inexact));
        let odd = _mm_or_si128(down, _mm_srli_epi64::<63>(inexact));
        _mm_cvtpd_ps(_mm_castsi128_pd(odd))
    }
}

/// Lanes 0..4, 4..8, 8..12, 12..16.
#[derive(Clone, Copy)]
pub(crate) struct Quad([__m128; 4]);

/// Calls one function for all quarters.
macro_rules! all {
    ($f:expr, $($v:expr),+) => {{
        // SAFETY: the token exists, so the processor has the features.
        #[allow(unused_unsafe)]
        unsafe { Quad([$f($($v.0[0]),+), $f($($v.0[1]),+), $f($($v.0[2]),+), $f($($v.0[3]),+)]) }
    }};
}

/// Makes a vector of a function of the quarter's number.
macro_rules! quarters {
    ($f:expr) => {{
        // SAFETY: the token exists, so the processor has the features; what is read is in the array.
        #[allow(unused_unsafe)]
        unsafe {
            Quad([$f(0), $f(1), $f(2), $f(3)])
        }
    }};
}

/// Reduces by the tree of [`Lanes::sum`].
macro_rules! tree {
    ($v:expr, $all:ident, $one:ident) => {{
        let v = $v.0;
        // SAFETY: the token exists, so the processor has the features.
        unsafe {
            let v = $all($all(v[0], v[2]), $all(v[1], v[3]));
            let v = $all(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32($one(v, _mm_movehdup_ps(v)))
        }
    }};
}

impl Lanes for Sse41 {
    type V = Quad;
    const ACCUMULATORS: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> Quad {
        // SAFETY: the token exists, so the processor has the features. So everywhere below.
        unsafe { Quad([_mm_set1_ps(x); 4]) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Quad {
        quarters!(|i: usize| _mm_loadu_ps(x.as_ptr().add(4 * i)))
    }
    #[inline(always)]
    fn store(self, v: Quad, out: &mut [f32; LANES]) {
        for (out, v) in out.as_chunks_mut::<4>().0.iter_mut().zip(v.0) {
            // SAFETY: `out` is writable for four floats.
            unsafe { _mm_storeu_ps(out.as_mut_ptr(), v) };
        }
    }
    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: a hint; it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[inline(always)]
    fn load_f32(self, x: &[u8; 4 * LANES]) -> Quad {
        quarters!(|i: usize| _mm_loadu_ps(x.as_ptr().add(16 * i).cast()))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 2 * LANES]) -> Quad {
        quarters!(|i: usize| {
            let bits = _mm_cvtepu16_epi32(_mm_loadl_epi64(x.as_ptr().add(8 * i).cast()));
            _mm_castsi128_ps(_mm_slli_epi32::<16>(bits))
        })
    }
    #[inline(always)]
    fn i8_lanes(self, x: u128) -> Quad {
        quarters!(|i: usize| _mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_cvtsi32_si128((x >> (32 * i)) as i32))))
    }
    #[inline(always)]
    fn store_lowest_bytes(self, v: Quad, out: &mut [i8; LANES]) {
        // SAFETY: the token exists, so the processor has the features; `out` is writable for sixteen bytes.
        unsafe {
            let mut bytes = [_mm_set1_epi32(0xff); 4];
            for i in 0..4 {
                bytes[i] = _mm_and_si128(_mm_castps_si128(v.0[i]), bytes[i]);
            }
            let words = [_mm_packus_epi32(bytes[0], bytes[1]), _mm_packus_epi32(bytes[2], bytes[3])];
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm_packus_epi16(words[0], words[1]));
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 2 * LANES]) -> Quad {
        quarters!(|i: usize| {
            let bits = _mm_cvtepu16_epi32(_mm_loadl_epi64(x.as_ptr().add(8 * i).cast()));
            let magnitude = _mm_and_si128(bits, _mm_set1_epi32(0x7fff));
            let sign = _mm_slli_epi32::<16>(_mm_xor_si128(bits, magnitude));
            // The exponent's bias differs by 112, and a product with 2^112 is exact, of subnormal numbers too.
            let number = _mm_castsi128_ps(_mm_slli_epi32::<13>(magnitude));
            let number = _mm_mul_ps(number, _mm_set1_ps(f32::from_bits((127 + 112) << 23)));
            let special = _mm_and_si128(
                _mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x7bff)), // infinite or NaN
                _mm_set1_epi32(0x7f80_0000),
            );
            _mm_or_ps(number, _mm_castsi128_ps(_mm_or_si128(sign, special)))
        })
    }
    #[inline(always)]
    fn add(self, a: Quad, b: Quad) -> Quad {
        all!(_mm_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: Quad, b: Quad) -> Quad {
        all!(_mm_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Quad, b: Quad) -> Quad {
        all!(_mm_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: Quad, b: Quad) -> Quad {
        all!(_mm_div_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: Quad, b: Quad, c: Quad) -> Quad {
        all!(fma, a, b, c)
    }
    #[inline(always)]
    fn larger(self, a: Quad, b: Quad) -> Quad {
        all!(_mm_max_ps, a, b)
    }
    #[inline(always)]
    fn smaller(self, a: Quad, b: Quad) -> Quad {
        all!(_mm_min_ps, a, b)
    }
    #[inline(always)]
    fn pow2(self, n: Quad) -> Quad {
        let k = self.add(n, self.splat(POW2_BIAS));
        all!(|k| _mm_castsi128_ps(_mm_slli_epi32::<23>(_mm_castps_si128(k))), k)
    }
    #[inline(always)]
    fn sum(self, v: Quad) -> f32 {
        tree!(v, _mm_add_ps, _mm_add_ss)
    }
    #[inline(always)]
    fn largest(self, v: Quad) -> f32 {
        tree!(v, _mm_max_ps, _mm_max_ss)
    }
    #[inline(always)]
    fn byte_products<const H: usize, const W: usize>(
        self,
        x: &[[u8; 4 * LANES]],
        stride: usize,
        y: [&[[i8; 4]]; H],
        offset: [i32; H],
        ahead: &mut Ahead,
    ) -> [[Quad; W]; H] {
        // As with AVX2: even and odd bytes become 16-bit numbers, and no closures around instructions.
        let len = y[0].len();
        // SAFETY: the token exists, so the processor has the features; the loads read the 64 bytes of `x`.
        unsafe {
            let low = _mm_set1_epi16(0xff);
            let mut sums = [[[_mm_setzero_si128(); 4]; W]; H];
            for g in 0..len {
                ahead.step(self);
                let x = &x[g * stride..][..W];
                for h in 0..H {
                    let [a, b, c, d] = y[h][g];
                    let y = _mm_set1_epi32(i32::from_le_bytes([a as u8, b as u8, c as u8, d as u8]));
                    let (even_y, odd_y) = (_mm_srai_epi16::<8>(_mm_slli_epi16::<8>(y)), _mm_srai_epi16::<8>(y));
                    for w in 0..W {
                        for i in 0..4 {
                            let x = _mm_loadu_si128(x[w].as_ptr().add(16 * i).cast());
                            let even = _mm_madd_epi16(_mm_and_si128(x, low), even_y);
                            let odd = _mm_madd_epi16(_mm_srli_epi16::<8>(x), odd_y);
                            sums[h][w][i] = _mm_add_epi32(sums[h][w][i], _mm_add_epi32(even, odd));
                        }
                    }
                }
            }
            let mut out = [[Quad([_mm_setzero_ps(); 4]); W]; H];
            for h in 0..H {
                let offset = _mm_set1_epi32(offset[h]);
                for w in 0..W {
                    for i in 0..4 {
                        out[h][w].0[i] = _mm_cvtepi32_ps(_mm_sub_epi32(sums[h][w][i], offset));
                    }
                }
            }
            out
        }
    }
}
