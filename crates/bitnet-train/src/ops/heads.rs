//! Heads of queries, keys and values: rotary position embedding (NeoX pairing: element `i` of a head with element
//! `i + dim / 2`), and the change between rows of tokens and rows of heads.

use crate::vectorized::vectorized;
use rayon::prelude::*;

/// Sines and cosines of all positions.
pub(crate) struct Rotations {
    /// `[positions, dim / 2]`
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl Rotations {
    /// Angle of pair `i` at position `p`: `p · theta^(−2 i / dim)`, in f32 as the engine has it.
    pub(crate) fn new(positions: usize, dim: usize, theta: f32) -> Rotations {
        let half = dim / 2;
        let frequency = |i: usize| 1.0 / theta.powf((2 * i) as f32 / dim as f32);
        let angles = (0..positions).flat_map(|p| (0..half).map(move |i| p as f32 * frequency(i)));
        let (sin, cos) = angles.map(f32::sin_cos).unzip();
        Rotations { cos, sin, half }
    }

    #[inline(always)]
    fn rotate(&self, position: usize, back: f32, x: &[f32], out: &mut [f32]) {
        let half = self.half;
        let (cos, sin) = (&self.cos[position * half..][..half], &self.sin[position * half..][..half]);
        let ((low, high), (a, b)) = (out.split_at_mut(half), x.split_at(half));
        for i in 0..half {
            let sin = back * sin[i];
            low[i] = a[i] * cos[i] - b[i] * sin;
            high[i] = b[i] * cos[i] + a[i] * sin;
        }
    }
}

/// `[batch, positions, heads, dim]` → `[batch, heads, positions, dim]`, rotated where rotations are given.
pub(crate) fn split_heads(
    x: &[f32],
    positions: usize,
    heads: usize,
    dim: usize,
    rotations: Option<&Rotations>,
    out: &mut [f32],
) {
    out.par_chunks_mut(positions * dim).enumerate().for_each(|(index, out)| {
        let (sequence, head) = (index / heads, index % heads);
        vectorized(
            #[inline(always)]
            || {
                for (position, out) in out.chunks_exact_mut(dim).enumerate() {
                    let x = &x[((sequence * positions + position) * heads + head) * dim..][..dim];
                    match rotations {
                        Some(rotations) => rotations.rotate(position, 1.0, x, out),
                        None => out.copy_from_slice(x),
                    }
                }
            },
        );
    });
}

/// The way back, rotated back: the transpose of [`split_heads`], which is its gradient too.
pub(crate) fn join_heads(
    x: &[f32],
    positions: usize,
    heads: usize,
    dim: usize,
    rotations: Option<&Rotations>,
    out: &mut [f32],
) {
    out.par_chunks_mut(heads * dim).enumerate().for_each(|(token, out)| {
        let (sequence, position) = (token / positions, token % positions);
        vectorized(
            #[inline(always)]
            || {
                for (head, out) in out.chunks_exact_mut(dim).enumerate() {
                    let x = &x[((sequence * heads + head) * positions + position) * dim..][..dim];
                    match rotations {
                        Some(rotations) => rotations.rotate(position, -1.0, x, out),
                        None => out.copy_from_slice(x),
                    }
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn rotation_by_hand() {
        let rotations = Rotations::new(2, 4, 100.0);
        let mut y = [0.0; 8];
        split_heads(&[1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0], 2, 1, 4, Some(&rotations), &mut y);
        assert_eq!(y[..4], [1.0, 2.0, 3.0, 4.0]);
        // position 1: pairs (1, 3) by 1 rad and (2, 4) by 0.1 rad
        let want = [1f64.cos() - 3.0 * 1f64.sin(), 2.0 * 0.1f64.cos() - 4.0 * 0.1f64.sin()];
        assert!((f64::from(y[4]) - want[0]).abs() < 1e-6 && (f64::from(y[5]) - want[1]).abs() < 1e-6);
    }

    #[test]
    fn there_and_back() {
        let (batch, positions, heads, dim) = (2, 3, 4, 6);
        let x = Random::new(1, 1).normal(batch * positions * heads * dim, 1.0);
        let rotations = Rotations::new(positions, dim, 10_000.0);
        let (mut split, mut joined) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        split_heads(&x, positions, heads, dim, None, &mut split);
        let at = |b: usize, p: usize, h: usize| ((b * positions + p) * heads + h) * dim;
        assert_eq!(split[((heads + 2) * positions + 1) * dim..][..dim], x[at(1, 1, 2)..][..dim]);
        join_heads(&split, positions, heads, dim, None, &mut joined);
        assert_eq!(joined, x);
        split_heads(&x, positions, heads, dim, Some(&rotations), &mut split);
        join_heads(&split, positions, heads, dim, Some(&rotations), &mut joined);
        assert!(joined.iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}
