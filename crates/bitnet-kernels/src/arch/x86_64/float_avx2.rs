//! [`Lanes`] on AVX2, FMA and F16C: two registers of eight.

use crate::ahead::Ahead;
use crate::lanes::{Kernel, LANES, Lanes, POW2_BIAS};
use std::arch::x86_64::*;

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// The tier, if the processor has it.
    #[inline]
    pub(crate) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c"))
            .then_some(Avx2(()))
    }

    /// Runs `kernel` in a function that is compiled for this tier.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn enter<K: Kernel>(lanes: Avx2, kernel: K) -> K::Output {
            kernel.run(lanes)
        }
        // SAFETY: `self` exists, so the processor has the features.
        unsafe { enter(self, kernel) }
    }
}

/// Lanes 0..8 and 8..16.
#[derive(Clone, Copy)]
pub(crate) struct Pair(__m256, __m256);

/// Wraps one intrinsic call for both halves.
macro_rules! both {
    ($f:ident, $($v:expr),+) => {
        // SAFETY: the token exists, so the processor has the features.
        unsafe { Pair($f($($v.0),+), $f($($v.1),+)) }
    };
}

impl Lanes for Avx2 {
    type V = Pair;
    const ACCUMULATORS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> Pair {
        // SAFETY: the token exists, so the processor has the features.
        let v = unsafe { _mm256_set1_ps(x) };
        Pair(v, v)
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Pair {
        // SAFETY: `x` is readable for sixteen floats.
        unsafe { Pair(_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))) }
    }
    #[inline(always)]
    fn store(self, v: Pair, out: &mut [f32; LANES]) {
        // SAFETY: `out` is writable for sixteen floats.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), v.0);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), v.1);
        }
    }
    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: a hint; it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[inline(always)]
    fn load_f32(self, x: &[u8; 4 * LANES]) -> Pair {
        // SAFETY: `x` is readable for sixteen floats; the loads need no alignment.
        unsafe {
            let p = x.as_ptr().cast::<f32>();
            Pair(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8)))
        }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 2 * LANES]) -> Pair {
        // SAFETY: `x` is readable for 32 bytes; the loads need no alignment.
        unsafe {
            let p = x.as_ptr().cast::<__m128i>();
            let wide = |p| _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)));
            Pair(_mm256_castsi256_ps(wide(p)), _mm256_castsi256_ps(wide(p.add(1))))
        }
    }
    #[inline(always)]
    fn i8_lanes(self, x: u128) -> Pair {
        // SAFETY: the token exists, so the processor has the features.
        unsafe {
            let low = _mm256_cvtepi8_epi32(_mm_cvtsi64_si128(x as i64));
            let high = _mm256_cvtepi8_epi32(_mm_cvtsi64_si128((x >> 64) as i64));
            Pair(_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high))
        }
    }
    #[inline(always)]
    fn store_lowest_bytes(self, v: Pair, out: &mut [i8; LANES]) {
        // SAFETY: `out` is writable for sixteen bytes.
        unsafe {
            let mask = _mm256_set1_epi32(0xff);
            let low = _mm256_and_si256(_mm256_castps_si256(v.0), mask);
            let high = _mm256_and_si256(_mm256_castps_si256(v.1), mask);
            let words = _mm256_packus_epi32(low, high); // lanes 0..4, 8..12 | 4..8, 12..16
            let bytes = _mm256_packus_epi16(words, words);
            let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 0, 0, 0, 0));
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_castsi256_si128(bytes));
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 2 * LANES]) -> Pair {
        // SAFETY: `x` is readable for 32 bytes; the loads need no alignment.
        unsafe {
            let p = x.as_ptr().cast::<__m128i>();
            Pair(_mm256_cvtph_ps(_mm_loadu_si128(p)), _mm256_cvtph_ps(_mm_loadu_si128(p.add(1))))
        }
    }
    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: Pair, b: Pair, c: Pair) -> Pair {
        both!(_mm256_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn larger(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    fn smaller(self, a: Pair, b: Pair) -> Pair {
        both!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    fn pow2(self, n: Pair) -> Pair {
        let k = self.add(n, self.splat(POW2_BIAS));
        // SAFETY: the token exists, so the processor has the features.
        unsafe {
            Pair(
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(k.0))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(k.1))),
            )
        }
    }
    #[inline(always)]
    fn sum(self, v: Pair) -> f32 {
        // SAFETY: the token exists, so the processor has the features.
        unsafe {
            let v = _mm256_add_ps(v.0, v.1);
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    fn largest(self, v: Pair) -> f32 {
        // SAFETY: the token exists, so the processor has the features.
        unsafe {
            let v = _mm256_max_ps(v.0, v.1);
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    fn sum_of_each<const N: usize>(self, v: &[Pair; N]) -> Pair {
        // SAFETY: the token exists, so the processor has the features.
        unsafe { Pair(fold_each::<false, N>(v), _mm256_setzero_ps()) }
    }
    #[inline(always)]
    fn largest_of_each<const N: usize>(self, v: &[Pair; N]) -> Pair {
        let least = self.splat(f32::NEG_INFINITY).0;
        // SAFETY: the token exists, so the processor has the features.
        unsafe { Pair(fold_each::<true, N>(v), least) }
    }
    #[inline(always)]
    fn byte_products<const H: usize, const W: usize>(
        self,
        x: &[[u8; 4 * LANES]],
        stride: usize,
        y: [&[[i8; 4]]; H],
        offset: [i32; H],
        ahead: &mut Ahead,
    ) -> [[Pair; W]; H] {
        // Even and odd bytes become 16-bit numbers: the products of bytes would not fit those that are added in pairs.
        // SAFETY: the token exists, so the processor has the features; the loads read the 64 bytes of `x`.
        unsafe {
            let low = _mm256_set1_epi16(0xff);
            let mut sums = [[[_mm256_setzero_si256(); 2]; W]; H];
            // No closures around instructions: they would not have the features, and may be called.
            let len = y[0].len();
            let mut codes: [&[[i8; 4]]; H] = [&[]; H];
            for h in 0..H {
                codes[h] = &y[h][..len];
            }
            for g in 0..len {
                ahead.step(self);
                let x = &x[g * stride..][..W];
                let mut y = [[_mm256_setzero_si256(); 2]; H];
                for h in 0..H {
                    let [a, b, c, d] = codes[h][g];
                    let four = _mm256_set1_epi32(i32::from_le_bytes([a as u8, b as u8, c as u8, d as u8]));
                    y[h] = [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(four)), _mm256_srai_epi16::<8>(four)];
                }
                for w in 0..W {
                    for half in 0..2 {
                        let x = _mm256_loadu_si256(x[w].as_ptr().add(32 * half).cast());
                        let (even, odd) = (_mm256_and_si256(x, low), _mm256_srli_epi16::<8>(x));
                        for h in 0..H {
                            let products =
                                _mm256_add_epi32(_mm256_madd_epi16(even, y[h][0]), _mm256_madd_epi16(odd, y[h][1]));
                            sums[h][w][half] = _mm256_add_epi32(sums[h][w][half], products);
                        }
                    }
                }
            }
            let mut out = [[Pair(_mm256_setzero_ps(), _mm256_setzero_ps()); W]; H];
            for h in 0..H {
                let offset = _mm256_set1_epi32(offset[h]);
                for w in 0..W {
                    let [low, high] = sums[h][w];
                    out[h][w] = Pair(
                        _mm256_cvtepi32_ps(_mm256_sub_epi32(low, offset)),
                        _mm256_cvtepi32_ps(_mm256_sub_epi32(high, offset)),
                    );
                }
            }
            out
        }
    }
}

/// The sums, or the largest lanes, of `N` vectors, at most eight, in their order; in the other lanes what those of no lanes are. All take
/// each step of the tree of [`Lanes::sum`] together.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
unsafe fn fold_each<const LARGEST: bool, const N: usize>(v: &[Pair; N]) -> __m256 {
    // SAFETY: the caller's.
    unsafe {
        let nothing = _mm256_set1_ps(if LARGEST { f32::NEG_INFINITY } else { 0.0 });
        let mut eights = [nothing; 8];
        for i in 0..N {
            eights[i] = join::<LARGEST>(v[i].0, v[i].1);
        }
        let mut fours = [nothing; 4]; // of vectors i and i + 4
        for i in 0..4 {
            let (low, high) = (eights[i], eights[i + 4]);
            fours[i] =
                join::<LARGEST>(_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high));
        }
        let mut twos = [nothing; 2];
        for i in 0..2 {
            let (low, high) = (_mm256_castps_pd(fours[2 * i]), _mm256_castps_pd(fours[2 * i + 1]));
            twos[i] = join::<LARGEST>(
                _mm256_castpd_ps(_mm256_unpacklo_pd(low, high)),
                _mm256_castpd_ps(_mm256_unpackhi_pd(low, high)),
            );
        }
        join::<LARGEST>(
            _mm256_shuffle_ps::<0b10_00_10_00>(twos[0], twos[1]),
            _mm256_shuffle_ps::<0b11_01_11_01>(twos[0], twos[1]),
        )
    }
}

/// `a + b`, or the larger.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
unsafe fn join<const LARGEST: bool>(a: __m256, b: __m256) -> __m256 {
    // SAFETY: the caller's.
    unsafe { if LARGEST { _mm256_max_ps(a, b) } else { _mm256_add_ps(a, b) } }
}
