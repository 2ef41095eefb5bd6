//! Rounding a matrix column by column, the error of each taken up by the columns that are still to come (Frantar et al. 2022,
//! GPTQ): what counts is not the weights but what they make of inputs.

use crate::vectorized::vectorized;
use rayon::prelude::*;

/// Added to the diagonal of a Hessian, as a share of its mean.
const DAMPING: f64 = 0.01;
/// Scales that are tried, in sixteenths of the mean magnitude.
const SCALES: std::ops::RangeInclusive<u32> = 8..=32;

/// How the error of one input spreads over those after it: the upper triangular `U` with `Uᵀ U = H⁻¹`.
pub(crate) struct Compensation {
    upper: Vec<f64>,
    /// Diagonal of the Hessian: how much each input matters.
    weights: Vec<f32>,
}

impl Compensation {
    /// From a Hessian `Σ x xᵀ` `[cols, cols]` of inputs.
    pub(crate) fn new(hessian: &[f32], cols: usize) -> Compensation {
        let mut h: Vec<f64> = hessian.iter().map(|&x| f64::from(x)).collect();
        let mean = (0..cols).map(|i| h[i * cols + i]).sum::<f64>() / cols as f64;
        // inputs that were never seen matter little, and leave the matrix regular
        let damping = (DAMPING * mean).max(1e-12);
        (0..cols).for_each(|i| h[i * cols + i] += damping);
        let weights = (0..cols).map(|i| h[i * cols + i] as f32).collect();
        factor(&mut h, cols);
        Compensation { upper: inverse(&h, cols), weights }
    }

    /// Rounds a matrix `[rows, cols]` to codes −1, 0, 1 and one scale. Later columns take up the errors of earlier ones.
    pub(crate) fn round(&self, values: &[f32]) -> (Vec<i8>, f32) {
        let cols = self.weights.len();
        let scale = self.scale(values);
        let mut codes = vec![0i8; values.len()];
        codes.par_chunks_mut(cols).zip(values.par_chunks(cols)).for_each(|(codes, values)| {
            let mut row: Vec<f64> = values.iter().map(|&w| f64::from(w)).collect();
            for j in 0..cols {
                codes[j] = code(row[j] as f32 / scale);
                let upper = &self.upper[j * cols..(j + 1) * cols];
                let error = (row[j] - f64::from(scale) * f64::from(codes[j])) / upper[j];
                let (rest, upper) = (&mut row[j + 1..], &upper[j + 1..]);
                vectorized(
                    #[inline(always)]
                    || rest.iter_mut().zip(upper).for_each(|(w, u)| *w -= error * u),
                );
            }
        });
        (codes, scale)
    }

    /// The scale with the least weighted error of plain rounding.
    fn scale(&self, values: &[f32]) -> f32 {
        let mean = values.iter().map(|w| f64::from(w.abs())).sum::<f64>() / values.len().max(1) as f64;
        let mean = (mean as f32).max(1e-5);
        let error = |scale: f32| -> f64 {
            let row = |row: &[f32]| -> f64 {
                let one = |(w, h): (&f32, &f32)| h * (w - scale * f32::from(code(w / scale))).powi(2);
                f64::from(row.iter().zip(&self.weights).map(one).sum::<f32>())
            };
            let errors: Vec<f64> = values.par_chunks(self.weights.len()).map(row).collect();
            errors.iter().sum() // in one order
        };
        let tried = SCALES.map(|sixteenths| mean * sixteenths as f32 / 16.0).map(|scale| (error(scale), scale));
        tried.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(mean, |(_, scale)| scale)
    }
}

fn code(x: f32) -> i8 {
    i8::from(x > 0.5) - i8::from(x < -0.5)
}

/// Cholesky from the last row upwards: the upper triangular `R` with `R Rᵀ = H`, in its place.
fn factor(h: &mut [f64], n: usize) {
    for j in (0..n).rev() {
        let (above, own) = h.split_at_mut(j * n);
        let own = &mut own[..n];
        let tail: f64 = own[j + 1..].iter().map(|x| x * x).sum();
        // rounding may leave a little less than nothing of what the damping guarantees
        own[j] = (own[j] - tail).max(f64::MIN_POSITIVE).sqrt();
        let own = &own[j..];
        above.par_chunks_mut(n).for_each(|row| {
            let row = &mut row[j..];
            let dot: f64 = row[1..].iter().zip(&own[1..]).map(|(a, b)| a * b).sum();
            row[0] = (row[0] - dot) / own[0];
        });
    }
}

/// The inverse of an upper triangular matrix (what is below its diagonal is not read).
fn inverse(r: &[f64], n: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; n * n];
    for i in (0..n).rev() {
        let (own, below) = inverse[i * n..].split_at_mut(n);
        own[i] = 1.0;
        for (k, row) in (i + 1..n).zip(below.chunks_exact(n)) {
            let factor = r[i * n + k];
            own[k..].iter_mut().zip(&row[k..]).for_each(|(x, y)| *x -= factor * y);
        }
        own[i..].iter_mut().for_each(|x| *x /= r[i * n + i]);
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Inputs `[64, 8]` that depend on each other, and their Hessian.
    fn inputs() -> (Vec<f32>, Vec<f32>) {
        let mut random = Random::new(9, 9);
        let (free, mix) = (random.normal(64 * 3, 1.0), random.normal(3 * 8, 1.0));
        let noise = random.normal(64 * 8, 0.2);
        let x: Vec<f32> = (0..64 * 8)
            .map(|i| noise[i] + (0..3).map(|k| free[i / 8 * 3 + k] * mix[k * 8 + i % 8]).sum::<f32>())
            .collect();
        let h = (0..64).map(|i| (0..64).map(|t| x[t * 8 + i / 8] * x[t * 8 + i % 8]).sum()).collect();
        (x, h)
    }

    #[test]
    fn the_factor_is_that_of_the_inverse() {
        let (_, h) = inputs();
        let Compensation { upper: u, weights } = Compensation::new(&h, 8);
        for i in 0..8 {
            for j in 0..8 {
                // Uᵀ U H = 1
                let product: f64 = (0..8)
                    .map(|k| {
                        let inverse: f64 = (0..8).map(|m| u[m * 8 + i] * u[m * 8 + k]).sum();
                        inverse * if k == j { f64::from(weights[k]) } else { f64::from(h[k * 8 + j]) }
                    })
                    .sum();
                let unit = f64::from(u8::from(i == j));
                assert!((product - unit).abs() < 1e-4, "[{i}, {j}] {product}");
                assert!(i <= j || u[i * 8 + j] == 0.0, "upper triangular");
            }
        }
    }

    #[test]
    fn outputs_are_nearer_than_by_plain_rounding() {
        let (x, h) = inputs();
        let w = Random::new(2, 1).normal(16 * 8, 1.0);
        let compensation = Compensation::new(&h, 8);
        let (codes, scale) = compensation.round(&w);
        let error = |codes: &dyn Fn(usize) -> f32| -> f32 {
            let one = |t: usize, r: usize| {
                (0..8).map(|c| x[t * 8 + c] * (w[r * 8 + c] - codes(r * 8 + c))).sum::<f32>().powi(2)
            };
            (0..64).flat_map(|t| (0..16).map(move |r| (t, r))).map(|(t, r)| one(t, r)).sum()
        };
        let compensated = error(&|i| scale * f32::from(codes[i]));
        let plain = error(&|i| scale * f32::from(code(w[i] / scale)));
        assert!(compensated < 0.7 * plain, "{compensated} {plain}");
    }
}
