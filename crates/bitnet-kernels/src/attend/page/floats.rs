//! Pages of f32 or f16.

use super::{PARTS, Page, STEPS, Seen, Weights, passes};
use crate::PAGE_LEN;
use crate::ahead::Ahead;
use crate::lanes::{LANES, Lanes};
use std::marker::PhantomData;

/// A float that the cache holds.
pub(crate) trait Float: Copy + 'static {
    /// Sixteen of them.
    type Line: Copy + 'static;
    /// Bytes as lines.
    fn lines(bytes: &[u8]) -> &[Self::Line];
    /// Reads sixteen.
    fn load<L: Lanes>(l: L, line: &Self::Line) -> L::V;
}

/// binary32, little-endian.
#[derive(Clone, Copy)]
pub(crate) struct F32;

/// binary16, little-endian.
#[derive(Clone, Copy)]
pub(crate) struct F16;

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
pub(crate) struct Floats<'a, F: Float> {
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
