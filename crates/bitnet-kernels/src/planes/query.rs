//! Activations that meet bit planes, and how far what comes of it may be off.

use super::{BLOCK, Planes, RANGE, ROUNDING, RowFacts};
use crate::KernelError;
use crate::aligned::Aligned;
use crate::lanes::LANES;

/// Largest quantised activation: its upper half is an int8.
const LARGEST: f64 = 127.0 * 256.0;

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

/// Activations as 16-bit integers in two halves: `x ≈ scale · (256 high + low)`.
pub(crate) struct Query {
    /// Whole blocks, the rest zero.
    pub(super) high: Aligned<i8>,
    pub(super) low: Aligned<i8>,
    pub(super) scale: f64,
    /// Of the integers.
    sum: i64,
    /// Of their upper halves.
    high_sum: i64,
    /// Of a coarse first look, and of a fine one.
    pub(super) bounds: [Bound; 2],
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
