//! Muon (Jordan et al. 2024): the momentum of a matrix, made orthogonal. Its singular values become equal, so that directions
//! which few tokens speak for are learned as fast as the others.

use crate::matmul::{Operand, Store, Values, matmul_here};
use crate::vectorized::vectorized;

/// Decay of the momentum.
const MOMENTUM: f32 = 0.95;
/// Steps of the iteration towards an orthogonal matrix, and its polynomial `a x + b x³ + c x⁵`, which lifts small singular
/// values quickly and leaves all between about 0.7 and 1.2.
const STEPS: usize = 5;
const POLYNOMIAL: [f32; 3] = [3.4445, -4.775, 2.0315];
/// Root mean square of an update, with which learning rates and weight decays of AdamW serve (Liu et al. 2025).
const UPDATE_RMS: f32 = 0.2;

/// Adds the clipped gradient `factor · gradient` of a matrix `[rows, cols]` to its momentum, and moves the matrix by `−lr`
/// times the orthogonal matrix nearest to the momentum (as Nesterov looks ahead), after shrinking it to `keep` of itself.
pub(crate) fn step(
    [rows, cols]: [usize; 2],
    values: &mut [f32],
    gradient: &mut [f32],
    momentum: &mut [f32],
    factor: f32,
    keep: f32,
    lr: f32,
) {
    let mut update = vec![0.0; values.len()];
    let mut squares = 0f64;
    for ((update, g), m) in update.iter_mut().zip(gradient).zip(momentum) {
        *m = MOMENTUM * *m + factor * *g;
        *update = MOMENTUM * *m + factor * *g;
        squares += f64::from(*update) * f64::from(*update);
        *g = 0.0;
    }
    if squares > 0.0 {
        let inverse = (1.0 / squares.sqrt()) as f32;
        update.iter_mut().for_each(|x| *x *= inverse);
        orthogonal(rows, cols, &mut update);
    }
    let lr = lr * UPDATE_RMS * (rows.max(cols) as f32).sqrt();
    values.iter_mut().zip(&update).for_each(|(w, u)| *w = *w * keep - lr * u);
}

/// Brings a matrix `[rows, cols]` of norm at most 1 near to the orthogonal one with the same singular vectors: with
/// `S = X Xᵀ`, five times `X ← a X + (b S + c S²) X`. Of a tall matrix `Xᵀ X` is taken, which is smaller.
fn orthogonal(rows: usize, cols: usize, x: &mut Vec<f32>) {
    let [a, b, c] = POLYNOMIAL;
    let (tall, size) = (rows > cols, rows.min(cols));
    let (mut square, mut fourth) = (vec![0.0; size * size], vec![0.0; size * size]);
    let mut next = vec![0.0; x.len()];
    for _ in 0..STEPS {
        let lines = match tall {
            true => Operand::columns(Values::F32(x), rows, cols),
            false => Operand::rows(Values::F32(x), rows, cols),
        };
        matmul_here(&lines, &lines, Store::SET, &mut square);
        let symmetric = Operand::rows(Values::F32(&square), size, size);
        matmul_here(&symmetric, &symmetric, Store::SET, &mut fourth);
        vectorized(
            #[inline(always)]
            || fourth.iter_mut().zip(&square).for_each(|(y, x)| *y = b * x + c * *y),
        );
        let polynomial = Operand::rows(Values::F32(&fourth), size, size);
        match tall {
            // the polynomial is symmetric: X · P
            true => matmul_here(&Operand::rows(Values::F32(x), rows, cols), &polynomial, Store::SET, &mut next),
            false => matmul_here(&polynomial, &Operand::columns(Values::F32(x), rows, cols), Store::SET, &mut next),
        }
        vectorized(
            #[inline(always)]
            || next.iter_mut().zip(&*x).for_each(|(y, x)| *y += a * x),
        );
        std::mem::swap(x, &mut next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// `X Xᵀ` of the smaller side is near the unit matrix, and the singular vectors stay: `Xᵀ Y` is symmetric.
    #[test]
    fn singular_values_become_equal() {
        for (rows, cols) in [(24, 40), (40, 24), (32, 32)] {
            let start = Random::new(3, 3).normal(rows * cols, 0.01);
            let mut x = start.clone();
            let norm = x.iter().map(|x| x * x).sum::<f32>().sqrt();
            x.iter_mut().for_each(|x| *x /= norm);
            orthogonal(rows, cols, &mut x);
            let size = rows.min(cols);
            let at =
                |x: &[f32], line: usize, i: usize| if rows > cols { x[i * cols + line] } else { x[line * cols + i] };
            let dot = |a: &[f32], i: usize, b: &[f32], j: usize| -> f32 {
                (0..rows.max(cols)).map(|d| at(a, i, d) * at(b, j, d)).sum()
            };
            let trace = (0..size).map(|i| dot(&x, i, &x, i)).sum::<f32>() / size as f32;
            assert!((0.5..1.5).contains(&trace), "{trace}");
            if rows == cols {
                continue; // a square random matrix has singular values near zero, which stay smaller
            }
            for i in 0..size {
                for j in 0..size {
                    let (product, unit) = (dot(&x, i, &x, j), f32::from(u8::from(i == j)));
                    assert!((product - unit).abs() < 0.55, "{rows}x{cols} [{i}, {j}]: {product}");
                    let (right, left) = (dot(&start, i, &x, j), dot(&start, j, &x, i));
                    assert!((right - left).abs() < 0.05 * norm, "{right} {left}");
                }
            }
        }
    }

    #[test]
    fn by_hand() {
        // the momentum looks ahead; of a matrix with one entry only the sign stays, five times through the polynomial
        let (mut w, mut g, mut m) = ([1.0], [-3.0], [0.5]);
        step([1, 1], &mut w, &mut g, &mut m, 2.0, 0.9, 0.1);
        assert_eq!((m[0], g[0]), (0.95 * 0.5 - 6.0, 0.0));
        let sign = (0..5).fold(1f32, |x, _| 3.4445 * x - 4.775 * x.powi(3) + 2.0315 * x.powi(5));
        let moved = w[0] - 0.9;
        assert!((moved - 0.1 * 0.2 * sign).abs() < 0.06 * moved, "{moved}, {sign}");
        // nothing to learn moves nothing
        step([1, 1], &mut w, &mut g, &mut [0.0], 1.0, 1.0, 0.1);
        assert_eq!(w[0], 0.9 + moved);
    }
}
