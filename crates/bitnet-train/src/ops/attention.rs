//! Causal attention of whole sequences. Scores live in one thread's cache, a head at a time, and are computed again in the
//! backward pass: keeping them would take more memory than everything else.

use super::{dot, exp, largest, sum};
use crate::matmul::{Operand, Store, Values, matmul_here};
use crate::vectorized::vectorized;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

thread_local! {
    /// Probabilities and their gradients of one head.
    static SCORES: RefCell<[Vec<f32>; 2]> = RefCell::default();
}

/// Sizes of attention. Queries are `[batch, kv_heads, group, positions, dim]`, keys and values
/// `[batch, kv_heads, positions, dim]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionShape {
    pub(crate) positions: usize,
    /// Query heads per key head.
    pub(crate) group: usize,
    pub(crate) dim: usize,
}

impl AttentionShape {
    fn head(&self) -> usize {
        self.positions * self.dim
    }

    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    /// `[n, dim]` with a position per line.
    fn lines<'a>(&self, x: &'a [f32]) -> Operand<'a> {
        Operand::rows(Values::F32(x), x.len() / self.dim, self.dim)
    }

    /// `[n, dim]`, summed over positions.
    fn over_positions<'a>(&self, x: &'a [f32]) -> Operand<'a> {
        Operand::columns(Values::F32(x), x.len() / self.dim, self.dim)
    }

    /// The blocks of queries that are computed together, each with the keys that its last query sees.
    fn blocks(&self) -> impl Iterator<Item = Block> {
        let (positions, dim) = (self.positions, self.dim);
        (0..positions).step_by(BLOCK).map(move |first| {
            let seen = (first + BLOCK).min(positions);
            Block { first, seen, queries: first * dim..seen * dim, keys: 0..seen * dim }
        })
    }

    /// Probabilities `[queries, seen]` of a block of one query head, and the keys that it sees.
    fn probabilities(&self, block: &Block, q: &[f32], k: &[f32], p: &mut Vec<f32>) {
        p.resize((block.seen - block.first) * block.seen, 0.0);
        matmul_here(&self.lines(q), &self.lines(k), Store::SET, p);
        self.softmax(block.first, block.seen, p);
    }

    /// Causal softmax of rows of scores; the first row is of position `first`.
    fn softmax(&self, first: usize, width: usize, p: &mut [f32]) {
        vectorized(
            #[inline(always)]
            || {
                for (row, scores) in p.chunks_exact_mut(width).enumerate() {
                    let (seen, later) = scores.split_at_mut(first + row + 1);
                    let (top, scale) = (largest(seen), self.scale());
                    seen.iter_mut().for_each(|x| *x = exp((*x - top) * scale));
                    let inverse = 1.0 / sum(seen);
                    seen.iter_mut().for_each(|x| *x *= inverse);
                    later.fill(0.0);
                }
            },
        );
    }

    /// Gradients of probabilities become those of scores.
    fn softmax_backward(&self, first: usize, width: usize, p: &[f32], ds: &mut [f32]) {
        vectorized(
            #[inline(always)]
            || {
                for (row, (ds, p)) in ds.chunks_exact_mut(width).zip(p.chunks_exact(width)).enumerate() {
                    let (seen, later) = ds.split_at_mut(first + row + 1);
                    let mean = dot(seen, p);
                    for (ds, p) in seen.iter_mut().zip(p) {
                        *ds = p * (*ds - mean) * self.scale();
                    }
                    later.fill(0.0);
                }
            },
        );
    }
}

/// Queries that are computed together: what none of them sees is not computed.
const BLOCK: usize = 64;

/// Some queries of a head.
struct Block {
    /// Their first position, and the positions that the last of them sees.
    first: usize,
    seen: usize,
    /// Where they lie in a head's queries, and the keys that they see in its keys.
    queries: Range<usize>,
    keys: Range<usize>,
}

/// `out = softmax(q kᵀ / √dim) v`, in the layout of the queries.
pub(crate) fn attend(shape: AttentionShape, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    let (head, group) = (shape.head(), shape.group);
    let keys = k.par_chunks(head).zip(v.par_chunks(head));
    out.par_chunks_mut(group * head).zip(q.par_chunks(group * head)).zip(keys).for_each(|((out, q), (k, v))| {
        SCORES.with_borrow_mut(|[p, _]| {
            for (out, q) in out.chunks_exact_mut(head).zip(q.chunks_exact(head)) {
                for block in shape.blocks() {
                    shape.probabilities(&block, &q[block.queries.clone()], &k[block.keys.clone()], p);
                    let p = Operand::rows(Values::F32(p), block.seen - block.first, block.seen);
                    let v = shape.over_positions(&v[block.keys]);
                    matmul_here(&p, &v, Store::SET, &mut out[block.queries]);
                }
            }
        });
    });
}

/// The same without rounding operands to bf16: for measuring, where it must be what the engine computes.
pub(crate) fn attend_in_f32(shape: AttentionShape, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    let (head, positions, dim) = (shape.head(), shape.positions, shape.dim);
    out.par_chunks_mut(head).zip(q.par_chunks(head)).enumerate().for_each(|(index, (out, q))| {
        let at = index / shape.group * head;
        let (k, v) = (&k[at..at + head], &v[at..at + head]);
        let mut p = vec![0.0; positions * positions];
        vectorized(
            #[inline(always)]
            || {
                for (position, (row, q)) in p.chunks_exact_mut(positions).zip(q.chunks_exact(dim)).enumerate() {
                    for (score, k) in row[..=position].iter_mut().zip(k.chunks_exact(dim)) {
                        *score = dot(q, k);
                    }
                }
            },
        );
        shape.softmax(0, positions, &mut p);
        out.fill(0.0);
        vectorized(
            #[inline(always)]
            || {
                for (position, (out, row)) in out.chunks_exact_mut(dim).zip(p.chunks_exact(positions)).enumerate() {
                    for (&p, v) in row[..=position].iter().zip(v.chunks_exact(dim)) {
                        out.iter_mut().zip(v).for_each(|(out, v)| *out += p * v);
                    }
                }
            },
        );
    });
}

/// Gradients of queries, keys and values, from that of the output: `dv = pᵀ dout`, `dp = dout vᵀ`,
/// `ds = p (dp − Σ p dp) / √dim`, `dq = ds k`, `dk = dsᵀ q`.
#[allow(clippy::too_many_arguments)] // four operands, three results
pub(crate) fn attend_backward(
    shape: AttentionShape,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    dout: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let (head, group) = (shape.head(), shape.group);
    let keys = k.par_chunks(head).zip(v.par_chunks(head));
    let queries = q.par_chunks(group * head).zip(dout.par_chunks(group * head));
    let results = dq.par_chunks_mut(group * head).zip(dk.par_chunks_mut(head)).zip(dv.par_chunks_mut(head));
    results.zip(queries).zip(keys).for_each(|((((dq, dk), dv), (q, dout)), (k, v))| {
        dk.fill(0.0);
        dv.fill(0.0);
        let heads = q.chunks_exact(head).zip(dout.chunks_exact(head)).zip(dq.chunks_exact_mut(head));
        for ((q, dout), dq) in heads {
            for block in shape.blocks() {
                SCORES.with_borrow_mut(|[p, ds]| {
                    let Block { first, seen, ref queries, ref keys } = block;
                    let (q, dout) = (&q[queries.clone()], &dout[queries.clone()]);
                    let (k, v) = (&k[keys.clone()], &v[keys.clone()]);
                    shape.probabilities(&block, q, k, p);
                    let transposed = Operand::columns(Values::F32(p), seen - first, seen);
                    matmul_here(&transposed, &shape.over_positions(dout), Store::ADD, &mut dv[keys.clone()]);
                    ds.resize(p.len(), 0.0);
                    matmul_here(&shape.lines(dout), &shape.lines(v), Store::SET, ds);
                    shape.softmax_backward(first, seen, p, ds);
                    let lines = Operand::rows(Values::F32(ds), seen - first, seen);
                    matmul_here(&lines, &shape.over_positions(k), Store::SET, &mut dq[queries.clone()]);
                    let transposed = Operand::columns(Values::F32(ds), seen - first, seen);
                    matmul_here(&transposed, &shape.over_positions(q), Store::ADD, &mut dk[keys.clone()]);
                });
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::round;
    use crate::random::Random;

    /// Attention in f64, query head by query head.
    fn reference(shape: AttentionShape, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f64> {
        let (dim, head) = (shape.dim, shape.head());
        let mut out = Vec::new();
        for (index, q) in q.chunks_exact(head).enumerate() {
            let at = index / shape.group * head;
            let (k, v) = (&k[at..at + head], &v[at..at + head]);
            for position in 0..shape.positions {
                let dot = |j: usize| -> f64 {
                    (0..dim).map(|d| f64::from(q[position * dim + d]) * f64::from(k[j * dim + d])).sum()
                };
                let weights: Vec<f64> = (0..=position).map(|j| (dot(j) / (dim as f64).sqrt()).exp()).collect();
                let total: f64 = weights.iter().sum();
                let mix = |d: usize| -> f64 {
                    weights.iter().enumerate().map(|(j, w)| w * f64::from(v[j * dim + d])).sum::<f64>() / total
                };
                out.extend((0..dim).map(mix));
            }
        }
        out
    }

    /// Values that bf16 holds.
    fn values(random: &mut Random, len: usize) -> Vec<f32> {
        random.normal(len, 1.0).into_iter().map(|x| f32::from_bits(u32::from(round(x)) << 16)).collect()
    }

    #[test]
    fn output_and_gradients() {
        check(5, 1);
    }

    /// More queries than are computed together.
    #[test]
    fn several_blocks() {
        check(BLOCK + 3, 41);
    }

    /// Of gradients every `step`-th.
    fn check(positions: usize, step: usize) {
        let shape = AttentionShape { positions, group: 2, dim: 4 };
        let (queries, keys) = (2 * 2 * shape.head(), 2 * shape.head());
        let mut random = Random::new(4, 4);
        let (q, k) = (values(&mut random, queries), values(&mut random, keys));
        let (v, dout) = (values(&mut random, keys), values(&mut random, queries));
        let mut out = vec![0.0; queries];
        attend(shape, &q, &k, &v, &mut out);
        // probabilities are rounded to 8 bits
        for (got, want) in out.iter().zip(reference(shape, &q, &k, &v)) {
            assert!((f64::from(*got) - want).abs() < 0.02, "{got}, not {want}");
        }
        attend_in_f32(shape, &q, &k, &v, &mut out);
        for (got, want) in out.iter().zip(reference(shape, &q, &k, &v)) {
            assert!((f64::from(*got) - want).abs() < 1e-5, "{got}, not {want}");
        }
        let (mut dq, mut dk, mut dv) = (vec![0.0; queries], vec![0.0; keys], vec![0.0; keys]);
        attend_backward(shape, &q, &k, &v, &dout, &mut dq, &mut dk, &mut dv);
        let objective = |q: &[f32], k: &[f32], v: &[f32]| -> f64 {
            reference(shape, q, k, v).iter().zip(&dout).map(|(a, b)| a * f64::from(*b)).sum()
        };
        let compare = |what: &str, x: &[f32], dx: &[f32], objective: &dyn Fn(&[f32]) -> f64| {
            for i in (0..x.len()).step_by(step) {
                let at = |by: f32| {
                    let mut moved = x.to_vec();
                    moved[i] += by;
                    objective(&moved)
                };
                let want = (at(1e-3) - at(-1e-3)) / 2e-3;
                assert!(
                    (f64::from(dx[i]) - want).abs() < 0.03 * (1.0 + want.abs()),
                    "{what}[{i}]: {}, not {want}",
                    dx[i]
                );
            }
        };
        compare("q", &q, &dq, &|q| objective(q, &k, &v));
        compare("k", &k, &dk, &|k| objective(&q, k, &v));
        compare("v", &v, &dv, &|v| objective(&q, &k, v));
    }
}
