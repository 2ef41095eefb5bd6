//! Cache lines that are fetched while something else is computed.
//!
//! A page of the KV cache is too short for the processor to foresee what follows, and all at once would fill the few places in which
//! a core waits for memory. So a kernel fetches the next page bit by bit, in the loop that computes this one.

use crate::lanes::Lanes;
use std::ops::Range;

/// Lines from several places in turns, to which memory gives more than to one. (Addresses, because slices would have the bounds of
/// every line checked, in the innermost loops.)
pub(crate) struct Ahead {
    /// The next line of the first place, and the bytes from each place to the next.
    line: *const u8,
    apart: usize,
    /// Consecutive lines that are wanted, bytes behind them that are not, and how many of the wanted are still to come.
    wanted: usize,
    between: usize,
    more: usize,
    /// Rounds through all places that are left, and those of each step.
    left: usize,
    due: usize,
}

/// Places from which lines are fetched in turns.
const PLACES: usize = 4;
/// Bytes of a cache line.
const LINE: usize = 64;

impl Ahead {
    /// All of `bytes`.
    #[inline(always)]
    pub(crate) fn all(bytes: &[u8]) -> Self {
        Ahead::columns(bytes, bytes.len(), 0..bytes.len())
    }

    /// The bytes `columns` of rows of `stride` bytes, of which there is one or a multiple of four.
    #[inline(always)]
    pub(crate) fn columns(bytes: &[u8], stride: usize, columns: Range<usize>) -> Self {
        let apart = bytes.len() / PLACES;
        let lines = if columns.len() == stride { apart } else { apart / stride * columns.len() }.div_ceil(LINE);
        let wanted = columns.len().div_ceil(LINE);
        Ahead {
            line: bytes.as_ptr().wrapping_add(columns.start),
            apart,
            wanted,
            between: stride.saturating_sub(LINE * wanted),
            more: wanted,
            left: lines,
            due: 0,
        }
    }

    /// Whether all has been fetched.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Lets all that is left be fetched within `steps` steps.
    #[inline(always)]
    pub(crate) fn pace(&mut self, steps: usize) {
        self.due = self.left.div_ceil(steps);
    }

    /// Fetches what is due in a step.
    #[inline(always)]
    pub(crate) fn step<L: Lanes>(&mut self, l: L) {
        let rounds = self.due.min(self.left);
        self.left -= rounds;
        for _ in 0..rounds {
            for place in 0..PLACES {
                l.prefetch(self.line.wrapping_add(place * self.apart));
            }
            self.line = self.line.wrapping_add(LINE);
            self.more -= 1;
            if self.more == 0 {
                (self.line, self.more) = (self.line.wrapping_add(self.between), self.wanted);
            }
        }
    }
}
