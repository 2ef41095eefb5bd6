//! What a scheduler has done so far, as plain numbers.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Counters, gauges and histograms of a [`Scheduler`](crate::Scheduler). Reading them never waits for a step.
#[derive(Debug)]
pub struct Metrics {
    /// Requests in the queue now.
    pub waiting: AtomicUsize,
    /// Requests that steps work on now.
    pub active: AtomicUsize,
    /// KV pages held by requests now.
    pub pages_held: AtomicUsize,
    /// KV pages that hold reusable prefixes of earlier requests now.
    pub pages_cached: AtomicUsize,
    /// KV pages in all.
    pub pages: usize,
    /// Requests answered to the end.
    pub finished: AtomicU64,
    /// Requests whose receiver went away.
    pub cancelled: AtomicU64,
    /// Requests that ended with an error.
    pub failed: AtomicU64,
    /// Requests refused because the queue was full.
    pub refused: AtomicU64,
    /// Requests sent back to the queue because an older one needed their pages.
    pub preempted: AtomicU64,
    /// Steps that were left in the middle for requests that came.
    pub left: AtomicU64,
    /// Prompt tokens of admitted requests.
    pub prompt_tokens: AtomicU64,
    /// Of these, found in cached pages.
    pub cached_tokens: AtomicU64,
    /// Tokens generated.
    pub new_tokens: AtomicU64,
    /// Tokens guessed from the text before them, and computed in advance.
    pub guessed_tokens: AtomicU64,
    /// Of these, right: tokens generated without a step of their own.
    pub right_tokens: AtomicU64,
    /// Tokens guessed by the draft model, and computed in advance.
    pub drafted_tokens: AtomicU64,
    /// Of these, right: tokens generated without a step of their own.
    pub drafted_right_tokens: AtomicU64,
    /// Sequences per step.
    pub batch_size: Histogram,
    /// Seconds per step.
    pub step_seconds: Histogram,
    /// Seconds from the arrival of a request to its first token.
    pub first_token_seconds: Histogram,
    /// Seconds between two tokens of a request.
    pub token_gap_seconds: Histogram,
}

const SECONDS: &[f64] = &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];
const SEQUENCES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

impl Metrics {
    pub(crate) fn new(pages: usize) -> Self {
        Metrics {
            waiting: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            pages_held: AtomicUsize::new(0),
            pages_cached: AtomicUsize::new(0),
            pages,
            finished: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            preempted: AtomicU64::new(0),
            left: AtomicU64::new(0),
            prompt_tokens: AtomicU64::new(0),
            cached_tokens: AtomicU64::new(0),
            new_tokens: AtomicU64::new(0),
            guessed_tokens: AtomicU64::new(0),
            right_tokens: AtomicU64::new(0),
            drafted_tokens: AtomicU64::new(0),
            drafted_right_tokens: AtomicU64::new(0),
            batch_size: Histogram::new(SEQUENCES),
            step_seconds: Histogram::new(SECONDS),
            first_token_seconds: Histogram::new(SECONDS),
            token_gap_seconds: Histogram::new(SECONDS),
        }
    }
}

/// How often values fell between fixed bounds. Only the scheduler's thread adds to it.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: the last counts what is above all of them.
    counts: Vec<AtomicU64>,
    /// Bits of the sum.
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Histogram {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0f64.to_bits()),
        }
    }

    pub(crate) fn add(&self, value: f64) {
        self.counts[self.bounds.partition_point(|&bound| bound < value)].fetch_add(1, Relaxed);
        self.sum.store((self.sum() + value).to_bits(), Relaxed); // one writer: nothing is lost
    }

    /// Upper bounds with the number of values up to each, ascending; the last bound is infinity.
    pub fn cumulative(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let mut total = 0;
        bounds
            .zip(&self.counts)
            .map(|(bound, count)| {
                total += count.load(Relaxed);
                (bound, total)
            })
            .collect()
    }

    /// Sum of all values.
    pub fn sum(&self) -> f64 {
        f64::from_bits(self.sum.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_at_or_below_their_bound() {
        let histogram = Histogram::new(&[1.0, 2.0]);
        [0.5, 1.0, 1.5, 2.0, 7.0].into_iter().for_each(|value| histogram.add(value));
        assert_eq!(histogram.cumulative(), [(1.0, 2), (2.0, 4), (f64::INFINITY, 5)]);
        assert_eq!(histogram.sum(), 12.0);
    }
}
