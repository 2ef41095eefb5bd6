//! [`Lanes`] on AVX-512: one register.

use crate::ahead::Ahead;
use crate::lanes::{Kernel, LANES, Lanes, POW2_BIAS};
use std::arch::x86_64::*;

/// Proof that the processor has AVX-512 F, BW, VL, DQ and VNNI, and AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// The tier, if the processor has it.
    #[inline]
    pub(crate) fn new() -> Option<Self> {
        (super::float_avx2::Avx2::new().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni"))
        .then_some(Avx512(()))
    }

    /// Runs `kernel` in a function that is compiled for this tier.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        fn enter<K: Kernel>(lanes: Avx512, kernel: K) -> K::Output {
            kernel.run(lanes)
        }
        // SAFETY: `self` exists, so the processor has the features.
        unsafe { enter(self, kernel) }
    }
}

/// Sixteen floats, or a part of them in the lower half.
#[derive(Clone, Copy)]
pub(crate) struct Zmm(__m512);

impl Lanes for Avx512 {
    type V = Zmm;
    const ACCUMULATORS: usize = 16;

    #[inline(always)]
    fn splat(self, x: f32) -> Zmm {
        // SAFETY: the token exists, so the processor has the features. So everywhere below.
        unsafe { Zmm(_mm512_set1_ps(x)) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Zmm {
        // SAFETY: `x` is readable for sixteen floats.
        unsafe { Zmm(_mm512_loadu_ps(x.as_ptr())) }
    }
    #[inline(always)]
    fn store(self, v: Zmm, out: &mut [f32; LANES]) {
        // SAFETY: `out` is writable for sixteen floats.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v.0) }
    }
    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: a hint; it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[inline(always)]
    fn load_f32(self, x: &[u8; 4 * LANES]) -> Zmm {
        // SAFETY: `x` is readable for sixteen floats; the load needs no alignment.
        unsafe { Zmm(_mm512_loadu_ps(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 2 * LANES]) -> Zmm {
        // SAFETY: `x` is readable for 32 bytes; the load needs no alignment.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            Zmm(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    fn i8_lanes(self, x: u128) -> Zmm {
        // SAFETY: see `splat`.
        unsafe { Zmm(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_set_epi64x((x >> 64) as i64, x as i64)))) }
    }
    #[inline(always)]
    fn store_lowest_bytes(self, v: Zmm, out: &mut [i8; LANES]) {
        // SAFETY: `out` is writable for sixteen bytes.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_castps_si512(v.0))) }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 2 * LANES]) -> Zmm {
        // SAFETY: `x` is readable for 32 bytes; the load needs no alignment.
        unsafe { Zmm(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn add(self, a: Zmm, b: Zmm) -> Zmm {
        // SAFETY: see `splat`.
        unsafe { Zmm(_mm512_add_ps(a.0, b.0)) }
    }
    #[inline(always)]
    fn sub(self, a: Zmm, b: Zmm) -> Zmm {
        // SAFETY: see `splat`.
        unsafe { Zmm(_mm512_sub_ps(a.0, b.0)) }
    }
    #[inline(always)]
    fn mul(self, a: Zmm, b: Zmm) -> Zmm {
        // SAFETY: see `splat`.
        unsafe { Zmm(_mm512_mul_ps(a.0, b.0)) }
    }
    #[inline(always)]
    fn div(self, a: Zmm, b: Zmm) -> Zmm {
        // SAFETY: see `splat`.
        unsafe { Zmm(_mm512_div_ps(a.0, b.0)) }
    }
    #[inline(always)]
    fn fma(self, a: Zmm, b: Zmm, c: Zmm) -> Zmm {
        // SAFETY: see `splat`.
        unsafe { Zmm(_mm512_fmadd_ps(a.0, b.0, c.0)) }
    }
    #[inline(always)]
    fn larger(self, a: Zmm, b: Zmm) -> Zmm {
        // SAFETY: see `splat`.
        unsafe { Zmm(_mm512_max_ps(a.0, b.0)) }
    }
    #[inline(always)]
    fn smaller(self, a: Zmm, b: Zmm) -> Zmm {
        // SAFETY: see `splat`.
        unsafe { Zmm(_mm512_min_ps(a.0, b.0)) }
    }
    #[inline(always)]
    fn pow2(self, n: Zmm) -> Zmm {
        let k = self.add(n, self.splat(POW2_BIAS));
        // SAFETY: see `splat`.
        unsafe { Zmm(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(k.0)))) }
    }
    #[inline(always)]
    fn times_pow2(self, v: Zmm, n: Zmm) -> Zmm {
        // SAFETY: see `splat`.
        unsafe { Zmm(_mm512_scalef_ps(v.0, n.0)) }
    }
    #[inline(always)]
    fn sum(self, v: Zmm) -> f32 {
        // SAFETY: see `splat`.
        unsafe {
            let v = _mm256_add_ps(_mm512_castps512_ps256(v.0), _mm512_extractf32x8_ps::<1>(v.0));
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    fn largest(self, v: Zmm) -> f32 {
        // SAFETY: see `splat`.
        unsafe {
            let v = _mm256_max_ps(_mm512_castps512_ps256(v.0), _mm512_extractf32x8_ps::<1>(v.0));
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    fn sum_of_each<const N: usize>(self, v: &[Zmm; N]) -> Zmm {
        // SAFETY: see `splat`.
        unsafe { Zmm(_mm512_maskz_permutexvar_ps(lanes_of::<N>(), folded_lanes(), fold_each::<false, N>(v))) }
    }
    #[inline(always)]
    fn largest_of_each<const N: usize>(self, v: &[Zmm; N]) -> Zmm {
        let least = self.splat(f32::NEG_INFINITY).0;
        // SAFETY: see `splat`.
        unsafe { Zmm(_mm512_mask_permutexvar_ps(least, lanes_of::<N>(), folded_lanes(), fold_each::<true, N>(v))) }
    }
    #[inline(always)]
    fn byte_products<const H: usize, const W: usize>(
        self,
        x: &[[u8; 4 * LANES]],
        stride: usize,
        y: [&[[i8; 4]]; H],
        offset: [i32; H],
        ahead: &mut Ahead,
    ) -> [[Zmm; W]; H] {
        // SAFETY: see `splat`; the load reads the 64 bytes of `x`.
        unsafe {
            // Loops, because a closure in a large function may stay a call.
            let mut sums = [[_mm512_setzero_si512(); W]; H];
            let mut codes: [&[[i8; 4]]; H] = [&[]; H];
            for h in 0..H {
                sums[h] = [_mm512_set1_epi32(-offset[h]); W];
                codes[h] = &y[h][..y[0].len()];
            }
            for g in 0..y[0].len() {
                ahead.step(self);
                let x = &x[g * stride..][..W];
                for h in 0..H {
                    let y = _mm512_set1_epi32(bytemuck::cast(codes[h][g]));
                    for w in 0..W {
                        sums[h][w] = _mm512_dpbusd_epi32(sums[h][w], _mm512_loadu_si512(x[w].as_ptr().cast()), y);
                    }
                }
            }
            let mut out = [[Zmm(_mm512_setzero_ps()); W]; H];
            for h in 0..H {
                for w in 0..W {
                    out[h][w] = Zmm(_mm512_cvtepi32_ps(sums[h][w]));
                }
            }
            out
        }
    }
}

/// A bit for each of the first `N` lanes.
const fn lanes_of<const N: usize>() -> __mmask16 {
    assert!(N <= 8);
    (1 << N) - 1
}

/// Folds every vector by the tree of [`Lanes::sum`], all at once: sums, or `LARGEST`. Halves of two vectors come side by side,
/// then quarters of four, and so on. Where there are less than eight, the last takes the place of the others.
///
/// # Safety
/// The processor must have AVX-512 F. So everywhere below.
#[inline(always)]
unsafe fn fold_each<const LARGEST: bool, const N: usize>(v: &[Zmm; N]) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let mut quarters = [_mm512_setzero_ps(); 2];
        for i in 0..2 {
            let mut halves = [_mm512_setzero_ps(); 2];
            for j in 0..2 {
                let (a, b) = (v[(4 * i + 2 * j).min(N - 1)].0, v[(4 * i + 2 * j + 1).min(N - 1)].0);
                let lower = _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b);
                halves[j] = fold::<LARGEST>(lower, _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b));
            }
            let lower = _mm512_shuffle_f32x4::<0b10_00_10_00>(halves[0], halves[1]);
            quarters[i] = fold::<LARGEST>(lower, _mm512_shuffle_f32x4::<0b11_01_11_01>(halves[0], halves[1]));
        }
        let [a, b] = [_mm512_castps_pd(quarters[0]), _mm512_castps_pd(quarters[1])];
        let lower = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
        let pairs = fold::<LARGEST>(lower, _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
        let lower = _mm512_shuffle_ps::<0b10_00_10_00>(pairs, pairs);
        fold::<LARGEST>(lower, _mm512_shuffle_ps::<0b11_01_11_01>(pairs, pairs))
    }
}

/// `a + b`, or the larger.
#[inline(always)]
unsafe fn fold<const LARGEST: bool>(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { if LARGEST { _mm512_max_ps(a, b) } else { _mm512_add_ps(a, b) } }
}

/// Where [`fold_each`] leaves the vectors 0 to 7.
#[inline(always)]
unsafe fn folded_lanes() -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0) }
}
