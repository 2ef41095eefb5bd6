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

mod encode;
mod query;
pub(crate) mod scalar;
#[cfg(test)]
pub(crate) mod tests;

use crate::aligned::Aligned;
use crate::lanes::dispatch;
use crate::{Cpu, Dense, KernelError};
use encode::Encode;
pub(crate) use encode::lowest_bits;
pub(crate) use query::{Bound, Look, Query};

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
/// Half a unit in the last place of 1.
const ROUNDING: f64 = 1.0 / (1u64 << 24) as f64;

/// What is known about a row besides its codes. (Aligned for [`Aligned`], whose values divide a cache line.)
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(16))]
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

/// An f32 that is not below `x`.
pub(crate) fn upper(x: f64) -> f32 {
    (x as f32).next_up()
}
