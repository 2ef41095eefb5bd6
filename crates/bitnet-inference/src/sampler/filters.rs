//! Steps that remove improbable (or unsurprising) candidates. At least one always stays.

use super::Candidates;
use super::exp::exp;
use std::cmp::Ordering;

impl Candidates {
    /// Keeps the `k` largest logits, and whatever equals the smallest of them. 0 = all.
    pub fn top_k(&mut self, k: usize) {
        if k == 0 || k >= self.list.len() {
            return;
        }
        // The k-th largest value in one pass: a buffer of 2k, cut to its k largest when full. Nearly all tokens are
        // dismissed by the first comparison.
        let cut = |keys: &mut Vec<f64>| {
            let (_, &mut least, _) = keys.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
            keys.truncate(k);
            least
        };
        self.keys.clear();
        let mut least = f64::NEG_INFINITY;
        for c in &self.list {
            if c.logit > least {
                self.keys.push(c.logit);
                if self.keys.len() == 2 * k {
                    least = cut(&mut self.keys);
                }
            }
        }
        if self.keys.len() >= k {
            least = cut(&mut self.keys);
        }
        self.list.retain(|c| c.logit >= least);
    }

    /// Nucleus: the smallest set of most probable tokens with probability `mass` or more. Of equal tokens the lower ids
    /// stay.
    pub fn top_p(&mut self, mass: f64) {
        if mass >= 1.0 || self.list.is_empty() {
            return;
        }
        self.softmax();
        // Tokens below this bound have less than `1 - mass` together, so the others hold the nucleus. The half covers
        // rounding.
        let bound = 0.5 * (1.0 - mass) / self.list.len() as f64;
        self.ranked.clear();
        self.ranked.extend(self.list.iter().filter(|c| c.p >= bound).map(|c| (-c.p, c.p, c.id)));
        if let Some((key, id)) = last_of_mass(&mut self.ranked, mass) {
            self.list.retain(|c| -c.p < key || (-c.p == key && c.id <= id));
        }
    }

    /// Keeps tokens with at least `ratio` times the probability of the most probable one.
    pub fn min_p(&mut self, ratio: f64) {
        if ratio <= 0.0 {
            return;
        }
        let max = self.max_logit();
        self.list.retain(|c| exp(c.logit - max) >= ratio);
    }

    /// Locally typical sampling (Meister et al. 2022): the smallest set of tokens whose surprise is nearest to the
    /// entropy, with probability `mass` or more. Tokens as near as the last of them stay too.
    pub fn typical(&mut self, mass: f64) {
        if mass >= 1.0 || self.list.is_empty() {
            return;
        }
        let log_total = self.softmax();
        let entropy: f64 = self.list.iter().map(|c| c.p * (log_total - c.logit)).sum();
        let distance = |logit: f64| ((log_total - logit) - entropy).abs();
        self.ranked.clear();
        self.ranked.extend(self.list.iter().map(|c| (distance(c.logit), c.p, c.id)));
        if let Some((furthest, _)) = last_of_mass(&mut self.ranked, mass) {
            self.list.retain(|c| distance(c.logit) <= furthest);
        }
    }

    /// Keeps tokens of probability `epsilon` or more (Hewitt et al. 2022), and the most probable ones.
    pub fn epsilon_cutoff(&mut self, epsilon: f64) {
        if epsilon <= 0.0 {
            return;
        }
        self.softmax();
        let bound = epsilon.min(self.max_p());
        self.list.retain(|c| c.p >= bound);
    }

    /// Eta sampling (Hewitt et al. 2022): a cutoff at `min(epsilon, sqrt(epsilon) exp(-entropy))`.
    pub fn eta_cutoff(&mut self, epsilon: f64) {
        if epsilon <= 0.0 || self.list.is_empty() {
            return;
        }
        let log_total = self.softmax();
        let entropy: f64 = self.list.iter().map(|c| c.p * (log_total - c.logit)).sum();
        let eta = epsilon.min(epsilon.sqrt() * libm::exp(-entropy));
        let bound = eta.min(self.max_p());
        self.list.retain(|c| c.p >= bound);
    }

    /// XTC ("exclude top choices"): of the tokens with probability `threshold` or more, only the least probable stays.
    /// The caller draws whether the step happens at all.
    pub fn exclude_top(&mut self, threshold: f64) {
        self.softmax();
        let top = self.list.iter().filter(|c| c.p >= threshold);
        let Some(least) = top.min_by(|a, b| a.p.total_cmp(&b.p).then(b.id.cmp(&a.id))).copied() else { return };
        self.list.retain(|c| c.p < threshold || c.id == least.id);
    }

    fn max_p(&self) -> f64 {
        self.list.iter().fold(0.0, |max, c| c.p.max(max))
    }
}

/// Of `(key, p, id)`, ordered by key and then id: key and id of the entry at which the cumulative probability reaches
/// `mass`. Orders no more than needed.
fn last_of_mass(ranked: &mut [(f64, f64, u32)], mass: f64) -> Option<(f64, u32)> {
    let order = |a: &(f64, f64, u32), b: &(f64, f64, u32)| -> Ordering { a.0.total_cmp(&b.0).then(a.2.cmp(&b.2)) };
    let mut rest = ranked;
    let mut cumulative = 0.0;
    let mut last = None;
    let mut len = 128;
    while !rest.is_empty() {
        if len < rest.len() {
            rest.select_nth_unstable_by(len, order);
        }
        let (head, tail) = rest.split_at_mut(len.min(rest.len()));
        head.sort_unstable_by(order);
        for &(key, p, id) in head.iter() {
            last = Some((key, id));
            cumulative += p;
            if cumulative >= mass {
                return last;
            }
        }
        rest = tail;
        len *= 4;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(probabilities: &[f64]) -> Candidates {
        let mut c = Candidates::new(probabilities.len());
        c.fill(probabilities.iter().map(|p| p.ln()));
        c
    }

    fn ids(c: &Candidates) -> Vec<u32> {
        c.list().iter().map(|c| c.id).collect()
    }

    #[test]
    fn xtc_leaves_the_least_probable_of_the_top() {
        let mut c = of(&[0.4, 0.05, 0.3, 0.2, 0.05]);
        c.exclude_top(0.1);
        assert_eq!(ids(&c), [1, 3, 4]);
        let mut one = of(&[0.8, 0.05, 0.05, 0.05, 0.05]);
        one.exclude_top(0.1);
        assert_eq!(ids(&one), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn top_k_keeps_ties_and_finds_the_largest_anywhere() {
        let mut c = Candidates::new(1000);
        c.fill((0..1000).map(|i| f64::from((i * 7919) % 1000)));
        c.top_k(3);
        let mut logits: Vec<f64> = c.list().iter().map(|c| c.logit).collect();
        logits.sort_by(f64::total_cmp);
        assert_eq!(logits, [997.0, 998.0, 999.0]);
        c.fill([1.0, 3.0, 2.0, 2.0, 0.0]);
        c.top_k(2);
        assert_eq!(ids(&c), [1, 2, 3]);
        c.fill([5.0; 9]);
        c.top_k(2);
        assert_eq!(c.list().len(), 9);
    }

    #[test]
    fn zero_mass_keeps_one() {
        let mut c = of(&[0.2, 0.5, 0.3]);
        c.top_p(0.0);
        assert_eq!(ids(&c), [1]);
        let mut c = of(&[0.2, 0.5, 0.3]);
        c.typical(0.0);
        assert_eq!(c.list().len(), 1);
    }

    #[test]
    fn long_prefixes_cross_the_chunks_of_the_ranking() {
        let n = 5000;
        let mut c = Candidates::new(n);
        c.fill((0..n).map(|i| -(((i * 3571) % n) as f64) * 1e-3));
        c.softmax();
        let mut p: Vec<f64> = c.list().iter().map(|c| c.p).collect();
        p.sort_by(|a, b| b.total_cmp(a));
        let mut sum = 0.0;
        let expected = 1 + p
            .iter()
            .position(|p| {
                sum += p;
                sum >= 0.9
            })
            .expect("reached");
        c.top_p(0.9);
        assert_eq!(c.list().len(), expected);
    }
}
