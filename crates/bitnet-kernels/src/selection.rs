//! Logits of the tokens that can be chosen, exactly, without reading the whole head.
//!
//! 1. A [`Look`] at all rows of the [`Planes`] approximates all logits.
//! 2. The `count` best of them are computed exactly. The least of these is not above the `count`-th best logit, so what lies
//!    below it does not matter.
//! 3. Rows whose approximation plus its bound reaches that far get a closer look with the fine plane, those that still do the
//!    closest with the finest, and the rest are computed exactly, as the full head does.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::aligned::Aligned;
use crate::arch;
use crate::dense_formats::PANEL;
use crate::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::planes::{Bound, Look, Planes, Query, lowest_bits, upper};
use crate::threads::ColumnTile;
use crate::{Cpu, Dense, DenseFormat, DenseWeights, Isa, KernelError, Rows, Top};

/// More best tokens than this are not searched for.
const MAX_COUNT: usize = 1024;
/// More tokens whose logits are wanted in any case than this are too many.
const MAX_IDS: usize = 4096;
/// More rows at once are left to the full head.
const MAX_QUERIES: usize = 16;
/// Steps for which the full head runs after a selection that read as much.
const PAUSE: u32 = 32;
/// Rows that are looked at together.
const GROUP: usize = 64;
/// Rows that a thread takes at a time.
const GRAIN: Range<usize> = 4 * GROUP..usize::MAX;

/// Memory of a head for selections. The planes are made at the second step that could use them: a single token is faster
/// without.
pub(crate) struct Selection {
    planes: Planes,
    queries: Vec<Query>,
    /// Of every query, candidates for the best approximations.
    best: Vec<Vec<(f32, u32)>>,
    /// Logits of single rows.
    exact: Aligned<f32>,
    /// Selections asked for so far, up to the first.
    asked: u32,
    /// Selections to leave out.
    pause: u32,
}

/// Bytes that [`Backend::head`](crate::Backend::head) reserves on the CPU besides the weights.
pub fn selection_bytes(weights: &DenseWeights) -> usize {
    Selection::bytes(weights.format, weights.rows, weights.cols).unwrap_or(0)
}

impl Selection {
    /// Bytes that a head takes for selections; `None` when its format does not allow for them. (Heads of fewer
    /// bits per weight than the coarse plane would not gain.)
    pub(crate) fn bytes(format: DenseFormat, rows: usize, cols: usize) -> Option<usize> {
        let wide = match format {
            DenseFormat::F32 | DenseFormat::F16 | DenseFormat::BF16 | DenseFormat::Q8_0 | DenseFormat::Q6K => true,
            DenseFormat::Q4_0 | DenseFormat::Q4K | DenseFormat::Ternary => false,
        };
        let fits = rows > 0 && cols > 0 && cols.is_multiple_of(LANES) && cols <= 1 << 16 && u32::try_from(rows).is_ok();
        (wide && fits).then(|| Planes::bytes(rows, cols))
    }

    pub(crate) fn reserve(rows: usize, cols: usize) -> Result<Selection, KernelError> {
        Ok(Selection {
            planes: Planes::reserve(rows, cols)?,
            queries: (0..MAX_QUERIES).map(|_| Query::new(cols)).collect::<Result<_, _>>()?,
            best: (0..MAX_QUERIES).map(|_| Vec::with_capacity(2 * MAX_COUNT)).collect(),
            exact: Aligned::zeroed("logits of single rows", MAX_COUNT.max(MAX_IDS))?,
            asked: 0,
            pause: 0,
        })
    }

    /// The part of the planes that every selection reads, once they are made.
    pub(crate) fn coarse_plane(&self) -> Option<&[u8]> {
        (self.asked >= 2).then(|| self.planes.coarse_plane())
    }

    /// Fills every row of `out` with those logits of a row of `x` that its `Top` wants, and negative infinity for all others.
    /// Returns the bytes read; `None` when the full head must run.
    pub(crate) fn run(&mut self, cpu: &Cpu, x: &[f32], head: &Dense, tops: &[Top<'_>], out: &mut Rows) -> Option<u64> {
        let few = |top: &Top<'_>| {
            let (count, ids) = (MAX_COUNT.min(head.rows() / 16), MAX_IDS.min(head.rows() / 4));
            (1..=count).contains(&top.count) && top.ids.len() <= ids && !top.margin.is_nan()
        };
        if !(1..=MAX_QUERIES).contains(&tops.len()) || !tops.iter().all(few) {
            return None;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        self.asked = (self.asked + 1).min(3);
        match self.asked {
            1 => return None,
            2 => self.planes.fill(cpu, head),
            _ => {}
        }
        for (query, x) in self.queries.iter_mut().zip(x.chunks(head.cols())) {
            if !query.set(x, &self.planes) {
                return None;
            }
        }
        let look = Look::suiting(&self.queries[..tops.len()]);
        let first = self.approximate(cpu, look, out);
        let bytes = self.planes.look_bytes(look) as u64 + self.select(cpu, first, x, head, tops, out)?;
        // another row costs the full head about an eighth more
        if bytes >= (head.bytes() / 8 * (7 + tops.len())) as u64 {
            self.pause = PAUSE;
        }
        Some(bytes)
    }

    /// Fills `out` with approximations.
    fn approximate(&self, cpu: &Cpu, look: Look, out: &mut Rows) -> First {
        let queries = &self.queries[..out.len()];
        cpu.pool().columns(&mut [out], GRAIN, |_, mut tile| {
            let rows = tile.columns();
            let facts = &self.planes.facts()[rows.clone()];
            let mut logits: [&mut [f32]; MAX_QUERIES] = Default::default();
            logits.iter_mut().zip(tile.rows_mut(0..queries.len())).for_each(|(logits, row)| *logits = row);
            arch::first_sums(cpu.isa(), look, self.planes.rows(rows), queries, |row, query, sums| {
                for (query, &sum) in (query..).zip(sums) {
                    logits[query][row] = queries[query].first(look, &facts[row], sum);
                }
            });
        });
        let mut first = First { look, bounds: [Bound::default(); MAX_QUERIES] };
        first.bounds.iter_mut().zip(queries).for_each(|(bound, query)| *bound = query.bound(look));
        first
    }

    /// Turns approximations into what `tops` want. Returns the bytes read.
    fn select(
        &mut self,
        cpu: &Cpu,
        first: First,
        x: &[f32],
        head: &Dense,
        tops: &[Top<'_>],
        out: &mut Rows,
    ) -> Option<u64> {
        let Selection { planes, queries, best, exact, .. } = self;
        let (planes, queries, best) = (&*planes, &queries[..tops.len()], &mut best[..tops.len()]);
        let isa = cpu.isa();
        for (i, top) in tops.iter().enumerate() {
            let logits = out.row_mut(i);
            top.ids.iter().for_each(|&id| logits[id as usize] = f32::NEG_INFINITY); // computed in any case
        }
        let approximations = &*out;
        cpu.pool().chunks(best, 1, 1, |i, best| largest(approximations.row(i), tops[i].count, &mut best[0]));

        let mut bytes = 0;
        let mut floors = [f64::NEG_INFINITY; MAX_QUERIES];
        for (((top, best), x), floor) in tops.iter().zip(&*best).zip(x.chunks(head.cols())).zip(&mut floors) {
            let found = &mut exact[..best.len()];
            cpu.pool().chunks(found, 1, 1, |i, out| out[0] = dot(isa, head, best[i].1 as usize, x));
            if found.iter().any(|logit| !logit.is_finite()) {
                return None;
            }
            if best.len() == top.count {
                let least = found.iter().fold(f32::INFINITY, |least, &logit| if logit < least { logit } else { least });
                *floor = f64::from(least) - f64::from(top.margin);
            }
            bytes += (found.len() * head.row_bytes()) as u64;
        }

        let bound = first.bounds[..tops.len()].iter().fold(Bound::default(), |most, &bound| most.larger(bound));
        let looks = Looks { isa, first, planes, queries, bound, floors, head, x };
        let (read, healthy) = (AtomicU64::new(0), AtomicBool::new(true));
        cpu.pool().columns(&mut [out], GRAIN, |_, mut tile| {
            let columns = tile.columns();
            for first in columns.clone().step_by(GROUP) {
                let (bytes, finite) = looks.group(first..columns.end.min(first + GROUP), &mut tile);
                read.fetch_add(bytes, Ordering::Relaxed);
                healthy.fetch_and(finite, Ordering::Relaxed);
            }
        });
        if !healthy.into_inner() {
            return None;
        }

        for (i, (top, x)) in tops.iter().zip(x.chunks(head.cols())).enumerate() {
            let wanted = &mut exact[..top.ids.len()];
            cpu.pool().chunks(wanted, 1, 4, |i, out| out[0] = dot(isa, head, top.ids[i] as usize, x));
            if wanted.iter().any(|logit| !logit.is_finite()) {
                return None;
            }
            let logits = out.row_mut(i);
            top.ids.iter().zip(&*wanted).for_each(|(&id, &logit)| logits[id as usize] = logit);
            bytes += (wanted.len() * head.row_bytes()) as u64;
        }
        Some(bytes + read.into_inner())
    }
}

/// How all logits were approximated.
#[derive(Clone, Copy)]
struct First {
    look: Look,
    /// Of every query, how far off its approximations may be.
    bounds: [Bound; MAX_QUERIES],
}

/// Closer and closer looks at rows whose approximations reach the floor of some query.
struct Looks<'a> {
    isa: Isa,
    first: First,
    planes: &'a Planes,
    queries: &'a [Query],
    /// Of all queries.
    bound: Bound,
    floors: [f64; MAX_QUERIES],
    head: &'a Dense,
    /// `[queries, cols]`
    x: &'a [f32],
}

impl Looks<'_> {
    /// Puts logits in the place of approximations, or negative infinity where they lie below the floor, for at most [`GROUP`] rows.
    /// Returns the bytes read, and whether all logits are finite. What one look leaves is fetched for the next, by all queries
    /// together.
    fn group(&self, rows: Range<usize>, tile: &mut ColumnTile<'_>) -> (u64, bool) {
        let Looks { first: First { look, bounds }, planes, queries, head, .. } = self;
        let facts = &planes.facts()[rows.clone()];
        let within = rows.start - tile.columns().start..rows.end - tile.columns().start;
        // Of every query, a bit for each row that reaches the floor. Sums of f32 are never rounded to below a float that they reach.
        let mut reaching = [0u64; MAX_QUERIES];
        let mut most = [0.0; GROUP];
        most.iter_mut().zip(facts).for_each(|(most, facts)| *most = upper(self.bound.first(*look, facts)));
        for q in 0..queries.len() {
            let floor = (self.floors[q] as f32).next_down();
            let mut reaches = [0u8; GROUP];
            for ((reaches, logit), most) in reaches.iter_mut().zip(&tile.row(q)[within.clone()]).zip(&most) {
                let below = logit + most < floor; // NaN is not
                *reaches = u8::from(!below);
            }
            reaching[q] =
                u64::from_le_bytes(std::array::from_fn(|i| lowest_bits(u64::from_le_bytes(reaches.as_chunks().0[i]))));
        }
        let of_any = |reaching: &[u64]| reaching.iter().fold(0, |any, bits| any | bits);
        let read = |bits: u64, bytes: usize| u64::from(bits.count_ones()) * bytes as u64;

        let mut bytes = 0;
        if *look == Look::Coarse {
            let any = of_any(&reaching);
            bytes += read(any, planes.fine_row_bytes());
            each_bit(any, |i| arch::fetch(planes.fine(rows.start + i)));
            for (q, query) in queries.iter().enumerate() {
                let logits = &mut tile.row(q)[within.clone()];
                each_bit(reaching[q], |i| {
                    let sum = arch::bit_sum(self.isa, planes.fine(rows.start + i), query);
                    let logit = query.fine(&facts[i], logits[i], sum);
                    logits[i] = logit as f32;
                    reaching[q] &= !(u64::from(logit + bounds[q].fine(&facts[i]) < self.floors[q]) << i);
                });
            }
        }

        let any = of_any(&reaching);
        bytes += read(any, planes.fine_row_bytes());
        each_bit(any, |i| arch::fetch(planes.finest(rows.start + i)));
        for (q, query) in queries.iter().enumerate() {
            let logits = &tile.row(q)[within.clone()];
            each_bit(reaching[q], |i| {
                let sum = arch::bit_sum(self.isa, planes.finest(rows.start + i), query);
                let logit = query.finest(&facts[i], logits[i], sum);
                reaching[q] &= !(u64::from(logit + bounds[q].finest(&facts[i]) < self.floors[q]) << i);
            });
        }

        let any = of_any(&reaching);
        bytes += read(any, head.row_bytes());
        each_bit(any, |i| arch::fetch(head.row(rows.start + i)));
        let mut finite = true;
        for (q, x) in self.x.chunks(head.cols()).enumerate() {
            let logits = &mut tile.row(q)[within.clone()];
            logits.fill(f32::NEG_INFINITY);
            each_bit(reaching[q], |i| {
                let logit = dot(self.isa, head, rows.start + i, x);
                finite &= logit.is_finite();
                // Whoever chooses then has fewer to look at.
                logits[i] = if f64::from(logit) < self.floors[q] { f32::NEG_INFINITY } else { logit };
            });
        }
        (bytes, finite)
    }
}

/// Calls `each` with the number of every bit that is set.
fn each_bit(mut bits: u64, mut each: impl FnMut(usize)) {
    while bits != 0 {
        each(bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
}

/// The `count` largest values above negative infinity and their places, in any order; fewer when there are no more.
fn largest(values: &[f32], count: usize, best: &mut Vec<(f32, u32)>) {
    best.clear();
    let mut least = f32::NEG_INFINITY;
    let cut = |best: &mut Vec<(f32, u32)>| {
        let (_, &mut least, _) = best.select_nth_unstable_by(count - 1, |a, b| b.0.total_cmp(&a.0));
        best.truncate(count);
        least.0
    };
    for (group, values) in values.chunks(GROUP).enumerate() {
        // Nearly all groups are dismissed as a whole. No early end, which would cost vectors; no closure, which may become a call.
        let mut above = false;
        for &value in values {
            above |= value > least;
        }
        if !above {
            continue;
        }
        for (i, &value) in values.iter().enumerate() {
            if value > least {
                best.push((value, (group * GROUP + i) as u32));
                if best.len() == 2 * count {
                    least = cut(best);
                }
            }
        }
    }
    if best.len() > count {
        cut(best);
    }
}

/// One logit, in the order of additions of [`dense_matmul`](crate::dense_matmul).
fn dot(isa: Isa, head: &Dense, row: usize, x: &[f32]) -> f32 {
    dispatch(isa, Dot { head, row, x })
}

struct Dot<'a> {
    head: &'a Dense,
    row: usize,
    x: &'a [f32],
}

impl Kernel for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> f32 {
        let mut panel = [[0.0; LANES]; PANEL / LANES];
        let mut sum = l.splat(0.0);
        for (p, x) in self.x.chunks(PANEL).enumerate() {
            let w = self.head.decode_panel(l, self.row, p * PANEL, &mut panel);
            for (x, w) in x.as_chunks().0.iter().zip(w) {
                sum = l.fma(l.load(x), l.load(w), sum);
            }
        }
        l.sum(sum)
    }
}

#[cfg(test)]
mod tests;
