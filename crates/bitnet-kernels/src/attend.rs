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
//! Many queries of a prompt walk a page together while it is near ([`Walk`]). Those of few tokens over a long context that the
//! threads cannot share evenly have their steps taken apart instead, and each step is shared among all threads ([`split`]): the
//! same operations in the same order.

mod page;
mod split;

use crate::ahead::Ahead;
use crate::exp::exp;
use crate::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::threads::ColumnTile;
use crate::{Batch, Cpu, Kv, KvFormat, PAGE_LEN, Rows, Run};
use page::{Codes, F16, F32, Floats, PARTS, Page, STEPS, Seen, Weights};
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
    let (tokens, columns) = (step.q.len(), step.group() * step.kv.shape().head_dim);
    let rows = (tokens / (4 * cpu.threads())).clamp(1, TOKENS);
    let whole = split::whole(cpu, step);
    if whole > 0 {
        cpu.pool().tiles(out, rows, columns, |tile| {
            if tile.columns().start / columns * tokens + tile.rows().start < whole {
                dispatch(cpu.isa(), Walk::<P> { step, tile, page: PhantomData });
            }
        });
    }
    split::run::<P>(cpu, step, whole, out);
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

/// Softmax so far of as many query heads as a vector has lanes: largest scores, and sums of `exp(score - largest)`. Beyond the
/// last there is room, so that a vector can begin at any of them.
#[derive(Clone, Copy)]
struct Softmax {
    largest: [f32; 2 * LANES],
    sum: [f32; 2 * LANES],
}

impl Default for Softmax {
    fn default() -> Self {
        Softmax { largest: [f32::NEG_INFINITY; 2 * LANES], sum: [0.0; 2 * LANES] }
    }
}

/// The vector that begins at `first`.
#[inline(always)]
fn vector(lanes: &mut [f32; 2 * LANES], first: usize) -> &mut [f32; LANES] {
    lanes[first..].first_chunk_mut().expect("vectors begin in the lower half")
}

impl Softmax {
    /// Turns the scores of a page into weights `exp(score - largest)`, for `Q` heads from number `first` on.
    #[inline(always)]
    fn weigh<'a, L: Lanes, P: Page<'a>, const Q: usize>(
        &mut self,
        l: L,
        first: usize,
        page: P,
        seen: &[Seen; Q],
        mut s: [[L::V; PARTS]; Q],
        weights: &mut [Weights; Q],
    ) {
        let mut here = [l.splat(0.0); Q];
        for h in 0..Q {
            if !seen[h].is_whole() {
                let p = &mut weights[h].p;
                (0..PARTS).for_each(|i| l.store(s[h][i], &mut p[i]));
                seen[h].mask(p, f32::NEG_INFINITY);
                s[h] = [l.load(&p[0]), l.load(&p[1])];
            }
            here[h] = l.larger(s[h][0], s[h][1]);
        }
        // Of the other lanes the results are those before.
        let (largest_lanes, sum_lanes) = (vector(&mut self.largest, first), vector(&mut self.sum, first));
        let before_lanes = *largest_lanes;
        let before = l.load(&before_lanes);
        let largest = l.larger(before, l.largest_of_each(&here));
        l.store(largest, largest_lanes);
        let mut kept = [1.0; LANES];
        l.store(exp(l, l.sub(before, largest)), &mut kept);
        for i in 0..LANES {
            kept[i] = if before_lanes[i] < largest_lanes[i] { kept[i] } else { 1.0 };
        }
        let mut sums = [l.splat(0.0); Q];
        for h in 0..Q {
            let largest = l.splat(largest_lanes[h]);
            for i in 0..PARTS {
                s[h][i] = exp(l, l.sub(s[h][i], largest));
            }
            sums[h] = l.add(s[h][0], s[h][1]);
        }
        let sum = l.add(l.mul(l.load(sum_lanes), l.load(&kept)), l.sum_of_each(&sums));
        l.store(sum, sum_lanes);
        for h in 0..Q {
            (weights[h].kept, weights[h].sum) = (kept[h], sum_lanes[h]);
        }
        page.weighed(l, seen, s, weights);
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
    ahead: &mut Ahead,
) {
    let mut first = 0;
    let pace = |ahead: &mut Ahead, first: usize| ahead.pace(STEPS * (channels.len() - first).div_ceil(W * LANES));
    while first + W * LANES <= channels.len() {
        pace(ahead, first);
        add_block::<L, P, Q, W>(l, page, seen, weights, channels.start, first, outs, ahead);
        first += W * LANES;
    }
    while first + LANES <= channels.len() {
        add_block::<L, P, Q, 1>(l, page, seen, weights, channels.start, first, outs, ahead);
        first += LANES;
    }
    if first < channels.len() {
        let mut acc = [[l.splat(0.0)]; Q];
        for h in 0..Q {
            acc[h][0] = l.mul(l.load_part(&outs[h][first..channels.len()]), l.splat(weights[h].kept));
        }
        page.add(l, seen, (channels.start + first) / LANES, weights, &mut acc, ahead);
        for h in 0..Q {
            l.store_part(acc[h][0], &mut outs[h][first..channels.len()]);
        }
    }
}

/// The same for `W` whole vectors from `first` on, counted from channel `start`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn add_block<'a, L: Lanes, P: Page<'a>, const Q: usize, const W: usize>(
    l: L,
    page: P,
    seen: &[Seen; Q],
    weights: &[Weights; Q],
    start: usize,
    first: usize,
    outs: &mut [&mut [f32]; Q],
    ahead: &mut Ahead,
) {
    let mut acc = [[l.splat(0.0); W]; Q];
    for h in 0..Q {
        let (out, _) = outs[h][first..][..W * LANES].as_chunks();
        for c in 0..W {
            acc[h][c] = l.mul(l.load(&out[c]), l.splat(weights[h].kept));
        }
    }
    page.add(l, seen, (start + first) / LANES, weights, &mut acc, ahead);
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
        let Step { q, kv, scale, .. } = self.step;
        let (head_dim, dim) = (kv.shape().head_dim, kv.shape().padded_dim());
        let heads = columns.len() / head_dim;
        let kv_head = self.tile.columns().start / self.tile.columns().len();
        let tile_columns = columns.start - self.tile.columns().start..columns.end - self.tile.columns().start;
        let mut states = [State::<P::Query>::default(); TOKENS / 2];
        let pairs = rows.len().div_ceil(2);
        let pair = |pair: usize| rows.start + 2 * pair..rows.end.min(rows.start + 2 * pair + 2);
        for row in rows.clone() {
            self.tile.row(row)[tile_columns.clone()].fill(0.0);
            let number = row - rows.start;
            let queries = &mut states[number / 2].queries[number % 2 * heads..];
            for (query, q) in queries.iter_mut().zip(q.row(row)[columns.clone()].chunks_exact(head_dim)) {
                *query = P::query(q);
            }
        }
        let last_page = self.step.visible(run, rows.end - 1).1 / PAGE_LEN;
        for page in self.step.visible(run, rows.start).0 / PAGE_LEN..=last_page {
            let keys_and_values = P::new(self.step.bytes(run, page, kv_head), dim);
            // Each pair of tokens has a part of the next page fetched: all at once would have them wait. Several pairs do so along
            // with the keys alone, which leaves the loops over values plain; one pair with both.
            let next = if page < last_page { self.step.bytes(run, page + 1, kv_head) } else { &[] };
            let with_keys = if pairs == 1 { next.len().min(kv.shape().key_bytes()) } else { next.len() };
            let (next_with_keys, next_with_values) = next.split_at(with_keys);
            let part = |bytes: &'a [u8], i: usize| &bytes[bytes.len() * i / pairs..bytes.len() * (i + 1) / pairs];
            // First all that needs the keys, then all that needs the values: together they do not fit the nearest cache.
            let mut steps =
                [PageStep { page: keys_and_values, head_dim, heads, seen: [Seen::default(); 2] }; TOKENS / 2];
            for (i, (step, state)) in steps[..pairs].iter_mut().zip(&mut states).enumerate() {
                let tokens = pair(i);
                let mut queries: [&[f32]; 2] = [&[]; 2];
                for (t, row) in tokens.enumerate() {
                    step.seen[t] = self.step.seen(run, row, page);
                    queries[t] = &q.row(row)[columns.clone()];
                }
                let mut ahead = Ahead::all(part(next_with_keys, i));
                step.weigh(l, queries, scale, &mut ahead, state);
            }
            for (i, (step, state)) in steps[..pairs].iter().zip(&states).enumerate() {
                let mut outs = self.tile.rows_mut(pair(i));
                let mut outs = [outs.next(), outs.next()]
                    .map(|out| out.map_or(Default::default(), |out| &mut out[tile_columns.clone()]));
                step.add(l, &state.weights, &mut outs, &mut Ahead::all(part(next_with_values, i)));
            }
        }
        for row in rows.clone() {
            let number = row - rows.start;
            let sums = &states[number / 2].softmax.sum[number % 2 * heads..];
            let out = &mut self.tile.row(row)[tile_columns.clone()];
            for (out, sum) in out.chunks_exact_mut(head_dim).zip(sums) {
                for out in out {
                    *out /= sum;
                }
            }
        }
    }
}

/// What the query heads of two tokens keep: those of the first, then those of the second.
#[derive(Clone, Copy)]
struct State<Q> {
    queries: [Q; 2 * HEADS],
    softmax: Softmax,
    /// Of the page at hand.
    weights: [Weights; 2 * HEADS],
}

impl<Q: Copy + Default> Default for State<Q> {
    fn default() -> Self {
        State {
            queries: [Q::default(); 2 * HEADS],
            softmax: Softmax::default(),
            weights: [Weights::default(); 2 * HEADS],
        }
    }
}

/// One page of one key/value head, as two tokens see it.
#[derive(Clone, Copy)]
struct PageStep<P> {
    page: P,
    head_dim: usize,
    /// Query heads of a token.
    heads: usize,
    /// Of each token; nothing, if there is but one.
    seen: [Seen; 2],
}

/// Runs `$method` for as many query heads at a time as the registers take.
macro_rules! in_groups {
    ($step:ident.$method:ident::<$lanes:ident>($($argument:expr),*)) => {
        let heads = $step.seeing();
        let mut done = heads.start;
        while done < heads.end {
            done += match heads.end - done {
                8.. if $lanes::ACCUMULATORS >= 8 => $step.$method::<$lanes, 8, 2>(done, $($argument),*),
                4.. if $lanes::ACCUMULATORS >= 8 => $step.$method::<$lanes, 4, 4>(done, $($argument),*),
                2.. => $step.$method::<$lanes, 2, 2>(done, $($argument),*),
                _ => $step.$method::<$lanes, 1, 4>(done, $($argument),*),
            };
        }
    };
}

impl<'a, P: Page<'a>> PageStep<P> {
    /// The query heads, counted through the tokens, that see something of the page.
    #[inline(always)]
    fn seeing(&self) -> Range<usize> {
        let start = if self.seen[0].is_empty() { self.heads } else { 0 };
        let end = if self.seen[1].is_empty() { self.heads } else { 2 * self.heads };
        start..end
    }

    /// The weights of all query heads, from queries `[heads, head_dim]` of each token.
    #[inline(always)]
    fn weigh<L: Lanes>(self, l: L, q: [&[f32]; 2], scale: f32, ahead: &mut Ahead, state: &mut State<P::Query>) {
        in_groups!(self.weigh_group::<L>(l, q, scale, ahead, state));
    }

    #[inline(always)]
    fn weigh_group<L: Lanes, const Q: usize, const W: usize>(
        self,
        first: usize,
        l: L,
        q: [&[f32]; 2],
        scale: f32,
        ahead: &mut Ahead,
        state: &mut State<P::Query>,
    ) -> usize {
        // Loops, since closures would become calls here.
        let (mut queries, mut seen): ([&[f32]; Q], _) = ([&[]; Q], [Seen::default(); Q]);
        for h in 0..Q {
            let (token, head) = self.place(first + h);
            queries[h] = &q[token][head * self.head_dim..][..self.head_dim];
            seen[h] = self.seen[token];
        }
        let prepared: &[P::Query; Q] = state.queries[first..].first_chunk().expect("groups lie within two tokens");
        let scores = self.page.scores(l, queries, prepared, scale, ahead);
        let weights = state.weights[first..].first_chunk_mut().expect("groups lie within two tokens");
        state.softmax.weigh::<L, P, Q>(l, first, self.page, &seen, scores, weights);
        Q
    }

    /// Adds the values of the page to what has been attended so far, `[heads, head_dim]` of each token.
    #[inline(always)]
    fn add<L: Lanes>(self, l: L, weights: &[Weights; 2 * HEADS], outs: &mut [&mut [f32]; 2], ahead: &mut Ahead) {
        in_groups!(self.add_group::<L>(l, weights, outs, ahead));
    }

    /// Cuts off `outs` what is done with.
    #[inline(always)]
    fn add_group<L: Lanes, const Q: usize, const W: usize>(
        self,
        first: usize,
        l: L,
        weights: &[Weights; 2 * HEADS],
        outs: &mut [&mut [f32]; 2],
        ahead: &mut Ahead,
    ) -> usize {
        let mut seen = [Seen::default(); Q];
        let mut of_heads: [&mut [f32]; Q] = std::array::from_fn(|_| Default::default());
        for h in 0..Q {
            let (token, _) = self.place(first + h);
            seen[h] = self.seen[token];
            let (out, rest) = std::mem::take(&mut outs[token]).split_at_mut(self.head_dim);
            (of_heads[h], outs[token]) = (out, rest);
        }
        let weights = weights[first..].first_chunk().expect("groups lie within two tokens");
        add_values::<L, P, Q, W>(l, self.page, &seen, weights, 0..self.head_dim, &mut of_heads, ahead);
        Q
    }

    /// Token and head of a query head.
    #[inline(always)]
    fn place(&self, number: usize) -> (usize, usize) {
        if number < self.heads { (0, number) } else { (1, number - self.heads) }
    }
}
