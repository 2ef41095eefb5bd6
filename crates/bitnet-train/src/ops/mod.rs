//! The steps of the network between its matrix products, forwards and backwards: functions over slices, parallel over rows.

mod attention;
mod cross_entropy;
mod gate;
mod heads;
mod input;
mod norm;

pub(crate) use attention::{AttentionShape, attend, attend_backward, attend_in_f32};
pub(crate) use cross_entropy::{CrossEntropy, SoftTargets};
pub(crate) use gate::{Activation, gate, gate_backward};
pub(crate) use heads::{Rotations, join_heads, split_heads};
pub(crate) use input::{Input, Rounding, ternary_values};
pub(crate) use norm::{EPS as NORM_EPS, norm, norm_backward};

/// Values that a task should at least have to do.
const GRAIN: usize = 16 * 1024;

/// Rows of `cols` values per task.
fn rows_per_task(cols: usize) -> usize {
    (GRAIN / cols.max(1)).max(1)
}

/// `e^x` by a polynomial, relative error below 3e-7, in operations that compilers make vectors of; below −87 as at −87.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to whole numbers
    let x = if x > -87.0 { x } else { -87.0 };
    let x = if x < 88.0 { x } else { 88.0 };
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4; // ln 2 in two parts
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    // n + 127 stands in the low bits of the sum and is shifted into the exponent
    y * f32::from_bits((n + (8_388_608.0 + 127.0)).to_bits() << 23)
}

/// The sum of some values, in sixteen lanes, which compilers make vectors of; so do all of these.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<16>();
    let mut lanes = [0.0; 16];
    for chunk in chunks {
        for j in 0..16 {
            lanes[j] += chunk[j];
        }
    }
    lanes.iter().chain(rest).sum()
}

/// `Σ x y` over the length of `x`.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<16>(), y[..x.len()].as_chunks::<16>());
    let mut lanes = [0.0; 16];
    for (x, y) in x.iter().zip(y) {
        for j in 0..16 {
            lanes[j] += x[j] * y[j];
        }
    }
    lanes.iter().sum::<f32>() + x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum::<f32>()
}

/// `Σ x y z` over the length of `x`.
#[inline(always)]
pub(crate) fn triple(x: &[f32], y: &[f32], z: &[f32]) -> f32 {
    let (y, z) = (&y[..x.len()], &z[..x.len()]);
    let ((x, x_rest), (y, y_rest), (z, z_rest)) = (x.as_chunks::<16>(), y.as_chunks::<16>(), z.as_chunks::<16>());
    let mut lanes = [0.0; 16];
    for ((x, y), z) in x.iter().zip(y).zip(z) {
        for j in 0..16 {
            lanes[j] += x[j] * y[j] * z[j];
        }
    }
    let rest = x_rest.iter().zip(y_rest).zip(z_rest).map(|((x, y), z)| x * y * z);
    lanes.iter().sum::<f32>() + rest.sum::<f32>()
}

/// The largest of some values.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_a_few_ulps() {
        for i in -8600..=8800 {
            let x = i as f32 / 100.0;
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) / want - 1.0).abs() < 3e-7, "{x}: {} {want}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn reductions() {
        let values: Vec<f32> = (0..37).map(|i| ((i * 7) % 37) as f32).collect();
        assert_eq!(sum(&values), 666.0);
        assert_eq!(super::dot(&values, &values), 16_206.0);
        assert_eq!(triple(&values, &[2.0; 37], &[0.5; 37]), 666.0);
        assert_eq!(largest(&values), 36.0);
        assert_eq!(largest(&[-2.0, -1.0]), -1.0);
    }

    /// Compares `gradient` of `objective` at `values` with central differences.
    pub(crate) fn check_gradient(values: &[f32], gradient: &[f32], tolerance: f64, objective: impl Fn(&[f32]) -> f64) {
        assert_eq!(values.len(), gradient.len());
        for i in 0..values.len() {
            let at = |x: f32| {
                let mut moved = values.to_vec();
                moved[i] = x;
                objective(&moved)
            };
            let (high, low) = (values[i] + 1e-2, values[i] - 1e-2);
            let want = (at(high) - at(low)) / f64::from(high - low);
            let got = f64::from(gradient[i]);
            assert!((got - want).abs() <= tolerance * (1.0 + want.abs()), "[{i}]: {got}, not {want}");
        }
    }

    /// `Σ a b` in f64.
    pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    }
}
