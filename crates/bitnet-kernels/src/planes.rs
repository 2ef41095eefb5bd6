//! Bit planes of an output head: a uniform 7-bit quantisation of every row, cut so that a look at all rows reads 5 bits per
//! weight, or 6, a closer look at some of them one bit more, and the closest at fewer still another; with a bound of what the
//! difference to the real weights can matter.
//!
//! Row `r` is approximated by `step · (u - 63.5)` with codes `u` in `0..128`. The coarse plane holds `u / 4`, which stands for
//! the middle of four codes, `step · (4 (u / 4) - 62)`; the fine plane holds `u / 2 % 2`, the finest `u % 2`. Sums over codes
//! are exact integers.
//! For weights `w`, approximation `ŵ`, activations `x` and their quantisation `x̂`, by Cauchy and Schwarz
//!
//! `|w·x - ŵ·x̂| = |(w - ŵ)·x + ŵ·(x - x̂)| ≤ |w - ŵ| |x| + (|w| + |w - ŵ|) |x - x̂|`.
//!
//! Activations are 16-bit integers in two halves. The closer planes meet the upper halves only. What they leave out is small and
//! known: a bit stands for `± step` or `± step / 2`, so at most that times the sum of the lower halves' sizes. A first [`Look`]
//! with 6 bits meets the upper halves only, too: these are its `x̂`.

use crate::aligned::Aligned;
use crate::dense_formats::PANEL;
use crate::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::{Cpu, Dense, KernelError};

/// Columns of a block. Its coarse codes are 64 bytes of `u / 8`, column `p` in the low and column `64 + p` in the high half
/// of byte `p`; and one bit per column, `u / 4 % 2`. All coarse halves of a row stand first, then its bits.
pub(crate) const BLOCK: usize = 128;
/// Bytes of a block's halves.
pub(crate) const HALVES: usize = BLOCK / 2;
/// Bytes of a block's bits.
pub(crate) const BITS: usize = BLOCK / 8;
/// Rows start on a cache line.
const LINE: usize = 64;
/// Rows whose largest weight lies outside of this range are not approximated. Inside of it no square overflows, and errors whose
/// squares vanish (below 2^-74 each, 2^-66 in the longest row) are below what the bound allows for its own rounding.
const RANGE: std::ops::RangeInclusive<f32> = 1.0 / (1u64 << 40) as f32..=(1u64 << 40) as f32;
/// Largest quantised activation: its upper half is an int8.
const LARGEST: f64 = 127.0 * 256.0;
/// Half a unit in the last place of 1.
const ROUNDING: f64 = 1.0 / (1u64 << 24) as f64;

/// What is multiplied for a first approximation of all logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Look {
    /// The coarse codes by both halves of the activations: reads least, which is what a single query waits for.
    Coarse,
    /// Codes without the finest bit by the upper halves: half the products and narrower bounds, for several queries whose
    /// lower halves matter little.
    Fine,
}

impl Look {
    /// What suits `queries`.
    pub(crate) fn suiting(queries: &[Query]) -> Look {
        let fine = queries.len() >= SEVERAL && queries.iter().all(|query| query.upper_suffices);
        if fine { Look::Fine } else { Look::Coarse }
    }
}

/// From so many queries on products cost more than memory.
const SEVERAL: usize = 4;
/// Of the activations' length, what the upper halves may leave out, so that the bounds of [`Look::Fine`] are narrower: its codes leave
/// out less than the coarse ones by so much, where weights are normally distributed.
const LITTLE: f64 = 0.026;

/// What is known about a row besides its codes.
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct RowFacts {
    /// Distance between two codes.
    step: f32,
    /// At least the length of the row.
    length: f32,
    /// At least the length of what the coarse codes leave out.
    coarse_error: f32,
    /// At least the length of what the codes without the finest bit leave out.
    fine_error: Upper,
    /// At least the length of what all codes leave out.
    finest_error: Upper,
}

/// The upper half of a positive f32, rounded up: four rows' facts fit a cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
struct Upper(u16);

impl From<f32> for Upper {
    fn from(x: f32) -> Self {
        Upper((x.to_bits().saturating_add(0xffff) >> 16) as u16)
    }
}

impl From<Upper> for f64 {
    fn from(Upper(half): Upper) -> f64 {
        f64::from(f32::from_bits(u32::from(half) << 16))
    }
}

/// The planes of a head `[rows, cols]`.
pub(crate) struct Planes {
    blocks: usize,
    coarse_row: usize,
    coarse: Aligned<u8>,
    /// By itself, since several queries read it whole.
    fine: Aligned<u8>,
    finest: Aligned<u8>,
    facts: Aligned<RowFacts>,
    /// At least the length of every row that is approximated.
    longest: f32,
}

/// Bytes of the coarse plane of a row.
fn coarse_row(blocks: usize) -> usize {
    (blocks * (HALVES + BITS)).next_multiple_of(LINE)
}

impl Planes {
    /// Bytes that the planes of a head take.
    pub(crate) fn bytes(rows: usize, cols: usize) -> usize {
        let blocks = cols.div_ceil(BLOCK);
        rows.saturating_mul(coarse_row(blocks) + 2 * blocks * BITS + size_of::<RowFacts>())
    }

    /// Reserves memory, which nobody touches before [`fill`](Self::fill).
    pub(crate) fn reserve(rows: usize, cols: usize) -> Result<Planes, KernelError> {
        let what = "the bit planes of the output head";
        let blocks = cols.div_ceil(BLOCK);
        let coarse_row = coarse_row(blocks);
        Ok(Planes {
            blocks,
            coarse_row,
            coarse: Aligned::zeroed(what, rows.saturating_mul(coarse_row))?,
            fine: Aligned::zeroed(what, rows.saturating_mul(blocks * BITS))?,
            finest: Aligned::zeroed(what, rows.saturating_mul(blocks * BITS))?,
            facts: Aligned::zeroed(what, rows)?,
            longest: 0.0,
        })
    }

    /// Planes of any codes, to compare sums with.
    pub(crate) fn of_codes(rows: usize, cols: usize, mut code: impl FnMut() -> u8) -> Result<Planes, KernelError> {
        let mut planes = Planes::reserve(rows, cols)?;
        planes
            .coarse
            .iter_mut()
            .chain(planes.fine.iter_mut())
            .chain(planes.finest.iter_mut())
            .for_each(|byte| *byte = code());
        Ok(planes)
    }

    /// Quantises all rows. Allocates nothing.
    pub(crate) fn fill(&mut self, cpu: &Cpu, dense: &Dense) {
        let bits = self.fine_row_bytes();
        let (coarse, fine, finest) = (&mut *self.coarse, &mut *self.fine, &mut *self.finest);
        let arrays = ((coarse, self.coarse_row), (fine, bits), (finest, bits), (&mut *self.facts, 1));
        let grain = crate::threads::grain(dense.cols());
        cpu.pool().zip_rows(dense.rows(), grain, arrays, |row, coarse, fine, finest, facts| {
            facts[0] = dispatch(cpu.isa(), Encode { dense, row, coarse, fine, finest });
        });
        let lengths = self.facts.iter().map(|facts| facts.length);
        self.longest = lengths.filter(|length| length.is_finite()).fold(0.0, f32::max);
    }

    /// Bytes that a look at all rows reads.
    pub(crate) fn look_bytes(&self, look: Look) -> usize {
        let coarse = self.coarse.len() + size_of_val(&*self.facts);
        match look {
            Look::Coarse => coarse,
            Look::Fine => coarse + self.facts.len() * self.fine_row_bytes(),
        }
    }

    /// The coarse codes of all rows, as they lie in memory.
    pub(crate) fn coarse_plane(&self) -> &[u8] {
        &self.coarse
    }

    /// Bytes that a closer look at a row reads, and the closest.
    pub(crate) fn fine_row_bytes(&self) -> usize {
        self.blocks * BITS
    }

    /// The codes of some rows.
    pub(crate) fn rows(&self, rows: std::ops::Range<usize>) -> CodeRows<'_> {
        let coarse = &self.coarse[rows.start * self.coarse_row..rows.end * self.coarse_row];
        let fine = &self.fine[rows.start * self.fine_row_bytes()..rows.end * self.fine_row_bytes()];
        CodeRows { coarse, fine, row_bytes: self.coarse_row, blocks: self.blocks }
    }

    /// The fine bits of a row.
    pub(crate) fn fine(&self, row: usize) -> &[u8] {
        &self.fine[row * self.fine_row_bytes()..(row + 1) * self.fine_row_bytes()]
    }

    /// The finest bits of a row.
    pub(crate) fn finest(&self, row: usize) -> &[u8] {
        &self.finest[row * self.fine_row_bytes()..(row + 1) * self.fine_row_bytes()]
    }

    /// What is known about every row.
    pub(crate) fn facts(&self) -> &[RowFacts] {
        &self.facts
    }
}

/// Codes of consecutive rows.
#[derive(Clone, Copy)]
pub(crate) struct CodeRows<'a> {
    coarse: &'a [u8],
    fine: &'a [u8],
    row_bytes: usize,
    blocks: usize,
}

/// Codes of a row, one entry per block.
#[derive(Clone, Copy)]
pub(crate) struct CodeRow<'a> {
    /// `u / 8`
    pub(crate) halves: &'a [[u8; HALVES]],
    /// `u / 4 % 2`
    pub(crate) bits: &'a [[u8; BITS]],
    /// `u / 2 % 2`
    pub(crate) fine: &'a [[u8; BITS]],
}

impl<'a> CodeRows<'a> {
    /// How many rows.
    pub(crate) fn len(&self) -> usize {
        self.coarse.len() / self.row_bytes
    }

    /// Bytes from the coarse codes of a row to those of the next.
    #[cfg(target_arch = "x86_64")] // the matrix unit goes from row to row by itself
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The codes of a row.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> CodeRow<'a> {
        let coarse = &self.coarse[row * self.row_bytes..(row + 1) * self.row_bytes];
        let (halves, bits) = coarse.split_at(self.blocks * HALVES);
        let fine = &self.fine[row * self.blocks * BITS..][..self.blocks * BITS];
        let bits = bits[..self.blocks * BITS].as_chunks().0;
        CodeRow { halves: halves.as_chunks().0, bits, fine: fine.as_chunks().0 }
    }
}

/// Quantises one row.
struct Encode<'a> {
    dense: &'a Dense,
    row: usize,
    coarse: &'a mut [u8],
    fine: &'a mut [u8],
    finest: &'a mut [u8],
}

/// Adding and subtracting it rounds small numbers to whole ones.
const WHOLE: f32 = 12_582_912.0; // 1.5 * 2^23

/// The code of `w` as a float: `w / step + 63.5`, rounded, in `0..=127`.
#[inline(always)]
fn code<L: Lanes>(l: L, w: L::V, inverse_step: L::V) -> L::V {
    let code = l.fma(w, inverse_step, l.splat(63.5));
    let code = l.smaller(l.larger(code, l.splat(0.0)), l.splat(127.0));
    l.sub(l.add(code, l.splat(WHOLE)), l.splat(WHOLE))
}

/// `code / 2` or `code / 4`, the rest dropped.
#[inline(always)]
fn shortened<L: Lanes>(l: L, code: L::V, by: f32) -> L::V {
    // the middle of what becomes one code lies at its whole number
    let code = l.fma(code, l.splat(1.0 / by), l.splat(0.5 / by - 0.5));
    l.sub(l.add(code, l.splat(WHOLE)), l.splat(WHOLE))
}

/// `squares + (w - step · (factor · code - middle))²`
#[inline(always)]
fn add_square<L: Lanes>(l: L, squares: L::V, w: L::V, minus_step: L::V, code: L::V, factor: f32, middle: f32) -> L::V {
    let error = l.fma(minus_step, l.fma(l.splat(factor), code, l.splat(-middle)), w);
    l.fma(error, error, squares)
}

/// Steps that are tried: the whole range of the row, one that suits normally distributed weights, and one in between.
const STEPS: usize = 3;

impl Kernel for Encode<'_> {
    type Output = RowFacts;

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> RowFacts {
        let Encode { dense, row, coarse, fine, finest } = self;
        let cols = dense.cols();
        let mut panel = [[0.0; LANES]; PANEL / LANES];
        let (mut max, mut squares) = (l.splat(0.0), l.splat(0.0));
        for first in (0..cols).step_by(PANEL) {
            for w in dense.decode_panel(l, row, first, &mut panel) {
                let w = l.load(w);
                max = l.larger(l.larger(w, l.sub(l.splat(0.0), w)), max);
                squares = l.fma(w, w, squares);
            }
        }
        let (max, squares) = (l.largest(max), l.sum(squares));
        if !RANGE.contains(&max) || !squares.is_finite() {
            // Zeros, or so small that it does not matter; all others are never left out.
            let small = squares.is_finite() && max < *RANGE.start();
            let length = if small { upper(f64::from(max) * (cols as f64).sqrt()) } else { f32::INFINITY };
            return RowFacts {
                step: 0.0,
                length,
                coarse_error: length,
                fine_error: length.into(),
                finest_error: length.into(),
            };
        }

        let whole = max / 64.0;
        let normal = (0.049 * (squares / cols as f32).sqrt()).min(whole);
        let steps: [f32; STEPS] = [normal, (normal * whole).sqrt(), whole];
        let mut errors = [l.splat(0.0); STEPS];
        for first in (0..cols).step_by(PANEL) {
            for w in dense.decode_panel(l, row, first, &mut panel) {
                let w = l.load(w);
                for i in 0..STEPS {
                    let coarse = shortened(l, code(l, w, l.splat(1.0 / steps[i])), 4.0);
                    errors[i] = add_square(l, errors[i], w, l.splat(-steps[i]), coarse, 4.0, 62.0);
                }
            }
        }
        let mut best = (f32::INFINITY, whole);
        for i in 0..STEPS {
            let error = l.sum(errors[i]);
            if error < best.0 {
                best = (error, steps[i]);
            }
        }

        let (coarse_error, step) = best;
        let (mut fine_error, mut finest_error) = (l.splat(0.0), l.splat(0.0));
        let (halves, bits) = coarse.split_at_mut(cols.div_ceil(BLOCK) * HALVES);
        let (halves, _) = halves.as_chunks_mut::<HALVES>();
        let (bits, _) = bits.as_chunks_mut::<BITS>();
        let (fine, _) = fine.as_chunks_mut::<BITS>();
        let (finest, _) = finest.as_chunks_mut::<BITS>();
        let mut codes = [[0; LANES]; PANEL / LANES];
        for first in (0..cols).step_by(PANEL) {
            let lanes = dense.decode_panel(l, row, first, &mut panel);
            let used = lanes.len();
            for (w, codes) in lanes.iter().zip(&mut codes) {
                let w = l.load(w);
                let code = code(l, w, l.splat(1.0 / step));
                let minus_step = l.splat(-step);
                fine_error = add_square(l, fine_error, w, minus_step, shortened(l, code, 2.0), 2.0, 63.0);
                finest_error = add_square(l, finest_error, w, minus_step, code, 1.0, 63.5);
                let mut lanes = [0.0; LANES];
                l.store(l.add(code, l.splat(WHOLE)), &mut lanes);
                for j in 0..LANES {
                    codes[j] = lanes[j].to_bits() as u8 & 127;
                }
            }
            codes[used..].fill([0; LANES]); // columns that do not exist meet activations of zero
            let (blocks, _) = codes.as_flattened().as_chunks::<BLOCK>();
            for (i, codes) in blocks.iter().enumerate() {
                let block = first / BLOCK + i;
                if block == halves.len() {
                    break;
                }
                for p in 0..HALVES {
                    halves[block][p] = codes[p] >> 3 | codes[HALVES + p] >> 3 << 4;
                }
                for (j, codes) in codes.as_chunks::<8>().0.iter().enumerate() {
                    let codes = u64::from_le_bytes(*codes);
                    bits[block][j] = lowest_bits(codes >> 2);
                    fine[block][j] = lowest_bits(codes >> 1);
                    finest[block][j] = lowest_bits(codes);
                }
            }
        }
        // Every lane rounds once per sum and step, which is less than the factor.
        let grow = |squares: f32| upper((f64::from(squares) * (1.0 + (cols + 64) as f64 * ROUNDING)).sqrt());
        RowFacts {
            step,
            length: grow(squares),
            coarse_error: grow(coarse_error),
            fine_error: grow(l.sum(fine_error)).into(),
            finest_error: grow(l.sum(finest_error)).into(),
        }
    }
}

/// The lowest bits of eight bytes.
#[inline(always)]
pub(crate) fn lowest_bits(bytes: u64) -> u8 {
    ((bytes & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

/// An f32 that is not below `x`.
pub(crate) fn upper(x: f64) -> f32 {
    (x as f32).next_up()
}

/// Activations as 16-bit integers in two halves: `x ≈ scale · (256 high + low)`.
pub(crate) struct Query {
    /// Whole blocks, the rest zero.
    high: Aligned<i8>,
    low: Aligned<i8>,
    scale: f64,
    /// Of the integers.
    sum: i64,
    /// Of their upper halves.
    high_sum: i64,
    /// Of a coarse first look, and of a fine one.
    bounds: [Bound; 2],
    /// Whether the upper halves leave out [`LITTLE`].
    upper_suffices: bool,
}

/// Factors of a row's lengths in the bound of its error.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bound {
    /// Of what the codes leave out.
    pub(crate) error: f64,
    /// Of the row.
    pub(crate) length: f64,
    /// Of the distance between two codes, for the fine plane; half of it more for the finest.
    pub(crate) step: f64,
    /// Added for results so small that they lose bits.
    pub(crate) least: f64,
}

impl Query {
    pub(crate) fn new(cols: usize) -> Result<Query, KernelError> {
        let len = cols.next_multiple_of(BLOCK);
        let zeroed = || Aligned::zeroed("quantised activations of the output head", len);
        let (high, low, bounds) = (zeroed()?, zeroed()?, [Bound::default(); 2]);
        Ok(Query { high, low, scale: 0.0, sum: 0, high_sum: 0, bounds, upper_suffices: false })
    }

    /// Quantises `x` for a look at `planes`. False when the bounds do not hold for it, because something is not finite or
    /// might overflow or vanish.
    pub(crate) fn set(&mut self, x: &[f32], planes: &Planes) -> bool {
        let max = x.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        if !RANGE.contains(&max) || !x.iter().all(|x| x.is_finite()) {
            return false;
        }
        self.scale = f64::from(max) / LARGEST;
        let (mut sum, mut high_sum, mut low_size, mut length) = (0, 0, 0u64, 0.0);
        let mut rests = [0.0; 2]; // what all bits leave out, and what the upper halves do
        for ((&x, high), low) in x.iter().zip(self.high.iter_mut()).zip(self.low.iter_mut()) {
            let x = f64::from(x);
            let whole = (x / self.scale).round_ties_even().clamp(-LARGEST, LARGEST);
            let integer = whole as i32;
            let upper = (integer + 128) >> 8; // -127..=127
            (*high, *low) = (upper as i8, (integer - (upper << 8)) as i8);
            sum += i64::from(integer);
            high_sum += i64::from(*high);
            low_size += u64::from(low.unsigned_abs());
            length += x * x;
            for (rest, integer) in rests.iter_mut().zip([whole, f64::from(upper << 8)]) {
                *rest += (x - self.scale * integer) * (x - self.scale * integer);
            }
        }
        (self.sum, self.high_sum) = (sum, high_sum);
        // f64 rounds some 2^-50 here; 2^-30 is more than enough
        let rests = rests.map(|rest: f64| rest.sqrt() * (1.0 + 1e-9) + length.sqrt() * 1e-12);
        let length = length.sqrt() * (1.0 + 1e-9);
        // A lane adds each product and then the tree its four sums, all rounded: |fl(w·x) - w·x| ≤ m u / (1 - m u) |w| |x|.
        let additions = (x.len().div_ceil(LANES) + 4) as f64 * ROUNDING;
        // Approximations are rounded to f32, a closer one once more, and bounds to f64.
        let own = 8.0 * ROUNDING;
        let bound = |rest: f64, low_size: u64| Bound {
            error: (length + rest) * (1.0 + own),
            length: rest + (additions / (1.0 - additions) + own) * (length + rest),
            step: self.scale * low_size as f64 * (1.0 + 1e-9),
            least: (x.len() + 16) as f64 * 2f64.powi(-148),
        };
        self.bounds = [bound(rests[0], low_size), bound(rests[1], 0)];
        self.upper_suffices = rests[1] <= LITTLE * length;
        f64::from(planes.longest) * (length + rests[1]) < 2f64.powi(100)
    }

    /// Upper and lower halves of the integers.
    #[inline]
    pub(crate) fn halves(&self) -> (&[[i8; BLOCK]], &[[i8; BLOCK]]) {
        (self.high.as_chunks().0, self.low.as_chunks().0)
    }

    /// How far approximations may be off that begin with `look`.
    pub(crate) fn bound(&self, look: Look) -> Bound {
        self.bounds[look as usize]
    }

    /// The approximation of a first look: from the coarse plane, given `Σ (u / 4) x̂`, or without the finest, given
    /// `Σ (u / 2) high`.
    #[inline(always)]
    pub(crate) fn first(&self, look: Look, facts: &RowFacts, sum: i64) -> f32 {
        let whole = match look {
            Look::Coarse => 4 * sum - 62 * self.sum,
            Look::Fine => 256 * (2 * sum - 63 * self.high_sum),
        };
        (f64::from(facts.step) * self.scale * whole as f64) as f32
    }

    /// The approximation without the finest plane, given the coarse one and `Σ (u / 2 % 2) high`.
    #[inline]
    pub(crate) fn fine(&self, facts: &RowFacts, coarse: f32, sum: i32) -> f64 {
        f64::from(coarse) + f64::from(facts.step) * self.scale * (256 * (2 * i64::from(sum) - self.high_sum)) as f64
    }

    /// The approximation from all planes, given the one without the finest and `Σ (u % 2) high`.
    #[inline]
    pub(crate) fn finest(&self, facts: &RowFacts, fine: f32, sum: i32) -> f64 {
        f64::from(fine) + f64::from(facts.step) * self.scale * (128 * (2 * i64::from(sum) - self.high_sum)) as f64
    }
}

impl Bound {
    /// What bounds whatever either does.
    pub(crate) fn larger(self, other: Bound) -> Bound {
        Bound {
            error: self.error.max(other.error),
            length: self.length.max(other.length),
            step: self.step.max(other.step),
            least: self.least.max(other.least),
        }
    }

    /// More than what the logit can exceed the approximation of a first look by. (NaN or infinite for rows that must not be
    /// left out.)
    #[inline(always)]
    pub(crate) fn first(&self, look: Look, facts: &RowFacts) -> f64 {
        match look {
            Look::Coarse => self.coarse(facts),
            Look::Fine => self.fine(facts),
        }
    }

    /// The same for the coarse approximation.
    #[inline(always)]
    pub(crate) fn coarse(&self, facts: &RowFacts) -> f64 {
        f64::from(facts.coarse_error) * self.error + f64::from(facts.length) * self.length + self.least
    }

    /// The same for the approximation without the finest plane.
    #[inline(always)]
    pub(crate) fn fine(&self, facts: &RowFacts) -> f64 {
        f64::from(facts.fine_error) * self.error
            + f64::from(facts.length) * self.length
            + f64::from(facts.step) * self.step
            + self.least
    }

    /// The same for the approximation from all planes.
    #[inline(always)]
    pub(crate) fn finest(&self, facts: &RowFacts) -> f64 {
        f64::from(facts.finest_error) * self.error
            + f64::from(facts.length) * self.length
            + f64::from(facts.step) * 1.5 * self.step
            + self.least
    }
}

pub(crate) mod scalar;
#[cfg(test)]
pub(crate) mod tests;
