//! One page of one key/value head, in each of the formats it may have.

mod codes;
mod floats;

use crate::PAGE_LEN;
use crate::ahead::Ahead;
use crate::lanes::{LANES, Lanes};
pub(super) use codes::Codes;
pub(super) use floats::{F16, F32, Floats};

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
