//! Pages of int8 codes.

use super::{PARTS, Page, Seen, Weights, passes};
use crate::ahead::Ahead;
use crate::cpu::{ROUND, quantize_head};
use crate::lanes::{LANES, Lanes};
use crate::{KvFormat, PAGE_LEN};

/// A page of int8 codes, see [`Kv`](crate::Kv).
#[derive(Clone, Copy)]
pub(crate) struct Codes<'a> {
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
pub(crate) struct QuantizedQuery {
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
