//! Steps that change logits of tokens because of what came before.

use super::Candidates;

/// Factors against repeating tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalties {
    /// Positive logits of seen tokens are divided by it, negative ones multiplied. 1 = off.
    pub repetition: f64,
    /// Subtracted once per occurrence. 0 = off.
    pub frequency: f64,
    /// Subtracted once if the token occurred. 0 = off.
    pub presence: f64,
}

impl Penalties {
    /// No effect.
    pub const OFF: Penalties = Penalties { repetition: 1.0, frequency: 0.0, presence: 0.0 };
}

impl Candidates {
    /// Adds a bias to the logits of tokens; negative infinity bans a token.
    pub fn bias(&mut self, biases: &[(u32, f32)]) {
        let mut bans = false;
        for &(id, bias) in biases {
            if let Some(c) = self.find(id) {
                c.logit += f64::from(bias);
            }
            bans |= bias == f32::NEG_INFINITY;
        }
        if bans {
            self.drop_banned();
        }
    }

    /// One pass over the vocabulary, however many tokens are banned.
    fn drop_banned(&mut self) {
        self.list.retain(|c| c.logit > f64::NEG_INFINITY);
    }

    /// Repetition penalty (Keskar et al. 2019), then frequency and presence penalty (as the OpenAI API defines them),
    /// once for every distinct token of `history`.
    pub fn penalize(&mut self, history: &[u32], penalties: Penalties) {
        if penalties == Penalties::OFF {
            return;
        }
        for &id in history {
            if let Some(count) = self.counts.get_mut(id as usize) {
                *count += 1;
            }
        }
        for &id in history {
            let count = match self.counts.get_mut(id as usize) {
                Some(count) if *count > 0 => std::mem::take(count),
                _ => continue, // already done
            };
            if let Some(c) = self.find(id) {
                let factor = penalties.repetition;
                let logit = if c.logit < 0.0 { c.logit * factor } else { c.logit / factor };
                c.logit = logit - penalties.frequency * f64::from(count) - penalties.presence;
            }
        }
    }

    /// Bans every token that would complete an n-gram that `history` already holds.
    pub fn no_repeat_ngram(&mut self, history: &[u32], n: usize) {
        if n == 0 || history.len() < n {
            return;
        }
        let tail = &history[history.len() - (n - 1)..];
        for ngram in history.windows(n) {
            if &ngram[..n - 1] == tail
                && let Some(c) = self.find(ngram[n - 1])
            {
                c.logit = f64::NEG_INFINITY;
            }
        }
        self.drop_banned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_penalty_counts_each_distinct_token_once() {
        let mut c = Candidates::new(4);
        c.fill([2.0, -2.0, 1.0, 0.5]);
        c.penalize(&[0, 1, 1, 9], Penalties { repetition: 2.0, frequency: 0.25, presence: 0.5 });
        let logits: Vec<f64> = c.list().iter().map(|c| c.logit).collect();
        assert_eq!(logits, [2.0 / 2.0 - 0.25 - 0.5, -2.0 * 2.0 - 0.5 - 0.5, 1.0, 0.5]);
        assert!(c.counts.iter().all(|&n| n == 0));
    }

    #[test]
    fn an_infinite_bias_bans() {
        let mut c = Candidates::new(3);
        c.fill([1.0, 5.0, 2.0]);
        c.bias(&[(1, f32::NEG_INFINITY), (2, -3.0), (1, 7.0)]);
        assert_eq!(c.list().iter().map(|c| (c.id, c.logit)).collect::<Vec<_>>(), [(0, 1.0), (2, -1.0)]);
    }
}
