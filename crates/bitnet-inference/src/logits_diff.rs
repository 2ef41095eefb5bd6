//! How much two lists of logits differ.

use serde::Serialize;

/// Sums over positions; [`report`](Self::report) makes figures of them.
#[derive(Clone, Debug)]
pub struct LogitsDiff {
    positions: usize,
    same_argmax: usize,
    identical: bool,
    max_abs: f64,
    cosine: (f64, f64),
    divergence: (f64, f64),
}

/// How much two lists of logits differ, over all positions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LogitsDiffReport {
    /// Positions compared.
    pub positions: usize,
    /// The very same bits everywhere.
    pub identical: bool,
    /// Share of positions at which the same token is the best.
    pub argmax_agreement: f64,
    /// Largest absolute difference; infinite (null in JSON) when there is a value that is not finite on one side alone.
    pub max_abs: f64,
    /// Smallest cosine of the angle between the logits of a position.
    pub min_cosine: f64,
    /// Mean cosine.
    pub mean_cosine: f64,
    /// Mean Kullback–Leibler divergence of the found distribution from the expected one, in nats.
    pub mean_kl: f64,
    /// The largest of them.
    pub max_kl: f64,
}

impl Default for LogitsDiff {
    fn default() -> Self {
        LogitsDiff {
            positions: 0,
            same_argmax: 0,
            identical: true,
            max_abs: 0.0,
            cosine: (f64::INFINITY, 0.0),
            divergence: (0.0, 0.0),
        }
    }
}

impl LogitsDiff {
    /// Compares the logits of one position.
    ///
    /// # Panics
    /// When the rows have different lengths.
    pub fn add(&mut self, expected: &[f32], found: &[f32]) {
        assert_eq!(expected.len(), found.len(), "rows of different vocabularies");
        self.positions += 1;
        let best = argmax(expected);
        self.same_argmax += usize::from(best.is_some() && best == argmax(found));
        let (mut ab, mut aa, mut bb) = (0f64, 0f64, 0f64);
        for (&a, &b) in expected.iter().zip(found) {
            if a.to_bits() != b.to_bits() {
                self.identical = false;
                let difference = (f64::from(a) - f64::from(b)).abs();
                self.max_abs = self.max_abs.max(if difference.is_nan() { f64::INFINITY } else { difference });
            }
            ab += f64::from(a) * f64::from(b);
            aa += f64::from(a) * f64::from(a);
            bb += f64::from(b) * f64::from(b);
        }
        let cosine = if aa == 0.0 && bb == 0.0 { 1.0 } else { ab / (aa * bb).sqrt() };
        // f64::min would forget a NaN
        self.cosine.0 = if cosine.is_nan() { f64::NAN } else { nan_or(self.cosine.0, f64::min, cosine) };
        self.cosine.1 += cosine;
        let kl = divergence(expected, found);
        self.divergence.0 = if kl.is_nan() { f64::NAN } else { nan_or(self.divergence.0, f64::max, kl) };
        self.divergence.1 += kl;
    }

    /// The figures so far: NaN without positions.
    pub fn report(&self) -> LogitsDiffReport {
        let n = self.positions as f64;
        LogitsDiffReport {
            positions: self.positions,
            identical: self.identical,
            argmax_agreement: self.same_argmax as f64 / n,
            max_abs: self.max_abs,
            min_cosine: self.cosine.0,
            mean_cosine: self.cosine.1 / n,
            mean_kl: self.divergence.1 / n,
            max_kl: self.divergence.0,
        }
    }
}

/// `of`, except that a NaN stays.
fn nan_or(so_far: f64, of: fn(f64, f64) -> f64, next: f64) -> f64 {
    if so_far.is_nan() { so_far } else { of(so_far, next) }
}

/// The first of the largest; none where there is a NaN.
fn argmax(row: &[f32]) -> Option<usize> {
    let mut best = None;
    for (i, &x) in row.iter().enumerate() {
        if x.is_nan() {
            return None;
        }
        if best.is_none_or(|best: usize| x > row[best]) {
            best = Some(i);
        }
    }
    best
}

/// Σ p ln(p / q) of the softmax of both rows.
fn divergence(expected: &[f32], found: &[f32]) -> f64 {
    let log_sum = |row: &[f32]| {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&x| libm::exp(f64::from(x) - f64::from(top))).sum();
        libm::log(sum) + f64::from(top)
    };
    let (p_sum, q_sum) = (log_sum(expected), log_sum(found));
    let term = |(&a, &b): (&f32, &f32)| {
        let (log_p, log_q) = (f64::from(a) - p_sum, f64::from(b) - q_sum);
        libm::exp(log_p) * (log_p - log_q)
    };
    let sum: f64 = expected.iter().zip(found).map(term).sum();
    if sum < 0.0 { 0.0 } else { sum } // rounding may leave −1e-17; a NaN stays
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows: &[(&[f32], &[f32])]) -> LogitsDiffReport {
        let mut diff = LogitsDiff::default();
        rows.iter().for_each(|(a, b)| diff.add(a, b));
        diff.report()
    }

    #[test]
    fn equal_rows() {
        let report = of(&[(&[1.0, 2.0], &[1.0, 2.0]), (&[0.0, 0.0], &[0.0, 0.0])]);
        assert!(report.identical && report.positions == 2);
        assert_eq!((report.argmax_agreement, report.max_abs, report.mean_kl), (1.0, 0.0, 0.0));
        assert!((report.min_cosine - 1.0).abs() < 1e-15);
    }

    #[test]
    fn by_hand() {
        // probabilities 1/4 and 3/4 against 1/2 and 1/2: KL = ln(1/2)/4 + 3/4 ln(3/2)
        let report = of(&[(&[0.0, 3f32.ln()], &[5.0, 5.0])]);
        assert!((report.mean_kl - (0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln())).abs() < 1e-7, "{report:?}");
        assert_eq!(report.argmax_agreement, 0.0, "of equals the first counts");
        // orthogonal
        let report = of(&[(&[1.0, 0.0], &[0.0, 1.0]), (&[3.0, 4.0], &[3.0, 4.5])]);
        assert_eq!((report.min_cosine, report.max_abs, report.argmax_agreement), (0.0, 1.0, 0.5));
        assert!(!report.identical && report.max_kl > report.mean_kl);
    }

    #[test]
    fn what_is_not_finite_does_not_pass_for_agreement() {
        let report = of(&[(&[f32::NAN, 1.0], &[1.0, 1.0]), (&[1.0, 2.0], &[1.0, 2.0])]);
        assert!(report.max_abs.is_infinite() && report.min_cosine.is_nan() && report.mean_kl.is_nan(), "{report:?}");
        assert_eq!(report.argmax_agreement, 0.5);
    }

    #[test]
    fn the_sign_of_zero_is_a_difference_of_bits_only() {
        let report = of(&[(&[0.0, 1.0], &[-0.0, 1.0])]);
        assert!(!report.identical && report.max_abs == 0.0);
    }
}
