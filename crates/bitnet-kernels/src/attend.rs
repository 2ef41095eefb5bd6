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
use page::{Codes, F16, F32, Floats, PARTS, Page, Seen, Weights};
pub(crate) use split::Attention;
use std::marker::PhantomData;
use std::ops::Range;

/// Query heads and consecutive tokens that use a page together while it is in the nearest cache.
const HEADS: usize = 8;
const TOKENS: usize = 8;
/// Query heads, of one or two tokens, that share loads of keys and values: at most as many.
const TOGETHER: usize = 8;

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
    fn seen(&self, run: &Run, row: usize, page: usize) -> Seen {
        let (first, last) = self.visible(run, row);
        let within = |position: usize| position.saturating_sub(page * PAGE_LEN).min(PAGE_LEN);
        Seen { start: within(first), end: within(last + 1) }
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
    fn weigh<'a, L: Lanes, P: Page<'a>>(&mut self, l: L, page: P, seen: Seen, s: [L::V; PARTS], weights: &mut Weights) {
        for i in 0..PARTS {
            l.store(s[i], &mut weights.p[i]);
        }
        seen.mask(&mut weights.p, f32::NEG_INFINITY);
        let s: [L::V; PARTS] = [l.load(&weights.p[0]), l.load(&weights.p[1])];
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
    seen: &[Seen; Q],
    weights: &[Weights; Q],
    channels: Range<usize>,
    outs: &mut [&mut [f32]; Q],
) {
    let mut first = 0;
    while first + W * LANES <= channels.len() {
        add_block::<L, P, Q, W>(l, page, seen, weights, channels.start, first, outs);
        first += W * LANES;
    }
    while first + LANES <= channels.len() {
        add_block::<L, P, Q, 1>(l, page, seen, weights, channels.start, first, outs);
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
    seen: &[Seen; Q],
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
        let mut weights = [Weights::default(); TOGETHER];
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
                let seen = [row, row + 1].map(|row| self.step.seen(run, row, page));
                // Two tokens share every load of keys and values.
                let tokens = if row + 1 < rows.end && seen.iter().all(|seen| !seen.is_empty()) { 2 } else { 1 };
                let states = &mut states[row - rows.start..][..tokens];
                let pair = row..row + tokens;
                row = pair.end;
                if seen[0].is_empty() {
                    continue;
                }
                let q = [pair.start, pair.end - 1].map(|row| &q.row(row)[columns.clone()]);
                let mut outs = self.tile.rows_mut(pair);
                let outs = [outs.next(), outs.next()]
                    .map(|out| out.map_or(Default::default(), |out| &mut out[tile_columns.clone()]));
                let heads = columns.len() / head_dim;
                let next = std::mem::take(&mut next);
                let scale = self.step.scale;
                PageStep { page: keys_and_values, next, scale, head_dim, heads, seen, q, outs }.run(
                    l,
                    states,
                    &mut weights,
                );
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

/// One page of one key/value head, as one or two tokens see it.
struct PageStep<'s, P> {
    page: P,
    /// To be fetched meanwhile.
    next: &'s [u8],
    scale: f32,
    head_dim: usize,
    /// Query heads of a token.
    heads: usize,
    /// Of each token, and so on.
    seen: [Seen; 2],
    /// `[heads, head_dim]`
    q: [&'s [f32]; 2],
    /// What has been attended so far, `[heads, head_dim]`; what is done with is cut off.
    outs: [&'s mut [f32]; 2],
}

impl<'a, P: Page<'a>> PageStep<'_, P> {
    /// Adds the page to the query heads, as many at a time as the registers take. `states` are those of the tokens.
    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L, states: &mut [[State<P::Query>; HEADS]], weights: &mut [Weights; TOGETHER]) {
        let count = states.len() * self.heads;
        let mut done = 0;
        while done < count {
            done += match count - done {
                8.. if L::ACCUMULATORS >= 8 => self.group::<L, 8, 2>(l, done, states, weights),
                4.. if L::ACCUMULATORS >= 8 => self.group::<L, 4, 4>(l, done, states, weights),
                2.. => self.group::<L, 2, 2>(l, done, states, weights),
                _ => self.group::<L, 1, 4>(l, done, states, weights),
            };
        }
    }

    /// Adds the page to `Q` heads from number `first` on, counted through the tokens.
    #[inline(always)]
    fn group<L: Lanes, const Q: usize, const W: usize>(
        &mut self,
        l: L,
        first: usize,
        states: &mut [[State<P::Query>; HEADS]],
        weights: &mut [Weights; TOGETHER],
    ) -> usize {
        let weights = weights.first_chunk_mut::<Q>().expect("groups are of at most TOGETHER heads");
        // Loops, since closures would become calls here.
        let mut places = [(0, 0); Q];
        let (mut q, mut seen): ([&[f32]; Q], _) = ([&[]; Q], [Seen::default(); Q]);
        let mut outs: [&mut [f32]; Q] = std::array::from_fn(|_| Default::default());
        let (mut token, mut head) = (first / self.heads, first % self.heads);
        for h in 0..Q {
            places[h] = (token, head);
            q[h] = &self.q[token][head * self.head_dim..][..self.head_dim];
            seen[h] = self.seen[token];
            let (out, rest) = std::mem::take(&mut self.outs[token]).split_at_mut(self.head_dim);
            (outs[h], self.outs[token]) = (out, rest);
            head += 1;
            if head == self.heads {
                (token, head) = (token + 1, 0);
            }
        }
        let queries = places.map(|(token, head)| &states[token][head].query);
        let scores = self.page.scores(l, q, queries, self.scale, std::mem::take(&mut self.next));
        for h in 0..Q {
            let (token, head) = places[h];
            states[token][head].softmax.weigh(l, self.page, seen[h], scores[h], &mut weights[h]);
        }
        add_values::<L, P, Q, W>(l, self.page, &seen, weights, 0..self.head_dim, &mut outs);
        Q
    }
}
