//! Per-token absmax int8, with the norm in front of it.

use crate::arch::quantize;
use crate::cpu::{RowScale, SUM_LEN, position};
use crate::{Cpu, NormWeight, Quantized, Rows, norm};

/// Values below this do not raise the scale further, so that a row of zeros has one.
const FLOOR: f32 = 1e-5;
/// `1.5 · 2²³`: adding it rounds a small number half to even, into the low bits of the sum.
const ROUND: f32 = 12_582_912.0;
/// Values that a thread should at least have to do.
const GRAIN: usize = 16 * 1024;

/// RMSNorm (or none), then `s = (1 / max(max|x|, 1e-5)) · 127` and `q = round_half_even(x s)` for every row. Torch rounds
/// the reciprocal and the product, and a scale that is one ulp off decides ties differently: greedy texts follow the
/// reference much longer with its own definition.
///
/// The normed row is not stored: its values `(x · inverse_rms) · weight` are computed for the maximum and again for the
/// codes. A row with a NaN or infinite value gets codes 0 and the scale NaN, so that whatever is computed from it is
/// NaN and found by those who look at the logits.
pub(crate) fn run(cpu: &Cpu, x: &Rows, norm: Option<&NormWeight>, out: &mut Quantized) {
    assert_eq!(x.cols(), out.cols(), "columns of input and output");
    if let Some(norm) = norm {
        assert_eq!(norm.weight.len(), x.cols(), "length of the norm");
    }
    out.set_len(x.len());
    let (stride, grain) = (out.stride(), GRAIN / x.cols().max(1));
    let (codes, scales, sums) = out.parts_mut();
    let body = |row: usize, codes: &mut [i8], scale: &mut [RowScale], sums: &mut [i32], _: &mut [()]| {
        let norm = norm.map(|norm| (norm::inverse_rms(cpu.isa(), x.row(row), norm.eps), &norm.weight[..]));
        scale[0] = quantize(cpu.isa(), x.row(row), norm, codes, sums);
    };
    let arrays = ((codes, stride), (scales, 1), (sums, stride / SUM_LEN), (&mut [][..], 0));
    cpu.pool().zip_rows(x.len(), grain, arrays, body);
}

/// One row; `norm` is the inverse root mean square and the weight. The only definition: tiers compile it for their
/// registers.
#[inline(always)]
pub(crate) fn body(x: &[f32], norm: Option<(f32, &[f32])>, codes: &mut [i8], sums: &mut [i32]) -> RowScale {
    match norm {
        Some((inverse_rms, weight)) => with_value(x, weight, |x, weight| (x * inverse_rms) * weight, codes, sums),
        None => with_value(x, x, |x, _| x, codes, sums),
    }
}

#[inline(always)]
fn with_value(
    x: &[f32],
    weight: &[f32],
    value: impl Fn(f32, f32) -> f32,
    codes: &mut [i8],
    sums: &mut [i32],
) -> RowScale {
    // Magnitudes compare like their bits, and NaN is above infinity, so that no NaN is lost.
    let max = x.iter().zip(weight).fold(0, |max, (&x, &w)| u32::max(max, value(x, w).to_bits() & 0x7fff_ffff));
    let max = f32::from_bits(max);
    if !max.is_finite() {
        codes.fill(0);
        sums.fill(0);
        return RowScale { scale: f32::NAN, sum: 0 };
    }
    let scale = (1.0 / max.max(FLOOR)) * 127.0;
    let mut total = 0;
    for (index, (x, weight)) in x.chunks(SUM_LEN).zip(weight.chunks(SUM_LEN)).enumerate() {
        let start = position(index * SUM_LEN);
        let codes = &mut codes[start..start + x.len()]; // what follows the last column stays zero
        let mut sum = 0;
        for ((code, &x), &w) in codes.iter_mut().zip(x).zip(weight) {
            // |value · scale| ≤ 127 · (1 + 2⁻²²): the code needs no clamp.
            let rounded = (value(x, w) * scale + ROUND).to_bits() as i32 - ROUND.to_bits() as i32;
            *code = rounded as i8;
            sum += rounded;
        }
        sums[index] = sum;
        total += sum;
    }
    RowScale { scale, sum: total }
}
