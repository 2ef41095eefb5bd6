//! `attend`: causal attention over the KV pages, by online softmax.
//!
//! Every query walks the pages of its sequence in ascending order, and what happens within a page does not depend on
//! how many queries, threads or chunks there are: so batching, chunking and threads never change a bit. Positions that
//! a query may not see are left out, whatever stands there.

use crate::exp::exp;
use crate::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::{Batch, Cpu, Kv, PAGE_LEN, Rows, Run};

/// Query heads that walk a page together, while it is in the nearest cache.
const HEADS: usize = 16;
/// Multiply-adds that are worth handing to a thread.
const WORTH_A_THREAD: usize = 64 * 1024;

/// `out = softmax(q kᵀ · scale) v`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn run(
    cpu: &Cpu,
    q: &Rows,
    kv: &Kv,
    batch: &Batch,
    layer: usize,
    scale: f32,
    window: Option<usize>,
    out: &mut Rows,
) {
    let shape = kv.shape();
    let cols = q.cols();
    assert_eq!((q.len(), cols), (batch.tokens().len(), out.cols()), "shape of the queries");
    assert!(cols % (shape.kv_heads * shape.head_dim) == 0, "{cols} query columns for {shape:?}");
    out.set_len(q.len());
    let group = cols / shape.kv_heads;
    let work: usize = batch.runs().iter().map(|run| run.len * (run.start + run.len)).sum::<usize>() * 2 * cols;
    let items = q.len() * shape.kv_heads;
    let grain = items * WORTH_A_THREAD / work.max(1);
    let q = q.data();
    cpu.pool().chunks(out.data_mut(), group, grain, |item, out| {
        let (row, kv_head) = (item / shape.kv_heads, item % shape.kv_heads);
        let run = run_of(batch, row);
        let position = run.start + row - run.row;
        let first = window.map_or(0, |window| (position + 1).saturating_sub(window.max(1)));
        let query = Query {
            q: &q[item * group..][..group],
            kv,
            pages: batch.pages(run),
            layer,
            kv_head,
            scale,
            first,
            last: position,
            out,
        };
        dispatch(cpu.isa(), query);
    });
}

/// The run that holds batch row `row`.
fn run_of(batch: &Batch, row: usize) -> &Run {
    &batch.runs()[batch.runs().partition_point(|run| run.row + run.len <= row)]
}

/// All query heads of one token that read one key/value head.
struct Query<'a> {
    /// `[heads, head_dim]`
    q: &'a [f32],
    kv: &'a Kv,
    pages: &'a [u32],
    layer: usize,
    kv_head: usize,
    scale: f32,
    /// First and last visible position.
    first: usize,
    last: usize,
    /// `[heads, head_dim]`
    out: &'a mut [f32],
}

/// Softmax so far: largest score, and sum of `exp(score - largest)`.
#[derive(Clone, Copy)]
struct Softmax {
    largest: f32,
    sum: f32,
}

impl Kernel for Query<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let head_dim = self.kv.shape().head_dim;
        let heads = self.q.chunks(HEADS * head_dim).zip(self.out.chunks_mut(HEADS * head_dim));
        for (q, out) in heads {
            let mut softmax = [Softmax { largest: f32::NEG_INFINITY, sum: 0.0 }; HEADS];
            out.fill(0.0);
            for page in self.first / PAGE_LEN..=self.last / PAGE_LEN {
                let start = page * PAGE_LEN;
                let visible = self.first.saturating_sub(start)..(self.last + 1 - start).min(PAGE_LEN);
                let (keys, values) = self.kv.head(self.layer, self.pages[page], self.kv_head);
                let heads = q.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)).zip(&mut softmax);
                for ((q, out), softmax) in heads {
                    let mut p = scores(l, q, keys, self.scale);
                    let outside = (0..PAGE_LEN).filter(|i| !visible.contains(i));
                    outside.for_each(|i| p[i / LANES][i % LANES] = f32::NEG_INFINITY);
                    let kept = weigh(l, &mut p, softmax);
                    let p = &p.as_flattened()[visible.clone()];
                    add_values(l, p, &values[visible.start * head_dim..], kept, out);
                }
            }
            for (out, softmax) in out.chunks_exact_mut(head_dim).zip(softmax) {
                for out in out.chunks_mut(LANES) {
                    l.store_part(l.div(l.load_part(out), l.splat(softmax.sum)), out);
                }
            }
        }
    }
}

/// `q · k · scale` of every position of a page. Even and odd channels are summed apart, ascending, then together.
#[inline(always)]
fn scores<L: Lanes>(l: L, q: &[f32], keys: &[f32], scale: f32) -> [[f32; LANES]; 2] {
    let (keys, _) = keys.as_chunks::<PAGE_LEN>();
    let mut even = [l.splat(0.0); 2];
    let mut odd = [l.splat(0.0); 2];
    let step = |q: &f32, key: &[f32; PAGE_LEN], acc: &mut [L::V; 2]| {
        let (halves, _) = key.as_chunks::<LANES>();
        for i in 0..2 {
            acc[i] = l.fma(l.splat(*q), l.load(&halves[i]), acc[i]);
        }
    };
    for (q, keys) in q.chunks(2).zip(keys.chunks(2)) {
        step(&q[0], &keys[0], &mut even);
        if let ([_, q], [_, key]) = (q, keys) {
            step(q, key, &mut odd);
        }
    }
    let mut out = [[0.0; LANES]; 2];
    for i in 0..2 {
        l.store(l.mul(l.add(even[i], odd[i]), l.splat(scale)), &mut out[i]);
    }
    out
}

/// Turns scores into weights `exp(score - largest)` and returns the factor for everything summed up before.
#[inline(always)]
fn weigh<L: Lanes>(l: L, scores: &mut [[f32; LANES]; 2], softmax: &mut Softmax) -> f32 {
    let s = [l.load(&scores[0]), l.load(&scores[1])];
    let before = softmax.largest;
    let here = l.largest(l.larger(s[0], s[1]));
    softmax.largest = if before > here { before } else { here };
    let p = s.map(|s| exp(l, l.sub(s, l.splat(softmax.largest))));
    for i in 0..2 {
        l.store(p[i], &mut scores[i]);
    }
    let mut kept = [0.0; LANES];
    l.store(exp(l, l.splat(before - softmax.largest)), &mut kept);
    softmax.sum = softmax.sum * kept[0] + l.sum(l.add(p[0], p[1]));
    kept[0]
}

/// `out = out * kept + Σ p[i] values[i]`, positions ascending.
#[inline(always)]
fn add_values<L: Lanes>(l: L, p: &[f32], values: &[f32], kept: f32, out: &mut [f32]) {
    /// Lane groups whose sums stay in registers.
    const WIDE: usize = 4;
    let head_dim = out.len();
    let mut wide = out.chunks_exact_mut(WIDE * LANES);
    let mut first = 0;
    for out in &mut wide {
        let (out, _) = out.as_chunks_mut::<LANES>();
        let mut acc = [l.splat(0.0); WIDE];
        for c in 0..WIDE {
            acc[c] = l.mul(l.load(&out[c]), l.splat(kept));
        }
        for (p, value) in p.iter().zip(values.chunks_exact(head_dim)) {
            let (value, _) = value[first..first + WIDE * LANES].as_chunks::<LANES>();
            for c in 0..WIDE {
                acc[c] = l.fma(l.splat(*p), l.load(&value[c]), acc[c]);
            }
        }
        for c in 0..WIDE {
            l.store(acc[c], &mut out[c]);
        }
        first += WIDE * LANES;
    }
    for out in wide.into_remainder().chunks_mut(LANES) {
        let mut acc = l.mul(l.load_part(out), l.splat(kept));
        for (p, value) in p.iter().zip(values.chunks_exact(head_dim)) {
            acc = l.fma(l.splat(*p), l.load_part(&value[first..first + out.len()]), acc);
        }
        l.store_part(acc, out);
        first += out.len();
    }
}
