//! One page of one key/value head, in each of the formats it may have.

use crate::ahead::Ahead;
use crate::cpu::{ROUND, quantize_head};
use crate::lanes::{LANES, Lanes};
use crate::{KvFormat, PAGE_LEN};
use std::marker::PhantomData;

/// Vectors of positions in a page.
pub(super) const PARTS: usize = PAGE_LEN / LANES;

/// Steps in which [`Page::add`] fetches what comes next.
pub(super) const STEPS: usize = PAGE_LEN / 4;

/// The positions of a page that a query sees: those from `start` to before `end`.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Seen {
    const WHOLE: Seen = Seen { start: 0, end: PAGE_LEN };

    #[inline(always)]
    pub(super) fn is_empty(self) -> bool {
        self.start >= self.end
    }

    #[inline(always)]
    fn contains(self, position: usize) -> bool {
        (self.start..self.end).contains(&position)
    }

    #[inline(always)]
    pub(super) fn is_whole(self) -> bool {
        self == Seen::WHOLE
    }

    /// Puts `x` where nothing is seen.
    #[inline(always)]
    pub(super) fn mask(self, values: &mut [[f32; LANES]; PARTS], x: f32) {
        if !self.is_whole() {
            for (i, value) in values.as_flattened_mut().iter_mut().enumerate() {
                *value = if self.contains(i) { *value } else { x };
            }
        }
    }
}

/// The weights of one page's positions for one query head, and what to multiply everything before with.
#[derive(Clone, Copy, Default)]
pub(super) struct Weights {
    /// Scores `q · k · scale` at first, then `exp(score - largest)`; 0 at positions that are not seen.
    pub(super) p: [[f32; LANES]; PARTS],
    /// int8: `p` times the scale of the value, in units of `step`.
    codes: [i8; PAGE_LEN],
    step: f32,
    /// What the codes of the values, 128 too large, add to the products.
    offset: i32,
    /// Factor of all pages before.
    pub(super) kept: f32,
    /// Sum of all weights so far.
    pub(super) sum: f32,
}

/// Keys and values of one head in one page: the three steps of attention that depend on their format.
pub(super) trait Page<'a>: Copy {
    /// What is computed once per query before its pages are walked.
    type Query: Copy + Default;

    /// Views the bytes of a head in a page; heads have `dim` channels with padding.
    fn new(bytes: &'a [u8], dim: usize) -> Self;

    /// Prepares a query head.
    fn query(q: &[f32]) -> Self::Query;

    /// `q · k · scale` of all positions, for `Q` query heads. Meanwhile `ahead` is fetched: a page is too short for the
    /// processor to foresee what follows.
    fn scores<L: Lanes, const Q: usize>(
        self,
        l: L,
        q: [&[f32]; Q],
        queries: &[Self::Query; Q],
        scale: f32,
        ahead: &mut Ahead,
    ) -> [[L::V; PARTS]; Q];

    /// Takes the weights `exp(score - largest)` of `Q` query heads, before values are added.
    fn weighed<L: Lanes, const Q: usize>(
        self,
        l: L,
        seen: &[Seen; Q],
        p: [[L::V; PARTS]; Q],
        weights: &mut [Weights; Q],
    );

    /// Rows of the values: positions, or groups of them that lie together.
    const ROWS: usize;

    /// `acc[h][c] += Σ p value` over the positions that head `h` sees, for `W` vectors of channels from vector `group` on.
    /// Meanwhile `ahead` is fetched.
    fn add<L: Lanes, const Q: usize, const W: usize>(
        self,
        l: L,
        seen: &[Seen; Q],
        group: usize,
        weights: &[Weights; Q],
        acc: &mut [[L::V; W]; Q],
        ahead: &mut Ahead,
    );
}

/// How often [`Page::scores`] goes through the keys for `Q` query heads, so that all sums stay in registers: once, or for each vector of
/// positions.
#[inline(always)]
fn passes<L: Lanes, const Q: usize>() -> usize {
    if Q * PARTS <= L::ACCUMULATORS { 1 } else { PARTS }
}

/// A float that the cache holds.
pub(super) trait Float: Copy + 'static {
    /// Sixteen of them.
    type Line: Copy + 'static;
    /// Bytes as lines.
    fn lines(bytes: &[u8]) -> &[Self::Line];
    /// Reads sixteen.
    fn load<L: Lanes>(l: L, line: &Self::Line) -> L::V;
}

/// binary32, little-endian.
#[derive(Clone, Copy)]
pub(super) struct F32;

/// binary16, little-endian.
#[derive(Clone, Copy)]
pub(super) struct F16;

impl Float for F32 {
    type Line = [u8; 4 * LANES];

    #[inline(always)]
    fn lines(bytes: &[u8]) -> &[Self::Line] {
        bytes.as_chunks().0
    }
    #[inline(always)]
    fn load<L: Lanes>(l: L, line: &Self::Line) -> L::V {
        l.load_f32(line)
    }
}

impl Float for F16 {
    type Line = [u8; 2 * LANES];

    #[inline(always)]
    fn lines(bytes: &[u8]) -> &[Self::Line] {
        bytes.as_chunks().0
    }
    #[inline(always)]
    fn load<L: Lanes>(l: L, line: &Self::Line) -> L::V {
        l.load_f16(line)
    }
}

/// A page of floats.
#[derive(Clone, Copy)]
pub(super) struct Floats<'a, F: Float> {
    /// `[dim, PAGE_LEN]`
    keys: &'a [F::Line],
    /// `[PAGE_LEN, dim]`
    values: &'a [F::Line],
    /// Lines of a value.
    groups: usize,
    float: PhantomData<F>,
}

impl<'a, F: Float> Page<'a> for Floats<'a, F> {
    type Query = ();
    const ROWS: usize = PAGE_LEN;

    #[inline(always)]
    fn new(bytes: &'a [u8], dim: usize) -> Self {
        let (keys, values) = F::lines(bytes).split_at(PARTS * dim);
        Floats { keys, values, groups: dim / LANES, float: PhantomData }
    }

    #[inline(always)]
    fn query(_: &[f32]) {}

    #[inline(always)]
    fn scores<L: Lanes, const Q: usize>(
        self,
        l: L,
        q: [&[f32]; Q],
        _: &[(); Q],
        scale: f32,
        ahead: &mut Ahead,
    ) -> [[L::V; PARTS]; Q] {
        let passes = passes::<L, Q>();
        ahead.pace((q[0].len() * passes / 4).max(1));
        let mut acc = [[l.splat(0.0); PARTS]; Q];
        if passes == 1 {
            acc = self.products::<L, Q, PARTS>(l, 0, q, ahead);
        } else {
            for i in 0..PARTS {
                let part = self.products::<L, Q, 1>(l, i, q, ahead);
                for h in 0..Q {
                    acc[h][i] = part[h][0];
                }
            }
        }
        for acc in acc.as_flattened_mut() {
            *acc = l.mul(*acc, l.splat(scale));
        }
        acc
    }

    #[inline(always)]
    fn weighed<L: Lanes, const Q: usize>(self, l: L, _: &[Seen; Q], p: [[L::V; PARTS]; Q], weights: &mut [Weights; Q]) {
        for h in 0..Q {
            for i in 0..PARTS {
                l.store(p[h][i], &mut weights[h].p[i]);
            }
        }
    }

    #[inline(always)]
    fn add<L: Lanes, const Q: usize, const W: usize>(
        self,
        l: L,
        seen: &[Seen; Q],
        group: usize,
        weights: &[Weights; Q],
        acc: &mut [[L::V; W]; Q],
        ahead: &mut Ahead,
    ) {
        if ahead.is_empty() {
            self.add_all::<L, Q, W, false>(l, seen, group, weights, acc, ahead);
        } else {
            self.add_all::<L, Q, W, true>(l, seen, group, weights, acc, ahead);
        }
    }
}

impl<F: Float> Floats<'_, F> {
    /// Positions ascending: first what only some heads see, then what all see, and again what only some see. `ahead` is
    /// fetched along if `FETCH`.
    #[inline(always)]
    fn add_all<L: Lanes, const Q: usize, const W: usize, const FETCH: bool>(
        self,
        l: L,
        seen: &[Seen; Q],
        group: usize,
        weights: &[Weights; Q],
        acc: &mut [[L::V; W]; Q],
        ahead: &mut Ahead,
    ) {
        let (mut any, mut all) = (seen[0], seen[0]);
        for seen in &seen[1..] {
            any = Seen { start: any.start.min(seen.start), end: any.end.max(seen.end) };
            all = Seen { start: all.start.max(seen.start), end: all.end.min(seen.end) };
        }
        if !FETCH && all.is_whole() {
            let mut values = self.values.chunks_exact(self.groups);
            // So many, always: within the loop there is nothing to check.
            for i in 0..PAGE_LEN {
                let Some(value) = values.next() else { break };
                Self::add_position(l, i, &value[group..], |_| true, weights, acc);
            }
            return;
        }
        let value = |position: usize| &self.values[position * self.groups + group..];
        let shared = all.start..all.end.max(all.start);
        for i in any.start..shared.start {
            Self::add_position(l, i, value(i), |h| seen[h].contains(i), weights, acc);
        }
        let at_once = if FETCH { PAGE_LEN / STEPS } else { PAGE_LEN };
        for first in shared.clone().step_by(at_once) {
            if FETCH {
                ahead.step(l);
            }
            for i in first..shared.end.min(first + at_once) {
                Self::add_position(l, i, value(i), |_| true, weights, acc);
            }
        }
        for i in shared.end..any.end {
            Self::add_position(l, i, value(i), |h| seen[h].contains(i), weights, acc);
        }
    }

    /// Adds `p value` of one position to the heads that see it.
    #[inline(always)]
    fn add_position<L: Lanes, const Q: usize, const W: usize>(
        l: L,
        position: usize,
        value: &[F::Line],
        sees: impl Fn(usize) -> bool,
        weights: &[Weights; Q],
        acc: &mut [[L::V; W]; Q],
    ) {
        let value = &value[..W];
        let mut v = [l.splat(0.0); W];
        for c in 0..W {
            v[c] = F::load(l, &value[c]);
        }
        for h in 0..Q {
            if sees(h) {
                let p = l.splat(weights[h].p.as_flattened()[position]);
                for c in 0..W {
                    acc[h][c] = l.fma(p, v[c], acc[h][c]);
                }
            }
        }
    }

    /// `q · k` of `N` vectors of positions from number `part` on, added channel after channel.
    #[inline(always)]
    fn products<L: Lanes, const Q: usize, const N: usize>(
        self,
        l: L,
        part: usize,
        q: [&[f32]; Q],
        ahead: &mut Ahead,
    ) -> [[L::V; N]; Q] {
        if ahead.is_empty() {
            self.all_products::<L, Q, N, false>(l, part, q, ahead)
        } else {
            self.all_products::<L, Q, N, true>(l, part, q, ahead)
        }
    }

    /// The same; `ahead` is fetched along if `FETCH`.
    #[inline(always)]
    fn all_products<L: Lanes, const Q: usize, const N: usize, const FETCH: bool>(
        self,
        l: L,
        part: usize,
        q: [&[f32]; Q],
        ahead: &mut Ahead,
    ) -> [[L::V; N]; Q] {
        let (keys, _) = self.keys.as_chunks::<PARTS>();
        let channels = q[0].len();
        let (mut q, keys) = (q, &keys[..channels]);
        for q in &mut q {
            *q = &q[..channels];
        }
        let mut acc = [[l.splat(0.0); N]; Q];
        // Whole vectors of channels first, because within them no bounds need to be checked.
        let (blocks, rest) = keys.as_chunks::<LANES>();
        for (block, keys) in blocks.iter().enumerate() {
            let mut of_block = [&[0.0; LANES]; Q];
            for h in 0..Q {
                of_block[h] = &q[h].as_chunks().0[block];
            }
            for c in 0..LANES {
                if FETCH && c % 4 == 0 {
                    ahead.step(l);
                }
                let mut of_channel = [0.0; Q];
                for h in 0..Q {
                    of_channel[h] = of_block[h][c];
                }
                Self::add_channel(l, &keys[c], part, &of_channel, &mut acc);
            }
        }
        let first = blocks.len() * LANES;
        for (c, key) in rest.iter().enumerate() {
            let mut of_channel = [0.0; Q];
            for h in 0..Q {
                of_channel[h] = q[h][first + c];
            }
            Self::add_channel(l, key, part, &of_channel, &mut acc);
        }
        acc
    }

    /// Adds the products of one channel.
    #[inline(always)]
    fn add_channel<L: Lanes, const Q: usize, const N: usize>(
        l: L,
        key: &[F::Line; PARTS],
        part: usize,
        q: &[f32; Q],
        acc: &mut [[L::V; N]; Q],
    ) {
        let mut keys = [l.splat(0.0); N];
        for i in 0..N {
            keys[i] = F::load(l, &key[part + i]);
        }
        for h in 0..Q {
            let q = l.splat(q[h]);
            for i in 0..N {
                acc[h][i] = l.fma(q, keys[i], acc[h][i]);
            }
        }
    }
}

/// A page of int8 codes, see [`Kv`](crate::Kv).
#[derive(Clone, Copy)]
pub(super) struct Codes<'a> {
    /// `[dim / 4, PAGE_LEN, 4]`
    keys: &'a [[u8; 64]],
    /// `[PAGE_LEN / 4, dim, 4]`
    values: &'a [[u8; 64]],
    /// Of the keys, then of the values.
    scales: &'a [[u8; 64]],
    groups: usize,
}

/// An int8 query.
#[derive(Clone, Copy)]
pub(super) struct QuantizedQuery {
    codes: [[i8; 4]; KvFormat::MAX_INT8_HEAD / 4],
    len: usize,
    scale: f32,
    /// What the codes of the keys, 128 too large, add to the products.
    offset: i32,
}

impl Default for QuantizedQuery {
    fn default() -> Self {
        QuantizedQuery { codes: [[0; 4]; KvFormat::MAX_INT8_HEAD / 4], len: 0, scale: 0.0, offset: 0 }
    }
}

/// `128 Σ codes`.
#[inline(always)]
fn offset(codes: &[[i8; 4]]) -> i32 {
    codes.as_flattened().iter().map(|&code| i32::from(code)).sum::<i32>() << 7
}

impl<'a> Page<'a> for Codes<'a> {
    type Query = QuantizedQuery;
    const ROWS: usize = PAGE_LEN / 4;

    #[inline(always)]
    fn new(bytes: &'a [u8], dim: usize) -> Self {
        let (lines, _) = bytes.as_chunks();
        let (keys, rest) = lines.split_at(PAGE_LEN * dim / 64);
        let (values, scales) = rest.split_at(PAGE_LEN * dim / 64);
        Codes { keys, values, scales, groups: dim / LANES }
    }

    #[inline(always)]
    fn query(q: &[f32]) -> QuantizedQuery {
        let mut query = QuantizedQuery { len: q.len().div_ceil(4), ..QuantizedQuery::default() };
        let codes = query.codes.as_flattened_mut();
        query.scale = quantize_head(q, |c, code| codes[c] = code);
        query.offset = offset(&query.codes);
        query
    }

    /// Exact sums of int8 products, times the scale of the key, times `query scale · scale`.
    #[inline(always)]
    fn scores<L: Lanes, const Q: usize>(
        self,
        l: L,
        _: [&[f32]; Q],
        queries: &[QuantizedQuery; Q],
        scale: f32,
        ahead: &mut Ahead,
    ) -> [[L::V; PARTS]; Q] {
        let (mut codes, mut offsets): ([&[[i8; 4]]; Q], _) = ([&[]; Q], [0; Q]);
        for h in 0..Q {
            (codes[h], offsets[h]) = (&queries[h].codes[..queries[h].len], queries[h].offset);
        }
        let passes = passes::<L, Q>();
        ahead.pace(queries[0].len * passes);
        let mut acc = [[l.splat(0.0); PARTS]; Q];
        if passes == 1 {
            acc = l.byte_products::<Q, PARTS>(self.keys, PARTS, codes, offsets, ahead);
        } else {
            for i in 0..PARTS {
                let part = l.byte_products::<Q, 1>(&self.keys[i..], PARTS, codes, offsets, ahead);
                for h in 0..Q {
                    acc[h][i] = part[h][0];
                }
            }
        }
        for i in 0..PARTS {
            let keys = l.load_f32(&self.scales[i]);
            for h in 0..Q {
                acc[h][i] = l.mul(l.mul(acc[h][i], keys), l.splat(queries[h].scale * scale));
            }
        }
        acc
    }

    /// `code = round_half_even(p · value scale / step)` with `step = largest / 127`.
    #[inline(always)]
    fn weighed<L: Lanes, const Q: usize>(
        self,
        l: L,
        seen: &[Seen; Q],
        p: [[L::V; PARTS]; Q],
        weights: &mut [Weights; Q],
    ) {
        let zero = l.splat(0.0);
        let (mut v, mut largest, mut broken) = (p, [zero; Q], [zero; Q]);
        for h in 0..Q {
            for i in 0..PARTS {
                v[h][i] = l.mul(v[h][i], l.load_f32(&self.scales[PARTS + i]));
            }
            if !seen[h].is_whole() {
                let w = &mut weights[h].p;
                (0..PARTS).for_each(|i| l.store(v[h][i], &mut w[i]));
                seen[h].mask(w, 0.0);
                v[h] = [l.load(&w[0]), l.load(&w[1])];
            }
            largest[h] = l.larger(v[h][0], v[h][1]);
            // 0 · w is zero unless w is infinite or NaN, which must not vanish.
            broken[h] = l.mul(l.add(v[h][0], v[h][1]), zero);
        }
        // From here on a lane is a head, as far as there are so many.
        let (mut tops, mut factors, mut steps) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        let largest = l.largest_of_each(&largest);
        l.store(largest, &mut tops);
        l.store(l.smaller(l.div(l.splat(127.0), largest), l.splat(f32::MAX)), &mut factors);
        l.store(l.add(l.div(largest, l.splat(127.0)), l.sum_of_each(&broken)), &mut steps);
        for i in 0..LANES {
            factors[i] = if tops[i] > 0.0 { factors[i] } else { 0.0 };
        }
        let mut sums = [zero; Q];
        for h in 0..Q {
            let codes = weights[h].codes.as_chunks_mut().0;
            for i in 0..PARTS {
                v[h][i] = l.fma(v[h][i], l.splat(factors[h]), l.splat(ROUND));
                l.store_lowest_bytes(v[h][i], &mut codes[i]);
            }
            sums[h] = l.add(l.sub(v[h][0], l.splat(ROUND)), l.sub(v[h][1], l.splat(ROUND)));
        }
        let (mut sum_lanes, mut offsets) = ([0.0; LANES], [0; LANES]);
        l.store(l.sum_of_each(&sums), &mut sum_lanes); // of whole numbers, exact
        for i in 0..LANES {
            offsets[i] = (128.0 * sum_lanes[i]) as i32;
        }
        for h in 0..Q {
            (weights[h].step, weights[h].offset) = (steps[h], offsets[h]);
        }
    }

    /// Exact sums of int8 products, times `step`.
    #[inline(always)]
    fn add<L: Lanes, const Q: usize, const W: usize>(
        self,
        l: L,
        _: &[Seen; Q],
        group: usize,
        weights: &[Weights; Q],
        acc: &mut [[L::V; W]; Q],
        ahead: &mut Ahead,
    ) {
        let (mut codes, mut offsets): ([&[[i8; 4]]; Q], _) = ([&[]; Q], [0; Q]);
        for h in 0..Q {
            codes[h] = weights[h].codes.as_chunks().0;
            offsets[h] = weights[h].offset;
        }
        let sums = l.byte_products::<Q, W>(&self.values[group..], self.groups, codes, offsets, ahead);
        for h in 0..Q {
            let step = l.splat(weights[h].step);
            for c in 0..W {
                acc[h][c] = l.fma(sums[h][c], step, acc[h][c]);
            }
        }
    }
}
