//! DRY ("don't repeat yourself"): a penalty that grows with the length of the sequence a token would repeat.

use super::Candidates;

/// Settings of DRY.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dry {
    /// Penalty at the allowed length. 0 = off.
    pub multiplier: f64,
    /// Growth per further token.
    pub base: f64,
    /// A repeat may be this long; a token that would make it longer is penalised.
    pub allowed_length: usize,
}

/// Longer matches are not measured: their penalty already outweighs any logit, and the cost stays linear in the
/// history.
const LONGEST_MATCH: usize = 64;

impl Candidates {
    /// If the last `n` tokens of `history` also stand earlier in it, and `n >= allowed_length`, the token that
    /// followed them there loses `multiplier * base^(n - allowed_length)`; of several such places the longest match
    /// counts. There are no sequence breakers.
    pub fn dry(&mut self, history: &[u32], dry: Dry) {
        let Some((&last, past)) = history.split_last() else { return };
        if dry.multiplier == 0.0 {
            return;
        }
        // counts[next] = longest match that `next` followed
        for (i, _) in past.iter().enumerate().filter(|&(_, &id)| id == last) {
            let matched = past[..i].iter().rev().zip(past.iter().rev()).take(LONGEST_MATCH - 1);
            let length = 1 + matched.take_while(|(a, b)| a == b).count();
            if let Some(longest) = self.counts.get_mut(history[i + 1] as usize) {
                *longest = (*longest).max(length as u32);
            }
        }
        for &id in history {
            let length = match self.counts.get_mut(id as usize) {
                Some(length) if *length > 0 => std::mem::take(length) as usize,
                _ => continue,
            };
            if length >= dry.allowed_length {
                let penalty = dry.multiplier * libm::pow(dry.base, (length - dry.allowed_length) as f64);
                if let Some(c) = self.find(id) {
                    c.logit -= penalty;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn penalties(history: &[u32], dry: Dry) -> Vec<f64> {
        let mut c = Candidates::new(6);
        c.fill([0.0; 6]);
        c.dry(history, dry);
        assert!(c.counts.iter().all(|&n| n == 0));
        c.list().iter().map(|c| -c.logit).collect()
    }

    #[test]
    fn the_longest_match_sets_the_penalty() {
        let dry = Dry { multiplier: 0.8, base: 1.75, allowed_length: 2 };
        // "1 2 3 4 … 1 2 3": 4 would repeat a match of 3
        assert_eq!(penalties(&[1, 2, 3, 4, 0, 1, 2, 3], dry), [0.0, 0.0, 0.0, 0.0, 0.8 * 1.75, 0.0]);
        // match of 2 after "5 2 3 1", of 3 after "1 2 3 4"
        assert_eq!(penalties(&[5, 2, 3, 1, 2, 3, 4, 1, 2, 3], dry), [0.0, 0.8, 0.0, 0.0, 0.8 * 1.75, 0.0]);
        // a match of 1 is free
        assert_eq!(penalties(&[3, 4, 0, 3], dry), [0.0; 6]);
        assert_eq!(penalties(&[], dry), [0.0; 6]);
        assert_eq!(penalties(&[1, 2, 1], Dry { multiplier: 0.0, ..dry }), [0.0; 6]);
    }

    #[test]
    fn an_endless_repetition_costs_linear_time_and_stays_finite() {
        let dry = Dry { multiplier: 1.0, base: 1.75, allowed_length: 2 };
        let values = penalties(&vec![3; 100_000], dry);
        assert!(values[3].is_finite() && values[3] == libm::pow(1.75, 62.0));
    }
}
