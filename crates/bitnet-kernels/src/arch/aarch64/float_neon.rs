//! [`Lanes`] on NEON: four registers of four.
//!
//! Linux, macOS and Windows start threads with a floating-point control register of zero: rounding to nearest, no flush
//! to zero, IEEE half precision.

use crate::ahead::Ahead;
use crate::lanes::{Kernel, LANES, Lanes, POW2_BIAS};
use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;

/// Proof that the processor has NEON.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    /// The tier, if the processor has it.
    #[inline]
    pub(crate) fn new() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }

    /// Runs `kernel` in a function that is compiled for this tier.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "neon")]
        fn enter<K: Kernel>(lanes: Neon, kernel: K) -> K::Output {
            kernel.run(lanes)
        }
        // SAFETY: `self` exists, so the processor has the features.
        unsafe { enter(self, kernel) }
    }
}

/// Lanes 0..4, 4..8, 8..12 and 12..16.
#[derive(Clone, Copy)]
pub(crate) struct Quad([float32x4_t; 4]);

/// Wraps one expression on each of the four parts.
macro_rules! each {
    (|$i:ident| $part:expr) => {
        // SAFETY: the token exists, so the processor has NEON; loads and stores are inside of their arrays.
        unsafe {
            Quad([
                {
                    let $i = 0;
                    $part
                },
                {
                    let $i = 1;
                    $part
                },
                {
                    let $i = 2;
                    $part
                },
                {
                    let $i = 3;
                    $part
                },
            ])
        }
    };
}

/// `if a > b { a } else { b }`: the instruction for the maximum treats NaN and zeros in its own way.
///
/// # Safety
/// The processor must have NEON.
#[inline(always)]
unsafe fn larger(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: see above.
    unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
}

/// Sixteen bits per lane, from 32 bytes.
///
/// # Safety
/// The processor must have NEON, and `part` be below 4.
#[inline(always)]
unsafe fn load_u16(x: &[u8; 2 * LANES], part: usize) -> uint16x4_t {
    // SAFETY: eight bytes at `8 part` are inside of the array.
    unsafe { vreinterpret_u16_u8(vld1_u8(x.as_ptr().add(8 * part))) }
}

impl Lanes for Neon {
    type V = Quad;
    const ACCUMULATORS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> Quad {
        each!(|_i| vdupq_n_f32(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Quad {
        each!(|i| vld1q_f32(x.as_ptr().add(4 * i)))
    }
    #[inline(always)]
    fn store(self, v: Quad, out: &mut [f32; LANES]) {
        for i in 0..4 {
            // SAFETY: the token exists, so the processor has NEON; four floats at `4 i` are inside of the array.
            unsafe { vst1q_f32(out.as_mut_ptr().add(4 * i), v.0[i]) };
        }
    }
    #[inline(always)]
    fn load_f32(self, x: &[u8; 4 * LANES]) -> Quad {
        each!(|i| vreinterpretq_f32_u8(vld1q_u8(x.as_ptr().add(16 * i))))
    }
    #[inline(always)]
    fn store_lowest_bytes(self, v: Quad, out: &mut [i8; LANES]) {
        // SAFETY: the token exists, so the processor has NEON; `out` is writable for sixteen bytes.
        unsafe {
            let [a, b, c, d] = v.0;
            let low = vmovn_high_u32(vmovn_u32(vreinterpretq_u32_f32(a)), vreinterpretq_u32_f32(b));
            let high = vmovn_high_u32(vmovn_u32(vreinterpretq_u32_f32(c)), vreinterpretq_u32_f32(d));
            vst1q_u8(out.as_mut_ptr().cast(), vmovn_high_u16(vmovn_u16(low), high));
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 2 * LANES]) -> Quad {
        each!(|i| vcvt_f32_f16(vreinterpret_f16_u16(load_u16(x, i))))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 2 * LANES]) -> Quad {
        each!(|i| vreinterpretq_f32_u32(vshll_n_u16::<16>(load_u16(x, i))))
    }
    #[inline(always)]
    fn i8_lanes(self, x: u128) -> Quad {
        // SAFETY: the token exists, so the processor has NEON.
        let [low, high] = [x as u64, (x >> 64) as u64].map(|x| unsafe { vmovl_s8(vcreate_s8(x)) });
        let part = |i| {
            // SAFETY: as above.
            unsafe {
                match i {
                    0 => vmovl_s16(vget_low_s16(low)),
                    1 => vmovl_high_s16(low),
                    2 => vmovl_s16(vget_low_s16(high)),
                    _ => vmovl_high_s16(high),
                }
            }
        };
        each!(|i| vcvtq_f32_s32(part(i)))
    }
    #[inline(always)]
    fn add(self, a: Quad, b: Quad) -> Quad {
        each!(|i| vaddq_f32(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn sub(self, a: Quad, b: Quad) -> Quad {
        each!(|i| vsubq_f32(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn mul(self, a: Quad, b: Quad) -> Quad {
        each!(|i| vmulq_f32(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn div(self, a: Quad, b: Quad) -> Quad {
        each!(|i| vdivq_f32(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn fma(self, a: Quad, b: Quad, c: Quad) -> Quad {
        each!(|i| vfmaq_f32(c.0[i], a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn larger(self, a: Quad, b: Quad) -> Quad {
        each!(|i| larger(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn smaller(self, a: Quad, b: Quad) -> Quad {
        each!(|i| vbslq_f32(vcltq_f32(a.0[i], b.0[i]), a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn pow2(self, n: Quad) -> Quad {
        let k = self.add(n, self.splat(POW2_BIAS));
        each!(|i| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vreinterpretq_s32_f32(k.0[i]))))
    }
    #[inline(always)]
    fn sum(self, v: Quad) -> f32 {
        // SAFETY: the token exists, so the processor has NEON.
        unsafe {
            let v = vaddq_f32(vaddq_f32(v.0[0], v.0[2]), vaddq_f32(v.0[1], v.0[3]));
            let v = vadd_f32(vget_low_f32(v), vget_high_f32(v));
            vget_lane_f32::<0>(v) + vget_lane_f32::<1>(v)
        }
    }
    #[inline(always)]
    fn largest(self, v: Quad) -> f32 {
        // SAFETY: the token exists, so the processor has NEON.
        unsafe {
            let v = larger(larger(v.0[0], v.0[2]), larger(v.0[1], v.0[3]));
            let v = larger(v, vextq_f32::<2>(v, v));
            vgetq_lane_f32::<0>(larger(v, vdupq_laneq_f32::<1>(v)))
        }
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
        // Bytes less 128 are signed: their products with int8 fit 16 bits. What is missing is 128 times the sum of `y`.
        let y = y.map(|codes| &codes[..y[0].len()]);
        // SAFETY: the token exists, so the processor has NEON; the loads are inside of the 64 bytes of `x`.
        let sums = unsafe {
            let middle = vdupq_n_u8(128);
            // Two neighbours hold the four products of a lane.
            let mut sums = [[[[vdupq_n_s32(0); 2]; 4]; W]; H];
            for g in 0..y[0].len() {
                ahead.step(self);
                let x = &x[g * stride..][..W];
                for w in 0..W {
                    for i in 0..4 {
                        let x = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(x[w].as_ptr().add(16 * i)), middle));
                        for h in 0..H {
                            let y = vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(y[h][g].map(|y| y as u8))));
                            let sums = &mut sums[h][w][i];
                            sums[0] = vpadalq_s16(sums[0], vmull_s8(vget_low_s8(x), vget_low_s8(y)));
                            sums[1] = vpadalq_s16(sums[1], vmull_high_s8(x, y));
                        }
                    }
                }
            }
            sums
        };
        std::array::from_fn(|h| {
            let missing = y[h].as_flattened().iter().map(|&y| i32::from(y)).sum::<i32>() << 7;
            std::array::from_fn(|w| {
                let sums = sums[h][w];
                each!(|i| {
                    let sum = vpaddq_s32(sums[i][0], sums[i][1]);
                    vcvtq_f32_s32(vaddq_s32(sum, vdupq_n_s32(missing - offset[h])))
                })
            })
        })
    }
}
