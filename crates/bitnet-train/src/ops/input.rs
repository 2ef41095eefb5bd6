//! What a linear layer sees: int8 activations and ternary weights. The forward pass computes with the rounded values, the
//! gradient passes the rounding unchanged (straight-through, formats.md §7).

use super::norm::inverse_rms;
use super::rows_per_task;
use crate::matmul::round;
use crate::vectorized::vectorized;
use bitnet_formats::{FormatError, Scales, Ternary};
use rayon::prelude::*;

/// `1.5 · 2²³`: adding it rounds a small number half to even.
const ROUND: f32 = 12_582_912.0;

/// How much of quantisation takes part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rounding {
    /// None: the float twin.
    Float,
    /// `x + share · (Q(x) − x)`, to fade quantisation in.
    Part(f32),
    /// All.
    Full,
}

impl Rounding {
    pub(crate) fn new(ternary: bool, share: f32) -> Rounding {
        match ternary {
            false => Rounding::Float,
            true if share < 1.0 => Rounding::Part(share),
            true => Rounding::Full,
        }
    }
}

/// Rows of bf16 values with a factor each: codes −127..=127, which bf16 holds exactly, or rounded floats.
#[derive(Default)]
pub(crate) struct Input {
    /// `[rows, cols]`
    pub(crate) values: Vec<u16>,
    /// What the values of a row are multiplied with.
    pub(crate) factors: Vec<f32>,
}

impl Input {
    /// The input made of rows of `cols` values, normed where there is a norm. Absmax int8 as the engine has it:
    /// `s = (1 / max(max|x|, 1e-5)) · 127`, `q = round_half_even(x s)`, factor `1 / s`.
    pub(crate) fn make(&mut self, x: &[f32], cols: usize, weight: Option<&[f32]>, rounding: Rounding) {
        self.values.resize(x.len(), 0);
        self.factors.resize(x.len() / cols, 0.0);
        let rows = rows_per_task(cols);
        let out = self.values.par_chunks_mut(rows * cols).zip(self.factors.par_chunks_mut(rows));
        out.zip(x.par_chunks(rows * cols)).for_each(|((values, factors), x)| {
            let mut normed = vec![0.0; cols];
            vectorized(
                #[inline(always)]
                || {
                    let rows = values.chunks_exact_mut(cols).zip(factors.iter_mut()).zip(x.chunks_exact(cols));
                    for ((values, factor), x) in rows {
                        match weight {
                            Some(weight) => {
                                let inverse = inverse_rms(x);
                                for ((normed, x), weight) in normed.iter_mut().zip(x).zip(weight) {
                                    *normed = (x * inverse) * weight;
                                }
                            }
                            None => normed.copy_from_slice(x),
                        }
                        *factor = quantize(&normed, rounding, values);
                    }
                },
            );
        });
    }
}

#[inline(always)]
fn quantize(x: &[f32], rounding: Rounding, out: &mut [u16]) -> f32 {
    if rounding == Rounding::Float {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = round(x);
        }
        return 1.0;
    }
    // magnitudes compare like their bits
    let largest = x.iter().fold(0, |largest, x| u32::max(largest, x.to_bits() & 0x7fff_ffff));
    let scale = (1.0 / f32::from_bits(largest).max(1e-5)) * 127.0;
    if let Rounding::Part(share) = rounding {
        for (out, &x) in out.iter_mut().zip(x) {
            let q = (x * scale + ROUND) - ROUND;
            *out = round(x + share * (q / scale - x));
        }
        return 1.0;
    }
    for (out, &x) in out.iter_mut().zip(x) {
        *out = round((x * scale + ROUND) - ROUND);
    }
    1.0 / scale
}

/// The values that a layer multiplies with, as bf16, and their common factor: absmean ternary codes by the very function
/// that loads and exports them, [`Ternary::absmean`].
pub(crate) fn ternary_values(
    weights: &[f32],
    rows: usize,
    cols: usize,
    rounding: Rounding,
) -> Result<(Vec<u16>, f32), FormatError> {
    if rounding == Rounding::Float {
        return Ok((weights.iter().map(|&w| round(w)).collect(), 1.0));
    }
    let Ternary { codes, scales, .. } = Ternary::absmean(weights, rows, cols)?;
    let scale = match scales {
        Scales::Tensor(scale) => scale,
        Scales::Groups { .. } => unreachable!("absmean has one scale"),
    };
    Ok(match rounding {
        Rounding::Part(share) => {
            let mixed = |(&w, &code): (&f32, &i8)| round(w + share * (f32::from(code) * scale - w));
            (weights.iter().zip(&codes).map(mixed).collect(), 1.0)
        }
        _ => (codes.iter().map(|&code| round(f32::from(code))).collect(), scale),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitnet_kernels::{
        Backend, Cpu, CpuOptions, DenseFormat, DenseWeights, NormWeight, TernaryScales, TernaryWeights,
    };

    fn floats(values: &[u16]) -> Vec<f32> {
        values.iter().map(|&x| f32::from_bits(u32::from(x) << 16)).collect()
    }

    /// An identity of ternary weights reads the quantised activations out of the engine.
    #[test]
    fn activations_are_those_of_the_engine() {
        let (rows, cols) = (8, 64);
        let mut random = crate::random::Random::new(3, 0);
        let mut x = random.normal(rows * cols, 2.0);
        x[cols..2 * cols].fill(0.0);
        x[2 * cols] = 1e4;
        x[3 * cols..4 * cols].fill(0.5);
        let weight = random.normal(cols, 1.0);
        let mut input = Input::default();
        input.make(&x, cols, Some(&weight), Rounding::Full);

        let cpu = Cpu::new(CpuOptions::default()).unwrap();
        let mut identity = vec![0i8; cols * cols];
        (0..cols).for_each(|i| identity[i * cols + i] = 1);
        let identity = TernaryWeights::pack(&identity, cols, cols, TernaryScales::Tensor(1.0)).unwrap();
        let identity = cpu.ternary(identity).unwrap();
        let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        let table = cpu.dense(DenseWeights { rows, cols, format: DenseFormat::F32, bytes: bytes.into() }).unwrap();
        let (mut float, mut out) = (cpu.rows(rows, cols).unwrap(), cpu.rows(rows, cols).unwrap());
        let mut quantized = cpu.quantized(rows, cols).unwrap();
        cpu.embed(&table, &[0, 1, 2, 3, 4, 5, 6, 7], 1.0, &mut float);
        cpu.norm_quantize(&float, Some(&NormWeight { weight, eps: 1e-5 }), &mut quantized);
        cpu.ternary_matmul(&quantized, &[&identity], &mut [&mut out]);
        let mut different = 0;
        for (i, (code, want)) in floats(&input.values).iter().zip(out.data()).enumerate() {
            assert_eq!(*code, code.round());
            // the engine sums squares in another order: now and then a value rounds to the neighbouring code
            let got = code * input.factors[i / cols];
            assert!((got - want).abs() <= input.factors[i / cols] * 1.01, "{i}: {got}, not {want}");
            different += usize::from((got - want).abs() > want.abs() * 1e-6);
        }
        assert!(different <= 2, "{different} codes differ");
    }

    #[test]
    fn by_hand() {
        let mut input = Input::default();
        // s = 127 / 2: 1 → 63.5 → 64 (even), −0.01 → −0.635 → −1
        input.make(&[2.0, 1.0, -0.01, 0.0], 4, None, Rounding::Full);
        assert_eq!((floats(&input.values), input.factors[0]), (vec![127.0, 64.0, -1.0, 0.0], 1.0 / 63.5));
        input.make(&[2.0, 1.0, -0.01, 0.0], 4, None, Rounding::Float);
        assert_eq!((floats(&input.values)[..2].to_vec(), input.factors[0]), (vec![2.0, 1.0], 1.0));
        // mean |w| = 0.5: 0.25 is the border and goes to zero
        let weights = [1.0, -0.25, 0.5, -0.25];
        let (codes, scale) = ternary_values(&weights, 1, 4, Rounding::Full).unwrap();
        assert_eq!((floats(&codes), scale), (vec![1.0, 0.0, 1.0, 0.0], 0.5));
        let (mixed, scale) = ternary_values(&weights, 1, 4, Rounding::Part(0.5)).unwrap();
        assert_eq!((floats(&mixed), scale), (vec![0.75, -0.125, 0.5, -0.125], 1.0));
    }
}
