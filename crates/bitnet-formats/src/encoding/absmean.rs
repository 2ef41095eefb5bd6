//! Absmean: how master weights become ternary (formats.md §4.2).

use super::{Scales, Ternary};
use crate::FormatError;

impl Ternary {
    /// Absmean ternarisation of master weights: `m = max(mean|W|, 1e-5)`, `code = clamp(round_half_even(W * (1 / m)),
    /// −1, 1)`; the scale is `m`. As transformers computes it, except that the mean is taken in f64 in a fixed order
    /// (torch's f32 mean depends on its vector width).
    ///
    /// # Errors
    /// Weights that are not finite, or not `rows * cols` of them.
    pub fn absmean(weights: &[f32], rows: usize, cols: usize) -> Result<Ternary, FormatError> {
        let error = |reason| FormatError::Encoding { encoding: "absmean".into(), reason };
        if rows.checked_mul(cols) != Some(weights.len()) {
            return Err(error(format!("{} weights given for a matrix of {rows} x {cols}", weights.len())));
        }
        let sum = sum_of_magnitudes(weights);
        if !sum.is_finite() {
            let at = weights.iter().position(|w| !w.is_finite()).unwrap_or(0);
            return Err(error(format!(
                "row {}, column {}: weight {} is not finite",
                at / cols,
                at % cols,
                weights[at]
            )));
        }
        let scale = ((sum / weights.len().max(1) as f64) as f32).max(1e-5);
        let inverse = 1.0 / scale;
        // clamp(round_half_even(x), −1, 1) without a call to round: ties at ±0.5 go to zero
        let code = |x: f32| (x > 0.5) as i8 - (x < -0.5) as i8;
        let codes = weights.iter().map(|&w| code(w * inverse)).collect();
        Ok(Ternary { rows, cols, codes, scales: Scales::Tensor(scale) })
    }
}

/// In 8 lanes, so that the additions need not wait for each other. (f64 cannot overflow here: a sum of f32 is not finite
/// only if one of them is not.)
fn sum_of_magnitudes(weights: &[f32]) -> f64 {
    let mut lanes = [0f64; 8];
    for chunk in weights.chunks(8) {
        for (lane, w) in lanes.iter_mut().zip(chunk) {
            *lane += w.abs() as f64;
        }
    }
    lanes.iter().sum()
}
