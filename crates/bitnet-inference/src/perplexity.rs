//! Perplexity of a token sequence.

use crate::evaluation::Evaluation;
use crate::{Engine, InferenceError};

/// The windows of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Tokens per window.
    pub context: usize,
    /// Tokens by which the next window starts later; between 1 and `context`.
    pub stride: usize,
}

/// How well a model predicts a text.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Perplexity {
    /// Predicted tokens.
    pub tokens: usize,
    /// Mean negative log-likelihood per predicted token, in nats.
    pub nll: f64,
    /// Standard error of `nll`, taking tokens as independent.
    pub nll_error: f64,
    /// `exp(nll)`.
    pub perplexity: f64,
    /// Standard error of `perplexity`, to first order: `perplexity * nll_error`.
    pub error: f64,
}

impl Perplexity {
    /// Bits per byte of a text of `bytes` bytes in `ids` tokens, the first of which (that begins the text) nothing predicts:
    /// negative log-likelihood of all others, as if those that windows lose were like the rest, over `bytes * ln 2`.
    /// Comparable between models with different tokenizers.
    pub fn bits_per_byte(&self, ids: usize, bytes: usize) -> f64 {
        self.nll * ids.saturating_sub(1) as f64 / (bytes as f64 * std::f64::consts::LN_2)
    }
}

/// Running mean and variance (Welford).
#[derive(Default)]
struct Mean {
    count: usize,
    mean: f64,
    squares: f64,
}

impl Mean {
    fn add(&mut self, x: f64) {
        self.count += 1;
        let delta = x - self.mean;
        self.mean += delta / self.count as f64;
        self.squares += delta * (x - self.mean);
    }

    fn perplexity(&self) -> Perplexity {
        let n = self.count as f64;
        let nll_error = if self.count > 1 { (self.squares / (n - 1.0) / n).sqrt() } else { 0.0 };
        let perplexity = libm::exp(self.mean);
        Perplexity { tokens: self.count, nll: self.mean, nll_error, perplexity, error: perplexity * nll_error }
    }
}

impl Engine {
    /// Perplexity by the strided protocol of Hugging Face's documentation, the usual one for WikiText-2: windows of
    /// `context` tokens start every `stride` tokens, each from an empty past. A window scores those of its tokens that
    /// no earlier window scored; its first token is never scored, having no past in it. So with `stride < context`
    /// every token but the very first is scored once, with at least `context - stride` tokens before it (from the
    /// second window on); with `stride == context` windows do not overlap and each loses its first token. The ids are
    /// taken as they are: no begin-of-sequence token is put before every window, as llama.cpp's tool does (which also
    /// scores the second half of each window only).
    ///
    /// After each window `progress` hears the result so far and how many of the `ids.len()` tokens are done; when it
    /// returns false, the result so far is returned.
    ///
    /// # Errors
    /// Fewer than two ids, windows outside their range or longer than the context, ids outside the vocabulary, NaN.
    pub fn perplexity(
        &self,
        ids: &[u32],
        windows: Windows,
        progress: &mut dyn FnMut(&Perplexity, usize) -> bool,
    ) -> Result<Perplexity, InferenceError> {
        let Windows { context, stride } = windows;
        let refuse = |option, reason: String| Err(InferenceError::Option { option, reason });
        if ids.len() < 2 {
            return refuse("text", format!("{} tokens: at least 2 are needed to predict one from another", ids.len()));
        }
        if context < 2 {
            return refuse("context", format!("{context} is too short to predict a token from another"));
        }
        if !(1..=context).contains(&stride) {
            return refuse("stride", format!("{stride} is not between 1 and the context of {context}"));
        }
        let mut evaluation = Evaluation::new(self, context.min(ids.len()))?;
        let mut mean = Mean::default();
        let mut scored = 0; // tokens before this index are done
        let mut begin = 0;
        loop {
            let end = (begin + context).min(ids.len());
            let first = scored.max(begin + 1); // first token to score; the logits one position before it predict it
            let window = &ids[begin..end];
            evaluation.run(window, first - 1 - begin, &mut |position, logits| {
                if let Some(&next) = window.get(position + 1) {
                    mean.add(nll(logits, next));
                }
            })?;
            if !mean.mean.is_finite() {
                return Err(InferenceError::Degenerate(format!(
                    "NaN or infinite logits between tokens {begin} and {end}"
                )));
            }
            scored = end;
            let result = mean.perplexity();
            if !progress(&result, scored) || end == ids.len() {
                return Ok(result);
            }
            begin += stride;
        }
    }
}

/// `-ln p(id)` in f64.
pub(crate) fn nll(logits: &[f32], id: u32) -> f64 {
    let max = f64::from(logits.iter().fold(f32::NEG_INFINITY, |max, &x| max.max(x)));
    let total: f64 = logits.iter().map(|&x| libm::exp(f64::from(x) - max)).sum();
    libm::log(total) - (f64::from(logits[id as usize]) - max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_standard_error() {
        let mut mean = Mean::default();
        [1.0, 2.0, 3.0, 6.0].into_iter().for_each(|x| mean.add(x));
        let p = mean.perplexity();
        assert_eq!((p.tokens, p.nll), (4, 3.0));
        assert!((p.nll_error - (14.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-15);
        assert!((p.perplexity - 3f64.exp()).abs() < 1e-12);
        assert!((p.bits_per_byte(5, 12) - 1.0 / std::f64::consts::LN_2).abs() < 1e-15);
        // Two windows of four tokens lose one each; of eight, seven have a past.
        assert!((p.bits_per_byte(8, 12) - 7.0 * 3.0 / 12.0 / std::f64::consts::LN_2).abs() < 1e-15);
    }

    #[test]
    fn nll_by_hand() {
        // e^0 : e^ln3 = 1 : 3
        assert!((nll(&[0.0, 3f32.ln()], 0) - 4f64.ln()).abs() < 1e-7);
        assert!((nll(&[800.0, 800.0], 1) - 2f64.ln()).abs() < 1e-15);
    }
}
