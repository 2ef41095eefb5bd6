//! How work is dealt out: in portions that get smaller.
//!
//! A thread that begins somewhere waits for memory first, so portions should be large; the last ones should be small, since the others
//! wait for whoever takes the last. In each round all threads together take half of what is left (Hummel, Schonberg and Flynn 1992:
//! *Factoring*), and the last round shares the rest evenly.

use std::ops::Range;

/// The portions of `total` units of work. They depend on nothing but these numbers.
#[derive(Clone, Copy)]
pub(crate) struct Portions {
    pub(crate) total: usize,
    pub(crate) threads: usize,
    /// Less than this is not worth a portion, unless there is no more.
    pub(crate) least: usize,
    /// Portions are not larger.
    pub(crate) most: usize,
}

impl Portions {
    /// How many there are.
    pub(crate) fn count(self) -> usize {
        self.rounds().map(|round| round.count).sum()
    }

    /// What portion `number` consists of; nothing from [`count`](Self::count) on.
    pub(crate) fn get(self, mut number: usize) -> Range<usize> {
        for Round { start, size, count } in self.rounds() {
            if number < count {
                let first = start + number * size;
                return first..self.total.min(first + size);
            }
            number -= count;
        }
        self.total..self.total
    }

    fn rounds(self) -> impl Iterator<Item = Round> {
        let Portions { total, threads, least, most } = self;
        let mut start = 0;
        std::iter::from_fn(move || {
            let left = total - start;
            let even = left.div_ceil(threads);
            let size = if even < 2 * least { even } else { even / 2 }.clamp(1, most.max(1));
            let count = threads.min(left.div_ceil(size));
            let round = Round { start, size, count };
            start = total.min(start + count * size);
            (left > 0).then_some(round)
        })
    }
}

/// Portions of the same size.
struct Round {
    start: usize,
    size: usize,
    count: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(total: usize, threads: usize, least: usize, most: usize) -> Vec<usize> {
        let portions = Portions { total, threads, least, most };
        (0..portions.count()).map(|number| portions.get(number).len()).collect()
    }

    #[test]
    fn portions_get_smaller() {
        assert_eq!(sizes(64, 2, 1, 100), [16, 16, 8, 8, 4, 4, 2, 2, 1, 1, 1, 1]);
        assert_eq!(sizes(64, 2, 4, 100), [16, 16, 8, 8, 4, 4, 4, 4]);
        assert_eq!(sizes(64, 2, 4, 10), [10, 10, 10, 10, 6, 6, 6, 6]);
        assert_eq!(sizes(7, 2, 4, 100), [4, 3]);
        assert_eq!(sizes(7, 4, 100, 100), [2, 2, 2, 1]);
        assert_eq!(sizes(3, 1, 1, 100), [1, 1, 1]);
        assert_eq!(sizes(5, 3, 0, 0), [1, 1, 1, 1, 1]);
        assert_eq!(sizes(0, 3, 1, 1), [0; 0]);
    }

    #[test]
    fn portions_cover_everything_once() {
        for total in [1, 2, 31, 100, 1003] {
            for threads in [1, 2, 3, 7, 64] {
                for (least, most) in [(1, 1), (1, usize::MAX), (5, 9), (40, 400), (1000, 1000)] {
                    let portions = Portions { total, threads, least, most };
                    let mut next = 0;
                    for number in 0..portions.count() {
                        let range = portions.get(number);
                        assert_eq!(range.start, next);
                        assert!(!range.is_empty() && range.len() <= most);
                        next = range.end;
                    }
                    assert_eq!(next, total);
                    assert!(portions.get(portions.count()).is_empty());
                }
            }
        }
    }
}
