//! `attend`: causal attention over the KV pages, by online softmax.
//!
//! Every query walks the pages of its sequence in ascending order, and what it computes there does not depend on the
//! queries beside it: so batching, chunking and threads never change a bit. Positions that a query may not see are left
//! out, whatever stands there.
//!
//! A page takes three steps: scores `s = q · k · scale`; weights `p = exp(s - m)` with the largest score `m` so far; and
//! `out = out · exp(m_before - m) + Σ p v`. How the first and the last are computed depends on the format of the cache:
//!
//! - f32, f16: in f32, fused multiply-adds, channel after channel for scores, position after position for values.
//! - int8: keys and values are codes with a scale per token and head. The query is quantised in the same way, so
//!   `s = (Σ q' k') · scale_k · (scale_q · scale)` with an exact integer sum. The weights take the scales of the values in
//!   and are quantised per page, `p' = round(p scale_v / step)` with `step = max(p scale_v) / 127`, so that
//!   `Σ p v ≈ (Σ p' v') · step` with an exact integer sum again. The sum of the weights stays in f32.
//!
//! Many queries of a prompt walk a page together while it is near ([`Walk`]). Few queries over a long context would leave
//! threads idle, so their steps are taken apart instead and each step is shared among all threads ([`split`]): the same
//! operations in the same order.

mod page;
mod split;

use crate::exp::exp;
use crate::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::threads::ColumnTile;
use crate::{Batch, Cpu, Kv, KvFormat, PAGE_LEN, Rows, Run};
use page::{Codes, F16, F32, Floats, PARTS, Page, Weights};
pub(crate) use split::Attention;
use std::marker::PhantomData;
use std::ops::Range;

/// Query heads and consecutive tokens that use a page together while it is in the nearest cache.
const HEADS: usize = 8;
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
    assert_eq!((q.len(), q.cols()), (batch.tokens().len(), out.cols()), "shape of the queries");
    assert_eq!(q.cols(), shape.heads * shape.head_dim, "query columns");
    assert!(shape.heads.is_multiple_of(shape.kv_heads), "{} heads share {}", shape.heads, shape.kv_heads);
    out.set_len(q.len());
    let step = Step { q, kv, batch, layer, scale, window };
    match shape.format {
        KvFormat::F32 => attend::<Floats<F32>>(cpu, step, out),
        KvFormat::F16 => attend::<Floats<F16>>(cpu, step, out),
        KvFormat::Int8 => attend::<Codes>(cpu, step, out),
    }
}

fn attend<'a, P: Page<'a> + 'a>(cpu: &Cpu, step: Step<'a>, out: &mut Rows) {
    if split::run::<P>(cpu, step, out) {
        return;
    }
    let rows = (step.q.len() / (4 * cpu.threads())).clamp(1, TOKENS);
    cpu.pool().tiles(out, rows, step.group() * step.kv.shape().head_dim, |tile| {
        dispatch(cpu.isa(), Walk::<P> { step, tile, page: PhantomData });
    });
}

/// The operands.
#[derive(Clone, Copy)]
struct Step<'a> {
    q: &'a Rows,
    kv: &'a Kv,
    batch: &'a Batch,
    layer: usize,
    scale: f32,
    window: Option<usize>,
}

impl<'a> Step<'a> {
    /// Query heads that share a key/value head.
    fn group(&self) -> usize {
        self.kv.shape().heads / self.kv.shape().kv_heads
    }

    /// The run that holds batch row `row`.
    fn run(&self, row: usize) -> &'a Run {
        let runs = self.batch.runs();
        &runs[runs.partition_point(|run| run.row + run.len <= row)]
    }

    /// First and last position that a token sees.
    fn visible(&self, run: &Run, row: usize) -> (usize, usize) {
        let last = run.start + row - run.row;
        (self.window.map_or(0, |window| (last + 1).saturating_sub(window.max(1))), last)
    }

    /// Positions of page `page` that a token sees.
    fn seen(&self, run: &Run, row: usize, page: usize) -> Range<usize> {
        let (first, last) = self.visible(run, row);
        let start = page * PAGE_LEN;
        first.saturating_sub(start).min(PAGE_LEN)..(last + 1).saturating_sub(start).min(PAGE_LEN)
    }

    /// Keys and values of one head in the sequence's page `page`.
    fn bytes(&self, run: &Run, page: usize, kv_head: usize) -> &'a [u8] {
        self.kv.head(self.layer, self.batch.pages(run)[page], kv_head)
    }
}

/// Softmax so far: largest score, and sum of `exp(score - largest)`.
#[derive(Clone, Copy)]
struct Softmax {
    largest: f32,
    sum: f32,
}

impl Default for Softmax {
    fn default() -> Self {
        Softmax { largest: f32::NEG_INFINITY, sum: 0.0 }
    }
}

impl Softmax {
    /// Turns the scores of a page into weights `exp(score - largest)`.
    #[inline(always)]
    fn weigh<'a, L: Lanes, P: Page<'a>>(
        &mut self,
        l: L,
        page: P,
        seen: Range<usize>,
        mut s: [L::V; PARTS],
        weights: &mut Weights,
    ) {
        if seen != (0..PAGE_LEN) {
            for i in 0..PARTS {
                l.store(s[i], &mut weights.p[i]);
            }
            let p = weights.p.as_flattened_mut();
            p[..seen.start].fill(f32::NEG_INFINITY);
            p[seen.end..].fill(f32::NEG_INFINITY);
            s = [l.load(&weights.p[0]), l.load(&weights.p[1])];
        }
        let before = self.largest;
        let here = l.largest(l.larger(s[0], s[1]));
        self.largest = if before > here { before } else { here };
        let largest = l.splat(self.largest);
        let e = [exp(l, l.sub(s[0], largest)), exp(l, l.sub(s[1], largest))];
        let mut kept = [1.0; LANES];
        if before < self.largest {
            l.store(exp(l, l.sub(l.splat(before), largest)), &mut kept);
        }
        self.sum = self.sum * kept[0] + l.sum(l.add(e[0], e[1]));
        for i in 0..PARTS {
            l.store(e[i], &mut weights.p[i]);
        }
        weights.kept = kept[0];
        weights.sum = self.sum;
        page.weighed(l, seen, weights);
    }
}

/// `out = out · kept + Σ p v` for the `channels` of `Q` heads, whose values `outs` holds; `W` vectors of each stay in
/// registers.
#[inline(always)]
fn add_values<'a, L: Lanes, P: Page<'a>, const Q: usize, const W: usize>(
    l: L,
    page: P,
    seen: Range<usize>,
    weights: &[Weights; Q],
    channels: Range<usize>,
    outs: &mut [&mut [f32]; Q],
) {
    let mut first = 0;
    while first + W * LANES <= channels.len() {
        add_block::<L, P, Q, W>(l, page, seen.clone(), weights, channels.start, first, outs);
        first += W * LANES;
    }
    while first + LANES <= channels.len() {
        add_block::<L, P, Q, 1>(l, page, seen.clone(), weights, channels.start, first, outs);
        first += LANES;
    }
    if first < channels.len() {
        let mut acc: [[L::V; 1]; Q] =
            std::array::from_fn(|h| [l.mul(l.load_part(&outs[h][first..channels.len()]), l.splat(weights[h].kept))]);
        page.add(l, seen, (channels.start + first) / LANES, weights, &mut acc);
        for h in 0..Q {
            l.store_part(acc[h][0], &mut outs[h][first..channels.len()]);
        }
    }
}

/// The same for `W` whole vectors from `first` on, counted from channel `start`.
#[inline(always)]
fn add_block<'a, L: Lanes, P: Page<'a>, const Q: usize, const W: usize>(
    l: L,
    page: P,
    seen: Range<usize>,
    weights: &[Weights; Q],
    start: usize,
    first: usize,
    outs: &mut [&mut [f32]; Q],
) {
    let mut acc = [[l.splat(0.0); W]; Q];
    for h in 0..Q {
        let (out, _) = outs[h][first..][..W * LANES].as_chunks();
        for c in 0..W {
            acc[h][c] = l.mul(l.load(&out[c]), l.splat(weights[h].kept));
        }
    }
    page.add(l, seen, (start + first) / LANES, weights, &mut acc);
    for h in 0..Q {
        let (out, _) = outs[h][first..][..W * LANES].as_chunks_mut();
        for c in 0..W {
            l.store(acc[h][c], &mut out[c]);
        }
    }
}

/// All query heads of some tokens that read one key/value head.
struct Walk<'a, 't, P: Page<'a>> {
    step: Step<'a>,
    tile: ColumnTile<'t>,
    page: PhantomData<P>,
}

impl<'a, P: Page<'a>> Kernel for Walk<'a, '_, P> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L) {
        let columns = self.tile.columns();
        let head_dim = self.step.kv.shape().head_dim;
        let mut row = self.tile.rows().start;
        while row < self.tile.rows().end {
            let run = self.step.run(row);
            let rows = row..self.tile.rows().end.min(run.row + run.len).min(row + TOKENS);
            for first in columns.clone().step_by(HEADS * head_dim) {
                let heads = first..columns.end.min(first + HEADS * head_dim);
                self.pages(l, run, rows.clone(), heads);
            }
            row = rows.end;
        }
    }
}

impl<'a, P: Page<'a>> Walk<'a, '_, P> {
    /// Walks the pages of `run` with tokens `rows` and the query heads in `columns`.
    #[inline(always)]
    fn pages<L: Lanes>(&mut self, l: L, run: &Run, rows: Range<usize>, columns: Range<usize>) {
        let Step { q, kv, .. } = self.step;
        let (head_dim, dim) = (kv.shape().head_dim, kv.shape().padded_dim());
        let kv_head = self.tile.columns().start / self.tile.columns().len();
        let tile_columns = columns.start - self.tile.columns().start..columns.end - self.tile.columns().start;
        let mut states = [[State::<P::Query>::default(); HEADS]; TOKENS];
        for (row, states) in rows.clone().zip(&mut states) {
            self.tile.row(row)[tile_columns.clone()].fill(0.0);
            for (state, q) in states.iter_mut().zip(q.row(row)[columns.clone()].chunks_exact(head_dim)) {
                state.query = P::query(q);
            }
        }
        let last_page = self.step.visible(run, rows.end - 1).1 / PAGE_LEN;
        for page in self.step.visible(run, rows.start).0 / PAGE_LEN..=last_page {
            let keys_and_values = P::new(self.step.bytes(run, page, kv_head), dim);
            // The first scores of a page fetch the next one.
            let mut next: &[u8] = &[];
            if page < last_page {
                next = self.step.bytes(run, page + 1, kv_head);
            }
            let mut row = rows.start;
            while row < rows.end {
                let seen = self.step.seen(run, row, page);
                // Two tokens that see the same share every load of keys and values.
                let tokens = if row + 1 < rows.end && self.step.seen(run, row + 1, page) == seen { 2 } else { 1 };
                let states = &mut states[row - rows.start..][..tokens];
                row += tokens;
                if seen.is_empty() {
                    continue;
                }
                let page = PageStep {
                    page: keys_and_values,
                    next: std::mem::take(&mut next),
                    scale: self.step.scale,
                    head_dim,
                    seen,
                };
                let rows = row - tokens..row;
                let q = rows.clone().flat_map(|row| q.row(row)[columns.clone()].chunks_exact(head_dim));
                let outs =
                    self.tile.rows_mut(rows).flat_map(|out| out[tile_columns.clone()].chunks_exact_mut(head_dim));
                let heads = columns.len() / head_dim;
                let states = states.iter_mut().flat_map(|states| &mut states[..heads]);
                page.heads(l, q.zip(outs).zip(states), tokens * heads);
            }
        }
        for (row, states) in rows.zip(&states) {
            let out = &mut self.tile.row(row)[tile_columns.clone()];
            for (out, state) in out.chunks_exact_mut(head_dim).zip(states) {
                for out in out {
                    *out /= state.softmax.sum;
                }
            }
        }
    }
}

/// What a query head keeps from page to page.
#[derive(Clone, Copy, Default)]
struct State<Q> {
    query: Q,
    softmax: Softmax,
}

/// One page of one key/value head, as some tokens see it.
struct PageStep<'a, P> {
    page: P,
    /// To be fetched meanwhile.
    next: &'a [u8],
    scale: f32,
    head_dim: usize,
    seen: Range<usize>,
}

/// A query head: its query, what it has attended so far, and its state.
type Head<'h, Q> = ((&'h [f32], &'h mut [f32]), &'h mut State<Q>);

impl<'a, P: Page<'a>> PageStep<'_, P> {
    /// Adds the page to `count` query heads, as many at a time as the registers take.
    #[inline(always)]
    fn heads<'h, L: Lanes>(&self, l: L, heads: impl Iterator<Item = Head<'h, P::Query>>, count: usize)
    where
        P::Query: 'h,
    {
        let mut heads = heads;
        let mut next = self.next;
        let mut left = count;
        while left > 0 {
            let next = std::mem::take(&mut next);
            left -= match left {
                8.. if L::ACCUMULATORS >= 8 => self.group::<L, 8, 2>(l, &mut heads, next),
                4.. if L::ACCUMULATORS >= 8 => self.group::<L, 4, 4>(l, &mut heads, next),
                2.. => self.group::<L, 2, 2>(l, &mut heads, next),
                _ => self.group::<L, 1, 4>(l, &mut heads, next),
            };
        }
    }

    /// Adds the page to the next `Q` heads.
    #[inline(always)]
    fn group<'h, L: Lanes, const Q: usize, const W: usize>(
        &self,
        l: L,
        heads: &mut impl Iterator<Item = Head<'h, P::Query>>,
        next: &[u8],
    ) -> usize
    where
        P::Query: 'h,
    {
        let heads: [Head<'h, P::Query>; Q] = std::array::from_fn(|_| heads.next().expect("as many as were counted"));
        let q = heads.each_ref().map(|((q, _), _)| *q);
        let scores = self.page.scores(l, q, heads.each_ref().map(|(_, state)| &state.query), self.scale, next);
        let mut weights = [Weights::default(); Q];
        for h in 0..Q {
            heads[h].1.softmax.weigh(l, self.page, self.seen.clone(), scores[h], &mut weights[h]);
        }
        let mut outs = heads.map(|((_, out), _)| out);
        add_values::<L, P, Q, W>(l, self.page, self.seen.clone(), &weights, 0..self.head_dim, &mut outs);
        Q
    }
}
