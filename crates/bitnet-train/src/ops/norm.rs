//! RMSNorm: `y = x / sqrt(mean(x²) + eps) · weight`.

use super::{dot, rows_per_task, triple};
use crate::vectorized::vectorized;
use rayon::prelude::*;

/// Added to the mean square in every norm.
pub(crate) const EPS: f32 = 1e-5;

#[inline(always)]
pub(super) fn inverse_rms(x: &[f32]) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + EPS).sqrt()
}

/// Norms rows of `weight.len()` values.
pub(crate) fn norm(x: &[f32], weight: &[f32], out: &mut [f32]) {
    let cols = weight.len();
    let step = cols * rows_per_task(cols);
    out.par_chunks_mut(step).zip(x.par_chunks(step)).for_each(|(out, x)| {
        vectorized(
            #[inline(always)]
            || {
                for (out, x) in out.chunks_exact_mut(cols).zip(x.chunks_exact(cols)) {
                    let (out, x) = (&mut out[..cols], &x[..cols]);
                    let inverse = inverse_rms(x);
                    for i in 0..cols {
                        out[i] = x[i] * inverse * weight[i];
                    }
                }
            },
        );
    });
}

/// Adds to `dx` and `dweight`. With `r = 1 / rms` and `g = dy · weight`: `dx = r (g − x r² mean(g x))`,
/// `dweight = Σ_rows dy x r`.
pub(crate) fn norm_backward(x: &[f32], weight: &[f32], dy: &[f32], dx: &mut [f32], dweight: &mut [f32]) {
    let cols = weight.len();
    let step = cols * rows_per_task(cols);
    let parts: Vec<Vec<f32>> = dx
        .par_chunks_mut(step)
        .zip(x.par_chunks(step))
        .zip(dy.par_chunks(step))
        .map(|((dx, x), dy)| {
            let mut dweight = vec![0.0; cols];
            vectorized(
                #[inline(always)]
                || {
                    for ((dx, x), dy) in dx.chunks_exact_mut(cols).zip(x.chunks_exact(cols)).zip(dy.chunks_exact(cols))
                    {
                        // one length for all, which spares the loop its checks
                        let (dx, x, dy) = (&mut dx[..cols], &x[..cols], &dy[..cols]);
                        let dweight = &mut dweight[..cols];
                        let inverse = inverse_rms(x);
                        let product = triple(x, weight, dy);
                        let shrink = inverse * inverse * product / cols as f32;
                        for i in 0..cols {
                            dx[i] += inverse * (dy[i] * weight[i] - x[i] * shrink);
                            dweight[i] += dy[i] * x[i] * inverse;
                        }
                    }
                },
            );
            dweight
        })
        .collect();
    // in one order, so that a run can be repeated
    for part in parts {
        dweight.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::{check_gradient, dot};
    use crate::random::Random;

    #[test]
    fn by_hand() {
        let mut y = [0.0; 2];
        norm(&[3.0, -4.0], &[1.0, 0.5], &mut y);
        let rms = (12.5f32 + EPS).sqrt();
        assert!((y[0] - 3.0 / rms).abs() < 1e-6 && (y[1] + 2.0 / rms).abs() < 1e-6);
    }

    #[test]
    fn gradients() {
        let mut random = Random::new(1, 1);
        let (x, weight, dy) = (random.normal(5 * 19, 1.0), random.normal(19, 1.0), random.normal(5 * 19, 1.0));
        let objective = |x: &[f32], weight: &[f32]| {
            let mut y = vec![0.0; x.len()];
            norm(x, weight, &mut y);
            dot(&y, &dy)
        };
        let (mut dx, mut dweight) = (vec![0.0; x.len()], vec![0.0; 19]);
        norm_backward(&x, &weight, &dy, &mut dx, &mut dweight);
        check_gradient(&x, &dx, 2e-3, |x| objective(x, &weight));
        check_gradient(&weight, &dweight, 2e-3, |weight| objective(&x, weight));
    }
}
