//! Quantisation of a row, compiled for the registers of a tier. There are no intrinsics: every step is exact or rounds
//! as IEEE says, so the compiler's vectors give the scalar bits.

use crate::cpu::RowScale;
use crate::quantize::body;

/// # Safety
/// The processor must have AVX-512 F, BW, VL and DQ.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(crate) unsafe fn avx512(x: &[f32], norm: Option<(f32, &[f32])>, codes: &mut [i8], sums: &mut [i32]) -> RowScale {
    body(x, norm, codes, sums)
}
