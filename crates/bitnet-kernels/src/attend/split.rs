//! Attention of few tokens over a long context: what is left of (key/value head, token) pairs when every thread has as many as the
//! others, in three steps one after the other, each shared among all threads.
//!
//! Scores need no order: they are shared out by page. Weights follow each other, but cost little: one thread takes the heads
//! that share a key/value head. Values are shared out by head and channel, and each channel adds its pages in order. So every
//! operation is that of [`Walk`](super::Walk), in the same order.

use super::page::{PARTS, Page, Seen, Weights};
use super::{HEADS, Softmax, Step, add_values};
use crate::ahead::Ahead;
use crate::lanes::{Kernel, Lanes, dispatch};
use crate::{Cpu, KernelError, KvShape, PAGE_LEN, Rows, Run};
use std::marker::PhantomData;
use std::ops::Range;

/// Pages whose scores are one thread's work at a time.
const PAGES: usize = 16;
/// Channels of all heads of a group whose values are one thread's work.
const CHANNELS: usize = 64;
/// Heads whose weights are computed together.
const TOGETHER: usize = 4;
/// Shorter contexts are not worth the hand-over between the steps.
const LEAST_PAGES: usize = 8;

/// What the steps leave for each other. Made when a cache is made, so that no verb allocates.
#[derive(Default)]
pub(crate) struct Attention {
    /// `[tokens, kv_heads, pages, heads of a group]`
    weights: Vec<Weights>,
    /// `[tokens, kv_heads, heads of a group, head_dim]`, where a head is shared out `[.., parts of it, heads of a group, CHANNELS]`
    sums: Vec<f32>,
}

impl KvShape {
    fn split_lengths(&self) -> (usize, usize) {
        (
            self.heads.saturating_mul(self.pages.saturating_add(PAGES - 1) / PAGES * PAGES),
            self.heads.saturating_mul(self.head_dim.div_ceil(CHANNELS)).saturating_mul(CHANNELS),
        )
    }

    /// Bytes that attention takes besides the cache.
    pub fn working_bytes(&self) -> usize {
        let (weights, sums) = self.split_lengths();
        weights.saturating_mul(size_of::<Weights>()).saturating_add(sums.saturating_mul(size_of::<f32>()))
    }
}

impl Attention {
    /// Makes room for one token that sees a whole cache.
    pub(crate) fn reserve(&mut self, shape: KvShape) -> Result<(), KernelError> {
        let refused = |_| KernelError::Memory { what: "weights of attention", bytes: shape.working_bytes() };
        let (weights, sums) = shape.split_lengths();
        let (more_weights, more_sums) =
            (weights.saturating_sub(self.weights.len()), sums.saturating_sub(self.sums.len()));
        self.weights.try_reserve_exact(more_weights).map_err(refused)?;
        self.sums.try_reserve_exact(more_sums).map_err(refused)?;
        self.weights.resize(weights.max(self.weights.len()), Weights::default());
        self.sums.resize(sums.max(self.sums.len()), 0.0);
        Ok(())
    }
}

/// How many of the (key/value head, token) pairs are attended by one thread each: as many as the threads can share evenly. The rest
/// are split.
pub(super) fn whole(cpu: &Cpu, step: Step<'_>) -> usize {
    let (shape, tokens) = (step.kv.shape(), step.q.len());
    let (pairs, group) = (tokens * shape.kv_heads, step.group());
    let whole = pairs / cpu.threads() * cpu.threads();
    let longest = (0..tokens).map(|row| Token::of(step, row).pages.len()).max().unwrap_or(0);
    let used = (pairs - whole) * group * longest.next_multiple_of(PAGES);
    let used_sums = (pairs - whole) * group * shape.head_dim.div_ceil(CHANNELS) * CHANNELS;
    let attention = cpu.attention();
    // Whole ones keep all threads busy when there are many of them.
    let many = cpu.threads() == 1 || pairs >= 4 * cpu.threads() || longest < LEAST_PAGES;
    let room = used <= attention.weights.len() && used_sums <= attention.sums.len();
    if many || !room { pairs } else { whole }
}

/// Attends the (key/value head, token) pairs from number `whole` on.
pub(super) fn run<'a, P: Page<'a> + 'a>(cpu: &Cpu, step: Step<'a>, whole: usize, out: &mut Rows) {
    let (shape, tokens, group) = (step.kv.shape(), step.q.len(), step.group());
    let pairs = tokens * shape.kv_heads - whole;
    if pairs == 0 {
        return;
    }
    let parts = shape.head_dim.div_ceil(CHANNELS);
    let place = |pair: usize| ((whole + pair) % tokens, (whole + pair) / tokens);
    let longest = (0..pairs).map(|pair| Token::of(step, place(pair).0).pages.len()).max().unwrap_or(0);
    let stride = longest.next_multiple_of(PAGES);
    let of_pair = stride * group;
    let mut attention = cpu.attention();
    let Attention { weights, sums } = &mut *attention;
    let weights = &mut weights[..pairs * of_pair];
    let sums = &mut sums[..pairs * parts * group * CHANNELS];
    let (pool, isa) = (cpu.pool(), cpu.isa());

    let across = stride / PAGES;
    pool.chunks(weights, PAGES * group, 1, |part, weights| {
        let (row, kv_head) = place(part / across);
        let first = part % across * PAGES;
        dispatch(isa, Score::<P> { step, row, kv_head, first, weights, page: PhantomData });
    });
    pool.chunks(weights, of_pair, 1, |pair, weights| {
        let (row, kv_head) = place(pair);
        dispatch(isa, Weigh::<P> { step, row, kv_head, weights, page: PhantomData });
    });
    let weights = &*weights;
    let channels = |part: usize| part % parts * CHANNELS..shape.head_dim.min((part % parts + 1) * CHANNELS);
    pool.chunks(sums, group * CHANNELS, 1, |part, sums| {
        let (row, kv_head) = place(part / parts);
        let (weights, channels) = (&weights[part / parts * of_pair..][..of_pair], channels(part));
        let sums = &mut sums[..group * channels.len()];
        dispatch(isa, Add::<P> { step, row, kv_head, weights, channels, sums, page: PhantomData });
    });
    for (part, sums) in sums.chunks_exact(group * CHANNELS).enumerate() {
        let ((row, kv_head), channels) = (place(part / parts), channels(part));
        for (h, sums) in sums[..group * channels.len()].chunks_exact(channels.len()).enumerate() {
            out.row_mut(row)[(kv_head * group + h) * shape.head_dim..][channels.clone()].copy_from_slice(sums);
        }
    }
}

/// A token and the pages that it sees.
struct Token<'a> {
    step: Step<'a>,
    row: usize,
    run: &'a Run,
    pages: Range<usize>,
}

impl<'a> Token<'a> {
    #[inline(always)]
    fn of(step: Step<'a>, row: usize) -> Self {
        let run = step.run(row);
        let (first, last) = step.visible(run, row);
        Token { step, row, run, pages: first / PAGE_LEN..last / PAGE_LEN + 1 }
    }

    /// Page `page`, and the positions of it that the token sees.
    #[inline(always)]
    fn page<P: Page<'a>>(&self, page: usize, kv_head: usize) -> (P, Seen) {
        let bytes = self.step.bytes(self.run, page, kv_head);
        (P::new(bytes, self.step.kv.shape().padded_dim()), self.step.seen(self.run, self.row, page))
    }

    /// The bytes of page `page`, as long as it is one of `pages`.
    #[inline(always)]
    fn bytes(&self, page: usize, pages: &Range<usize>, kv_head: usize) -> &'a [u8] {
        if pages.contains(&page) { self.step.bytes(self.run, page, kv_head) } else { &[] }
    }

    /// The queries that read `kv_head`.
    #[inline(always)]
    fn queries(&self, kv_head: usize) -> &'a [f32] {
        let cols = self.step.group() * self.step.kv.shape().head_dim;
        &self.step.q.row(self.row)[kv_head * cols..(kv_head + 1) * cols]
    }
}

/// The scores of some pages.
struct Score<'a, 'w, P: Page<'a>> {
    step: Step<'a>,
    row: usize,
    kv_head: usize,
    /// The first of the pages, counted from the first that the token sees.
    first: usize,
    /// `[PAGES, heads of a group]`
    weights: &'w mut [Weights],
    page: PhantomData<P>,
}

impl<'a, P: Page<'a>> Kernel for Score<'a, '_, P> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        if L::ACCUMULATORS >= 4 { self.heads::<L, 4>(l) } else { self.heads::<L, 2>(l) }
    }
}

impl<'a, P: Page<'a>> Score<'a, '_, P> {
    /// `Q` heads at a time and then the rest in twos.
    #[inline(always)]
    fn heads<L: Lanes, const Q: usize>(mut self, l: L) {
        let group = self.step.group();
        let mut head = 0;
        while head < group {
            head += match group - head {
                left if left >= Q => self.scores::<L, Q>(l, head),
                2.. => self.scores::<L, 2>(l, head),
                _ => self.scores::<L, 1>(l, head),
            };
        }
    }

    /// How many heads that were.
    #[inline(always)]
    fn scores<L: Lanes, const Q: usize>(&mut self, l: L, head: usize) -> usize {
        let token = Token::of(self.step, self.row);
        let head_dim = self.step.kv.shape().head_dim;
        let q = token.queries(self.kv_head);
        let q: [&[f32]; Q] = std::array::from_fn(|h| &q[(head + h) * head_dim..][..head_dim]);
        let mut queries = [P::Query::default(); Q];
        for h in 0..Q {
            queries[h] = P::query(q[h]); // no closure: it would be called, without the tier's instructions
        }
        let key_bytes = self.step.kv.shape().key_bytes();
        let first = token.pages.start + self.first;
        let pages = first..token.pages.end.min(first + PAGES);
        let weights = self.weights.chunks_exact_mut(self.step.group());
        for (page, weights) in pages.clone().zip(weights) {
            let (keys, _): (P, _) = token.page(page, self.kv_head);
            let next = token.bytes(page + 1, &pages, self.kv_head);
            for line in next.get(2 * key_bytes..).unwrap_or_default().as_chunks::<64>().0 {
                l.prefetch(line.as_ptr());
            }
            let mut ahead = Ahead::all(next.get(..key_bytes).unwrap_or_default());
            let scores = keys.scores(l, q, &queries, self.step.scale, &mut ahead);
            for (weights, scores) in weights[head..].iter_mut().zip(scores) {
                for (p, score) in weights.p.iter_mut().zip(scores) {
                    l.store(score, p);
                }
            }
        }
        Q
    }
}

/// The weights of all pages, from their scores.
struct Weigh<'a, 'w, P: Page<'a>> {
    step: Step<'a>,
    row: usize,
    kv_head: usize,
    /// `[pages, heads of a group]`
    weights: &'w mut [Weights],
    page: PhantomData<P>,
}

impl<'a, P: Page<'a>> Kernel for Weigh<'a, '_, P> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let token = Token::of(self.step, self.row);
        let group = self.step.group();
        for first in (0..group).step_by(HEADS) {
            let mut softmax = Softmax::default();
            let heads = first..group.min(first + HEADS);
            for (page, weights) in token.pages.clone().zip(self.weights.chunks_exact_mut(group)) {
                let (values, seen): (P, _) = token.page(page, self.kv_head);
                let (together, rest) = weights[heads.clone()].as_chunks_mut();
                for (i, weights) in together.iter_mut().enumerate() {
                    weigh::<L, P, TOGETHER>(l, &mut softmax, i * TOGETHER, values, seen, weights);
                }
                for (h, weights) in rest.iter_mut().enumerate() {
                    let number = together.len() * TOGETHER + h;
                    weigh::<L, P, 1>(l, &mut softmax, number, values, seen, std::array::from_mut(weights));
                }
            }
        }
    }
}

/// Turns scores that `weights` hold into weights, of `Q` heads from number `first` on.
#[inline(always)]
fn weigh<'a, L: Lanes, P: Page<'a>, const Q: usize>(
    l: L,
    softmax: &mut Softmax,
    first: usize,
    values: P,
    seen: Seen,
    weights: &mut [Weights; Q],
) {
    let mut scores = [[l.splat(0.0); PARTS]; Q];
    for h in 0..Q {
        for i in 0..PARTS {
            scores[h][i] = l.load(&weights[h].p[i]);
        }
    }
    softmax.weigh(l, first, values, &[seen; Q], scores, weights);
}

/// The sums over the values of all pages, for some channels.
struct Add<'a, 'w, P: Page<'a>> {
    step: Step<'a>,
    row: usize,
    kv_head: usize,
    /// `[pages, heads of a group]`
    weights: &'w [Weights],
    channels: Range<usize>,
    /// `[heads of a group, channels]`
    sums: &'w mut [f32],
    page: PhantomData<P>,
}

impl<'a, P: Page<'a>> Kernel for Add<'a, '_, P> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L) {
        self.sums.fill(0.0);
        match L::ACCUMULATORS {
            8.. => self.heads::<L, 4, 2>(l),
            4.. => self.heads::<L, 4, 1>(l),
            _ => self.heads::<L, 2, 2>(l),
        }
        let token = Token::of(self.step, self.row);
        let last = &self.weights[(token.pages.len() - 1) * self.step.group()..];
        for (sums, weights) in self.sums.chunks_exact_mut(self.channels.len()).zip(last) {
            for sum in sums {
                *sum /= weights.sum;
            }
        }
    }
}

impl<'a, P: Page<'a>> Add<'a, '_, P> {
    /// `Q` heads and `W` vectors of channels at a time, and then the rest in twos.
    #[inline(always)]
    fn heads<L: Lanes, const Q: usize, const W: usize>(&mut self, l: L) {
        let group = self.step.group();
        let mut head = 0;
        while head < group {
            head += match group - head {
                left if left >= Q => self.values::<L, Q, W>(l, head),
                2.. => self.values::<L, 2, 2>(l, head),
                _ => self.values::<L, 1, 2>(l, head),
            };
        }
    }

    /// How many heads that were.
    #[inline(always)]
    fn values<L: Lanes, const Q: usize, const W: usize>(&mut self, l: L, head: usize) -> usize {
        let token = Token::of(self.step, self.row);
        let channels = self.channels.len();
        let mut sums = self.sums[head * channels..].chunks_exact_mut(channels);
        let mut outs: [&mut [f32]; Q] = std::array::from_fn(|_| sums.next().unwrap_or_default());
        let key_bytes = self.step.kv.shape().key_bytes();
        let (stride, dim) = (key_bytes / P::ROWS, self.step.kv.shape().padded_dim());
        let columns = stride * self.channels.start / dim..stride * self.channels.end / dim;
        for (page, weights) in token.pages.clone().zip(self.weights.chunks_exact(self.step.group())) {
            let (values, seen): (P, _) = token.page(page, self.kv_head);
            let next = token.bytes(page + 1, &token.pages, self.kv_head);
            let mut ahead =
                Ahead::columns(next.get(key_bytes..2 * key_bytes).unwrap_or_default(), stride, columns.clone());
            let Some(weights) = weights[head..].first_chunk::<Q>() else { continue };
            add_values::<L, P, Q, W>(l, values, &[seen; Q], weights, self.channels.clone(), &mut outs, &mut ahead);
        }
        Q
    }
}
