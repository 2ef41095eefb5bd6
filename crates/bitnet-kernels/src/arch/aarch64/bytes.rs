//! Vectors of sixteen bytes, or of as many bits of wider integers.

use std::arch::aarch64::*;

pub(super) type V = uint8x16_t;

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn splat(x: u8) -> V {
    vdupq_n_u8(x)
}

/// # Safety
/// Sixteen bytes from `at` must be readable.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn load(at: *const u8) -> V {
    // SAFETY: the caller's promise.
    unsafe { vld1q_u8(at) }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn and(a: V, b: V) -> V {
    vandq_u8(a, b)
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn add8(a: V, b: V) -> V {
    vaddq_u8(a, b)
}

/// In every byte.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn shift_right<const N: i32>(v: V) -> V {
    vshrq_n_u8::<N>(v)
}

/// All ones where a bit is set.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn sixteen_bits(bits: [u8; 2]) -> V {
    let place = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    vtstq_u8(vcombine_u8(vdup_n_u8(bits[0]), vdup_n_u8(bits[1])), place)
}

/// The sums of the 32-bit lanes of four vectors.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn four_sums(v: [V; 4]) -> [i32; 4] {
    let [a, b, c, d] = v.map(|v| vreinterpretq_s32_u8(v));
    let sums = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
    let mut out = [0; 4];
    // SAFETY: the store fills the array.
    unsafe { vst1q_s32(out.as_mut_ptr(), sums) };
    out
}

/// `a * b + c`, rounded once.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn fma(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
    std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
}
