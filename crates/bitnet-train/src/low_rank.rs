//! The matrix of low rank that takes up most of what rounding has changed.

use crate::random::Random;
use crate::vectorized::vectorized;
use rayon::prelude::*;

/// Rounds of subspace iteration. The share that is left of what does not belong to the largest directions falls with each.
const ROUNDS: usize = 16;

/// `A [rank, cols]` and `B [rows, rank]` whose product is nearest to `rest` `[rows, cols]` for inputs with second moments
/// `hessian = Σ x xᵀ` `[cols, cols]`: it minimises `Σ |(rest − B A) x|²`. The best `B` spans the leading eigenvectors of `R H Rᵀ`, found by
/// subspace iteration (Halko, Martinsson and Tropp 2011), and `A = Bᵀ R`.
pub(crate) fn nearest(rest: &[f32], hessian: &[f32], cols: usize, rank: usize) -> (Vec<f32>, Vec<f32>) {
    let rows = rest.len() / cols;
    // a direction is a row: [rank, rows]
    let mut basis: Vec<Vec<f32>> =
        (0..rank).map(|direction| Random::new(1, direction as u64).normal(rows, 1.0)).collect();
    orthonormalise(&mut basis);
    for _ in 0..ROUNDS {
        basis.par_iter_mut().for_each(|x| {
            let moments = times(hessian, &transposed_times(rest, x, cols));
            *x = times(rest, &moments);
        });
        orthonormalise(&mut basis);
    }
    let a = basis.iter().flat_map(|x| transposed_times(rest, x, cols)).collect();
    let b = (0..rows).flat_map(|row| basis.iter().map(move |x| x[row])).collect();
    (a, b)
}

/// `M x` for rows of `x.len()` values.
fn times(matrix: &[f32], x: &[f32]) -> Vec<f32> {
    let dot = |row: &[f32]| {
        vectorized(
            #[inline(always)]
            || crate::ops::dot(row, x),
        )
    };
    matrix.chunks_exact(x.len()).map(dot).collect()
}

/// `Mᵀ x`.
fn transposed_times(matrix: &[f32], x: &[f32], cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; cols];
    vectorized(
        #[inline(always)]
        || {
            for (row, x) in matrix.chunks_exact(cols).zip(x) {
                out.iter_mut().zip(row).for_each(|(out, w)| *out += x * w);
            }
        },
    );
    out
}

/// Gram–Schmidt, twice, in f64. A direction that has nothing of its own becomes zero.
fn orthonormalise(basis: &mut [Vec<f32>]) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    for index in 0..basis.len() {
        let (before, own) = basis.split_at_mut(index);
        let own = &mut own[0];
        let start = dot(own, own).sqrt();
        for other in before.iter().chain(&*before) {
            let share = dot(own, other);
            own.iter_mut().zip(other).for_each(|(x, o)| *x = (f64::from(*x) - share * f64::from(*o)) as f32);
        }
        let length = dot(own, own).sqrt();
        let factor = if length > 1e-6 * start { 1.0 / length } else { 0.0 };
        own.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(a: &[f32], b: &[f32], cols: usize, rank: usize) -> Vec<f32> {
        b.chunks_exact(rank)
            .flat_map(|b| (0..cols).map(move |c| b.iter().enumerate().map(|(k, b)| b * a[k * cols + c]).sum()))
            .collect()
    }

    fn identity(cols: usize) -> Vec<f32> {
        (0..cols * cols).map(|i| f32::from(u8::from(i % (cols + 1) == 0))).collect()
    }

    #[test]
    fn what_has_low_rank_comes_back() {
        let (rows, cols, rank) = (12, 9, 2);
        let mut random = Random::new(3, 3);
        let rest = product(&random.normal(rank * cols, 1.0), &random.normal(rows * rank, 1.0), cols, rank);
        for asked in [2, 3] {
            let (a, b) = nearest(&rest, &identity(cols), cols, asked);
            let back = product(&a, &b, cols, asked);
            assert!(rest.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-4), "rank {asked}");
        }
    }

    /// Singular values 5, 3, 1 on the axes: without weights the first axis is taken up, with large second inputs the second.
    #[test]
    fn the_largest_direction_is_taken_up() {
        let rest = [5.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 1.0];
        let taken = |hessian: &[f32]| {
            let (a, b) = nearest(&rest, hessian, 3, 1);
            product(&a, &b, 3, 1).iter().map(|x| x.round()).collect::<Vec<_>>()
        };
        assert_eq!(taken(&identity(3)), [5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let weighted = [1.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 1.0];
        assert_eq!(taken(&weighted), [0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn nothing_to_take_up() {
        let (a, b) = nearest(&[0.0; 6], &identity(3), 3, 2);
        assert!(product(&a, &b, 3, 2).iter().all(|x| *x == 0.0));
    }
}
