//! The tokens that may still be chosen.

use super::exp::exp;
use super::{CHUNK, any_above};

/// Candidates that are worked on together; sums over all of them add up as many partial ones.
const LANES: usize = 8;

/// A token that may still be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Token.
    pub id: u32,
    /// Its logit after the steps so far.
    pub logit: f64,
    /// Its probability among the candidates; valid after [`Candidates::softmax`].
    pub p: f64,
}

/// Tokens that may still be chosen, in ascending id order. Every step of the sampler chain is a method that changes
/// logits or removes candidates; each sees the probabilities that the previous one left, renormalised.
///
/// All arithmetic is f64 without the system's functions, and sums have one order: the result depends on neither machine nor
/// standard library. Memory for a whole vocabulary is made once.
#[derive(Clone, Debug)]
pub struct Candidates {
    pub(super) list: Vec<Candidate>,
    /// Scratch of filters that rank candidates: key (smaller is kept first), probability, id.
    pub(super) ranked: Vec<(f64, f64, u32)>,
    /// Scratch of [`top_k`](Self::top_k).
    pub(super) keys: Vec<f64>,
    /// Occurrences per token in the history; all zero between steps.
    pub(super) counts: Vec<u32>,
}

impl Candidates {
    /// Memory for a vocabulary.
    pub fn new(vocab: usize) -> Self {
        Candidates {
            list: Vec::with_capacity(vocab),
            ranked: Vec::with_capacity(vocab),
            keys: Vec::with_capacity(vocab),
            counts: vec![0; vocab],
        }
    }

    /// Starts over with every token of the vocabulary.
    pub fn fill(&mut self, logits: impl IntoIterator<Item = f64>) {
        self.list.clear();
        self.list.extend(logits.into_iter().zip(0u32..).map(|(logit, id)| Candidate { id, logit, p: 0.0 }));
    }

    /// Starts over with the tokens whose logits are there; the others are negative infinity.
    pub(super) fn fill_finite(&mut self, logits: &[f32]) {
        self.list.clear();
        for (chunk, first) in logits.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
            if any_above(chunk, f32::NEG_INFINITY) {
                let there = chunk.iter().zip(first..).filter(|(logit, _)| **logit > f32::NEG_INFINITY);
                self.list.extend(there.map(|(&logit, id)| Candidate { id, logit: f64::from(logit), p: 0.0 }));
            }
        }
    }

    /// Puts the distinct tokens of `ids` into `out`; false when they exceed its capacity.
    pub(super) fn distinct(&mut self, ids: impl Iterator<Item = u32>, out: &mut Vec<u32>) -> bool {
        out.clear();
        let mut fits = true;
        for id in ids {
            let Some(count @ 0) = self.counts.get_mut(id as usize) else { continue };
            fits = out.len() < out.capacity();
            if !fits {
                break;
            }
            *count = 1;
            out.push(id);
        }
        out.iter().for_each(|&id| self.counts[id as usize] = 0);
        fits
    }

    /// What is left, in ascending id order.
    pub fn list(&self) -> &[Candidate] {
        &self.list
    }

    /// The candidate `id`, if it is still one.
    pub(super) fn find(&mut self, id: u32) -> Option<&mut Candidate> {
        let index = match self.list.get(id as usize) {
            Some(candidate) if candidate.id == id => id as usize, // nothing removed below it
            _ => self.list.binary_search_by_key(&id, |c| c.id).ok()?,
        };
        self.list.get_mut(index)
    }

    /// The largest logit.
    pub(super) fn max_logit(&self) -> f64 {
        let larger = |a: f64, b: f64| if b > a { b } else { a };
        let (chunks, rest) = self.list.as_chunks::<LANES>();
        let mut lanes = [f64::NEG_INFINITY; LANES];
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] = larger(lanes[i], chunk[i].logit);
            }
        }
        lanes.into_iter().chain(rest.iter().map(|c| c.logit)).fold(f64::NEG_INFINITY, larger)
    }

    /// Computes the probabilities of what is left. Returns `ln Σ exp(logit)`.
    pub fn softmax(&mut self) -> f64 {
        let (max, total) = self.exponentiate();
        for c in &mut self.list {
            c.p /= total;
        }
        max + libm::log(total)
    }

    /// Sets `p = exp(logit - max)`. Returns `max` and the sum.
    fn exponentiate(&mut self) -> (f64, f64) {
        let max = self.max_logit();
        let mut sums = [0.0; LANES];
        let (chunks, rest) = self.list.as_chunks_mut::<LANES>();
        for chunk in chunks {
            let mut p = [0.0; LANES];
            for i in 0..LANES {
                p[i] = exp(chunk[i].logit - max);
                sums[i] += p[i];
            }
            for i in 0..LANES {
                chunk[i].p = p[i];
            }
        }
        for (c, sum) in rest.iter_mut().zip(&mut sums) {
            c.p = exp(c.logit - max);
            *sum += c.p;
        }
        (max, sums.iter().sum())
    }

    /// Divides all logits by `temperature` (above zero).
    pub fn temperature(&mut self, temperature: f64) {
        let max = self.max_logit(); // relative to the maximum, so that a tiny temperature cannot overflow
        let mut vanished = false;
        for c in &mut self.list {
            c.logit = (c.logit - max) / temperature;
            vanished |= c.logit == f64::NEG_INFINITY;
        }
        if vanished {
            self.list.retain(|c| c.logit > f64::NEG_INFINITY);
        }
    }

    /// The most probable token; of equal ones the lowest id.
    pub fn argmax(&self) -> Option<u32> {
        let mut best: Option<&Candidate> = None;
        for c in &self.list {
            if best.is_none_or(|b| c.logit > b.logit) {
                best = Some(c);
            }
        }
        best.map(|c| c.id)
    }

    /// Chooses by probability: the first candidate at which the cumulative probability exceeds `uniform`, a number in
    /// `[0, 1)`.
    pub fn choose(&mut self, uniform: f64) -> Option<u32> {
        let (_, total) = self.exponentiate();
        let mut cumulative = 0.0;
        for c in &self.list {
            cumulative += c.p;
            if uniform * total < cumulative {
                return Some(c.id);
            }
        }
        // rounding at the very end: the last token that can be chosen at all
        self.list.iter().rev().find(|c| c.p > 0.0).map(|c| c.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choose_follows_the_cumulative_probability() {
        let mut c = Candidates::new(3);
        c.fill([0.5f64, 0.25, 0.25].map(f64::ln));
        assert_eq!(c.choose(0.0), Some(0));
        assert_eq!(c.choose(0.49), Some(0));
        assert_eq!(c.choose(0.51), Some(1));
        assert_eq!(c.choose(0.74), Some(1));
        assert_eq!(c.choose(0.76), Some(2));
        assert_eq!(c.choose(1.0 - f64::EPSILON / 2.0), Some(2));
    }

    #[test]
    fn ties_go_to_the_lowest_id() {
        let mut c = Candidates::new(4);
        c.fill([1.0, 2.0, 2.0, 0.0]);
        assert_eq!(c.argmax(), Some(1));
    }

    #[test]
    fn a_tiny_temperature_is_greedy() {
        let mut c = Candidates::new(3);
        c.fill([1.0, 3.0, 2.0]);
        c.temperature(f64::from(f32::MIN_POSITIVE));
        assert_eq!(c.choose(0.999), Some(1));
    }
}
