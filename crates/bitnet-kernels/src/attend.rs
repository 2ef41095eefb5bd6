//! `attend`: causal attention over the KV pages, by online softmax.
//!
//! Every query walks the pages of its sequence in ascending order, and what it computes there does not depend on the
//! queries beside it: so batching, chunking and threads never change a bit. Positions that a query may not see are left
//! out, whatever stands there.

use crate::exp::exp;
use crate::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::threads::ColumnTile;
use crate::{Batch, Cpu, Kv, PAGE_LEN, Rows, Run};
use std::ops::Range;

/// Query heads and consecutive tokens that use a page together while it is in the nearest cache.
const HEADS: usize = 16;
const TOKENS: usize = 8;

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
    let (tokens, cols) = (q.len(), q.cols());
    assert_eq!((tokens, cols), (batch.tokens().len(), out.cols()), "shape of the queries");
    assert!(cols % (shape.kv_heads * shape.head_dim) == 0, "{cols} query columns for {shape:?}");
    out.set_len(tokens);
    let rows = (tokens / (4 * cpu.threads())).clamp(1, TOKENS);
    cpu.pool().tiles(out, rows, cols / shape.kv_heads, |tile| {
        dispatch(cpu.isa(), Attend { q, kv, batch, layer, scale, window, tile });
    });
}

/// All query heads of some tokens that read one key/value head.
struct Attend<'a> {
    q: &'a Rows,
    kv: &'a Kv,
    batch: &'a Batch,
    layer: usize,
    scale: f32,
    window: Option<usize>,
    tile: ColumnTile<'a>,
}

/// Softmax so far: largest score, and sum of `exp(score - largest)`.
#[derive(Clone, Copy)]
struct Softmax {
    largest: f32,
    sum: f32,
}

/// The weights of one page's positions, and what to multiply everything before with.
#[derive(Clone, Copy)]
struct Weights {
    p: [[f32; LANES]; 2],
    kept: f32,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L) {
        let columns = self.tile.columns();
        let head_dim = self.kv.shape().head_dim;
        let mut row = self.tile.rows().start;
        while row < self.tile.rows().end {
            let run = run_of(self.batch, row);
            let rows = row..self.tile.rows().end.min(run.row + run.len).min(row + TOKENS);
            for first in columns.clone().step_by(HEADS * head_dim) {
                let heads = first..columns.end.min(first + HEADS * head_dim);
                self.pages(l, run, rows.clone(), heads);
            }
            row = rows.end;
        }
    }
}

impl Attend<'_> {
    /// Walks the pages of `run` with tokens `rows` and the query heads in `columns`.
    #[inline(always)]
    fn pages<L: Lanes>(&mut self, l: L, run: &Run, rows: Range<usize>, columns: Range<usize>) {
        let head_dim = self.kv.shape().head_dim;
        let kv_head = self.tile.columns().start / (self.tile.columns().len());
        let tile_columns = columns.start - self.tile.columns().start..columns.end - self.tile.columns().start;
        let pages = self.batch.pages(run);
        // First and last visible position of a token.
        let visible = |row: usize| {
            let last = run.start + row - run.row;
            (self.window.map_or(0, |window| (last + 1).saturating_sub(window.max(1))), last)
        };
        let mut softmax = [[Softmax { largest: f32::NEG_INFINITY, sum: 0.0 }; HEADS]; TOKENS];
        for row in rows.clone() {
            self.tile.row(row)[tile_columns.clone()].fill(0.0);
        }
        let last_page = visible(rows.end - 1).1 / PAGE_LEN;
        for page in visible(rows.start).0 / PAGE_LEN..=last_page {
            let (keys, values) = self.kv.head(self.layer, pages[page], kv_head);
            // The first scores of a page fetch the next one: a page is too short for the processor to foresee.
            let mut next: (&[f32], &[f32]) = (&[], &[]);
            if page < last_page {
                next = self.kv.head(self.layer, pages[page + 1], kv_head);
            }
            for (row, softmax) in rows.clone().zip(&mut softmax) {
                let (first, last) = visible(row);
                let start = page * PAGE_LEN;
                if last < start || first >= start + PAGE_LEN {
                    continue;
                }
                let seen = first.saturating_sub(start)..(last + 1 - start).min(PAGE_LEN);
                let q = &self.q.row(row)[columns.clone()];
                let out = &mut self.tile.row(row)[tile_columns.clone()];
                let page = Page { keys, values, next: std::mem::take(&mut next), head_dim, seen, scale: self.scale };
                if L::ACCUMULATORS >= 8 {
                    page.heads::<L, 4, 4>(l, q, softmax, out);
                } else {
                    page.heads::<L, 2, 2>(l, q, softmax, out);
                }
            }
        }
        for (row, softmax) in rows.zip(&softmax) {
            let out = &mut self.tile.row(row)[tile_columns.clone()];
            for (out, softmax) in out.chunks_exact_mut(head_dim).zip(softmax) {
                for out in out {
                    *out /= softmax.sum;
                }
            }
        }
    }
}

/// The run that holds batch row `row`.
fn run_of(batch: &Batch, row: usize) -> &Run {
    &batch.runs()[batch.runs().partition_point(|run| run.row + run.len <= row)]
}

/// One page of one key/value head, as one token sees it.
struct Page<'a> {
    /// `[head_dim, PAGE_LEN]`
    keys: &'a [f32],
    /// `[PAGE_LEN, head_dim]`
    values: &'a [f32],
    /// Keys and values to be fetched meanwhile.
    next: (&'a [f32], &'a [f32]),
    head_dim: usize,
    seen: Range<usize>,
    scale: f32,
}

impl Page<'_> {
    /// Adds the page to every head in `q` and `out`, `Q` heads at a time and then the rest one by one; `W` groups of
    /// lanes of the output stay in registers.
    #[inline(always)]
    fn heads<L: Lanes, const Q: usize, const W: usize>(
        &self,
        l: L,
        q: &[f32],
        softmax: &mut [Softmax; HEADS],
        out: &mut [f32],
    ) {
        let together = Q * self.head_dim;
        let (groups, _) = softmax.as_chunks_mut::<Q>(); // HEADS is a multiple of Q
        let mut next = self.next;
        for ((q, out), softmax) in q.chunks(together).zip(out.chunks_mut(together)).zip(groups) {
            if q.len() == together {
                self.group::<L, Q, W>(l, q, std::mem::take(&mut next), softmax, out);
            } else {
                let heads = q.chunks_exact(self.head_dim).zip(out.chunks_exact_mut(self.head_dim));
                for ((q, out), softmax) in heads.zip(softmax) {
                    self.group::<L, 1, W>(l, q, std::mem::take(&mut next), std::array::from_mut(softmax), out);
                }
            }
        }
    }

    #[inline(always)]
    fn group<L: Lanes, const Q: usize, const W: usize>(
        &self,
        l: L,
        q: &[f32],
        next: (&[f32], &[f32]),
        softmax: &mut [Softmax; Q],
        out: &mut [f32],
    ) {
        let scores = self.scores::<L, Q>(l, q, next);
        let mut weights = [Weights { p: [[0.0; LANES]; 2], kept: 0.0 }; Q];
        for h in 0..Q {
            weights[h] = self.weigh(l, scores[h], &mut softmax[h]);
        }
        self.add_values::<L, Q, W>(l, &weights, out);
    }

    /// `q · k · scale` of every position of the page; products are added channel after channel.
    #[inline(always)]
    fn scores<L: Lanes, const Q: usize>(&self, l: L, q: &[f32], next: (&[f32], &[f32])) -> [[L::V; 2]; Q] {
        let (keys, _) = self.keys.as_chunks::<PAGE_LEN>();
        let next = (next.0.as_chunks::<PAGE_LEN>().0, next.1.as_chunks::<PAGE_LEN>().0);
        let mut heads = q.chunks_exact(self.head_dim);
        let q: [&[f32]; Q] = std::array::from_fn(|_| heads.next().unwrap_or_default());
        let mut acc = [[l.splat(0.0); 2]; Q];
        for (c, key) in keys.iter().enumerate() {
            if let (Some(keys), Some(values)) = (next.0.get(c), next.1.get(c)) {
                keys.as_chunks::<LANES>().0.iter().chain(values.as_chunks().0).for_each(|line| l.prefetch(line));
            }
            let (halves, _) = key.as_chunks::<LANES>();
            let key = [l.load(&halves[0]), l.load(&halves[1])];
            for h in 0..Q {
                let q = l.splat(q[h][c]);
                for i in 0..2 {
                    acc[h][i] = l.fma(q, key[i], acc[h][i]);
                }
            }
        }
        for acc in acc.as_flattened_mut() {
            *acc = l.mul(*acc, l.splat(self.scale));
        }
        acc
    }

    /// Turns scores into weights `exp(score - largest)`.
    #[inline(always)]
    fn weigh<L: Lanes>(&self, l: L, mut s: [L::V; 2], softmax: &mut Softmax) -> Weights {
        let mut p = [[0.0; LANES]; 2];
        if self.seen != (0..PAGE_LEN) {
            for i in 0..2 {
                l.store(s[i], &mut p[i]);
            }
            let p = p.as_flattened_mut();
            p[..self.seen.start].fill(f32::NEG_INFINITY);
            p[self.seen.end..].fill(f32::NEG_INFINITY);
            let (p, _) = p.as_chunks();
            s = [l.load(&p[0]), l.load(&p[1])];
        }
        let before = softmax.largest;
        let here = l.largest(l.larger(s[0], s[1]));
        softmax.largest = if before > here { before } else { here };
        let largest = l.splat(softmax.largest);
        let e = [exp(l, l.sub(s[0], largest)), exp(l, l.sub(s[1], largest))];
        let mut kept = [0.0; LANES];
        l.store(exp(l, l.sub(l.splat(before), largest)), &mut kept);
        softmax.sum = softmax.sum * kept[0] + l.sum(l.add(e[0], e[1]));
        for i in 0..2 {
            l.store(e[i], &mut p[i]);
        }
        Weights { p, kept: kept[0] }
    }

    /// `out = out * kept + Σ p[i] values[i]`, positions ascending.
    #[inline(always)]
    fn add_values<L: Lanes, const Q: usize, const W: usize>(&self, l: L, weights: &[Weights; Q], out: &mut [f32]) {
        let head_dim = self.head_dim;
        let mut first = 0;
        while first + W * LANES <= head_dim {
            let mut acc = [[l.splat(0.0); W]; Q];
            for h in 0..Q {
                let (out, _) = out[h * head_dim + first..][..W * LANES].as_chunks();
                for c in 0..W {
                    acc[h][c] = l.mul(l.load(&out[c]), l.splat(weights[h].kept));
                }
            }
            for i in self.seen.clone() {
                let (value, _) = self.values[i * head_dim + first..][..W * LANES].as_chunks();
                let value: [L::V; W] = std::array::from_fn(|c| l.load(&value[c]));
                for h in 0..Q {
                    let p = l.splat(weights[h].p.as_flattened()[i]);
                    for c in 0..W {
                        acc[h][c] = l.fma(p, value[c], acc[h][c]);
                    }
                }
            }
            for h in 0..Q {
                let (out, _) = out[h * head_dim + first..][..W * LANES].as_chunks_mut();
                for c in 0..W {
                    l.store(acc[h][c], &mut out[c]);
                }
            }
            first += W * LANES;
        }
        // Heads that are no multiple of the registers.
        for first in (first..head_dim).step_by(LANES) {
            let len = LANES.min(head_dim - first);
            for h in 0..Q {
                let out = &mut out[h * head_dim + first..][..len];
                let mut acc = l.mul(l.load_part(out), l.splat(weights[h].kept));
                for i in self.seen.clone() {
                    let value = l.load_part(&self.values[i * head_dim + first..][..len]);
                    acc = l.fma(l.splat(weights[h].p.as_flattened()[i]), value, acc);
                }
                l.store_part(acc, out);
            }
        }
    }
}
