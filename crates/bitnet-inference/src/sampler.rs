//! From logits to a token.
//!
//! The chain, in this order: logit bias, repetition/frequency/presence penalties, DRY, no-repeat n-gram, top-k, typical,
//! top-p, min-p, epsilon and eta cutoff, XTC, and **temperature last**: what the filters keep is decided on the model's
//! own distribution, and temperature only spreads what is left. (transformers and the OpenAI API apply temperature
//! before the filters.) Temperature 0 is greedy: the largest logit after the penalties, of equal ones the lowest id;
//! filters do not matter then.

mod candidates;
mod dry;
mod exp;
mod filters;
mod penalties;
mod random;

pub use candidates::{Candidate, Candidates};
pub use dry::Dry;
pub use penalties::Penalties;
pub use random::Random;

use crate::{InferenceError, Sampling, TokenLogprob};
use bitnet_kernels::Top;

/// Applies a [`Sampling`] to logits. After it is made, choosing a token allocates nothing.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: Random,
    candidates: Candidates,
    /// Tokens whose logits the chain may change before it compares them.
    movable: Vec<u32>,
}

/// With more tokens in the history than this whose logits may change, all logits are computed.
const MAX_MOVABLE: usize = 4096;

impl Sampler {
    /// A sampler for a vocabulary, at the start of the seed's random numbers.
    ///
    /// # Errors
    /// [`InferenceError::Option`] for a value outside its range.
    pub fn new(vocab: usize, sampling: &Sampling) -> Result<Self, InferenceError> {
        check(vocab, sampling)?;
        Ok(Sampler {
            random: Random::new(sampling.seed),
            candidates: Candidates::new(vocab),
            movable: Vec::with_capacity(if is_plain(sampling) { 0 } else { vocab.min(MAX_MOVABLE) }),
            sampling: sampling.clone(),
        })
    }

    /// The logits without which [`sample`](Self::sample) cannot choose after this history. Tokens are removed by rank and by
    /// distance to the best before anything asks for a sum over all tokens; `None`, which is all, where that is not so.
    pub fn wanted(&mut self, history: &[u32]) -> Option<Top<'_>> {
        let s = &self.sampling;
        let (count, margin) = if s.temperature == 0.0 {
            (1, 0.0)
        } else if s.top_k > 0 {
            (s.top_k, 0.0)
        } else if s.typical_p >= 1.0 && s.top_p >= 1.0 && s.min_p > 0.0 {
            (1, 1e-3 - s.min_p.ln()) // a little more than that, whatever the rounding
        } else {
            return None;
        };
        self.movable.clear();
        if !is_plain(s) {
            let ids = s.logit_bias.iter().map(|&(id, _)| id).chain(history.iter().copied());
            if !self.candidates.distinct(ids, &mut self.movable) {
                return None;
            }
        }
        Some(Top { count, margin, ids: &self.movable })
    }

    /// Chooses the next token. `logits` has one value per token of the vocabulary, `history` is prompt and answer so
    /// far.
    ///
    /// # Errors
    /// [`InferenceError::Degenerate`] for NaN or infinite logits; [`InferenceError::Option`] when bans leave no token.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, InferenceError> {
        self.sample_computed(logits, true, history)
    }

    /// [`sample`](Self::sample) from logits of which, unless `complete`, only those that [`wanted`](Self::wanted) asked for are
    /// there and the others are negative infinity ([`Computed`](bitnet_kernels::Computed)). The choice is the same.
    ///
    /// # Errors
    /// As for [`sample`](Self::sample).
    pub fn sample_computed(&mut self, logits: &[f32], complete: bool, history: &[u32]) -> Result<u32, InferenceError> {
        if complete {
            check_finite(logits)?;
        }
        let s = &self.sampling;
        if s.temperature == 0.0 && is_plain(s) {
            return argmax(logits).ok_or_else(all_banned);
        }
        let c = &mut self.candidates;
        match complete {
            true => c.fill(logits.iter().map(|&logit| f64::from(logit))),
            false => c.fill_finite(logits),
        }
        c.bias(&s.logit_bias);
        let window = &history[history.len() - s.penalty_window.unwrap_or(usize::MAX).min(history.len())..];
        c.penalize(
            window,
            Penalties {
                repetition: f64::from(s.repetition_penalty),
                frequency: f64::from(s.frequency_penalty),
                presence: f64::from(s.presence_penalty),
            },
        );
        c.dry(
            window,
            Dry {
                multiplier: f64::from(s.dry_multiplier),
                base: f64::from(s.dry_base),
                allowed_length: s.dry_allowed_length,
            },
        );
        c.no_repeat_ngram(history, s.no_repeat_ngram);
        if s.temperature == 0.0 {
            return c.argmax().ok_or_else(all_banned);
        }
        c.top_k(s.top_k);
        c.typical(f64::from(s.typical_p));
        c.top_p(f64::from(s.top_p));
        c.min_p(f64::from(s.min_p));
        c.epsilon_cutoff(f64::from(s.epsilon_cutoff));
        c.eta_cutoff(f64::from(s.eta_cutoff));
        if s.xtc_probability > 0.0 && self.random.uniform() < f64::from(s.xtc_probability) {
            c.exclude_top(f64::from(s.xtc_threshold));
        }
        c.temperature(f64::from(s.temperature));
        c.choose(self.random.uniform()).ok_or_else(all_banned)
    }
}

/// True when nothing but the temperature can change which token has the largest logit.
fn is_plain(s: &Sampling) -> bool {
    s.logit_bias.is_empty()
        && s.repetition_penalty == 1.0
        && s.frequency_penalty == 0.0
        && s.presence_penalty == 0.0
        && s.dry_multiplier == 0.0
        && s.no_repeat_ngram == 0
}

/// The largest logit; of equal ones the lowest id.
pub(crate) fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best = (*logits.first()?, 0);
    for (chunk, first) in logits.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
        if any_above(chunk, best.0) {
            for (&logit, id) in chunk.iter().zip(first..) {
                if logit > best.0 {
                    best = (logit, id);
                }
            }
        }
    }
    Some(best.1)
}

/// Logits that are passed over together: nearly all of a vocabulary do not matter.
const CHUNK: usize = 64;

/// Whether any of these exceeds `floor`; no early end, which would cost vectors.
fn any_above(chunk: &[f32], floor: f32) -> bool {
    chunk.iter().fold(false, |any, &logit| any | (logit > floor))
}

fn all_banned() -> InferenceError {
    InferenceError::Option { option: "logit_bias, no_repeat_ngram", reason: "no token is left to choose from".into() }
}

/// Natural logarithms of probability under the model's unmodified distribution: of `chosen`, and of the `top` most
/// probable tokens (ties: lowest id first) into `out`.
pub fn logprobs(logits: &[f32], chosen: u32, top: usize, out: &mut Vec<TokenLogprob>) -> f32 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, &logit| max.max(logit));
    let total: f64 = logits.iter().map(|&logit| libm::exp(f64::from(logit) - f64::from(max))).sum();
    let log_total = f64::from(max) + libm::log(total);
    let logprob = |logit: f32| (f64::from(logit) - log_total) as f32;
    out.clear();
    // `top` is small: insert into a sorted list
    for (&logit, id) in logits.iter().zip(0u32..) {
        if out.len() < top || out.last().is_some_and(|last| logit > logits[last.id as usize]) {
            let at = out.partition_point(|other| logits[other.id as usize] >= logit);
            if out.len() == top {
                out.pop();
            }
            out.insert(at, TokenLogprob { id, logprob: logprob(logit) });
        }
    }
    logits.get(chosen as usize).map_or(f32::NEG_INFINITY, |&logit| logprob(logit))
}

/// NaN and infinity never come out of a healthy model.
pub(crate) fn check_finite(logits: &[f32]) -> Result<(), InferenceError> {
    // no early exit inside a chunk: it runs at memory speed
    if logits.chunks(64).all(|chunk| chunk.iter().fold(true, |ok, x| ok & x.is_finite())) {
        return Ok(());
    }
    let nan = logits.iter().filter(|x| x.is_nan()).count();
    let infinite = logits.iter().filter(|x| x.is_infinite()).count();
    Err(InferenceError::Degenerate(format!(
        "{nan} NaN and {infinite} infinite among {} logits. Likely causes: damaged weights or scales, another I2_S layout \
         than declared, the wrong gate activation, or weight scales applied in the wrong direction",
        logits.len()
    )))
}

/// Refuses values outside their range.
pub(crate) fn check(vocab: usize, s: &Sampling) -> Result<(), InferenceError> {
    let range = |option: &'static str, value: f32, ok: bool, expected: &str| match ok && !value.is_nan() {
        true => Ok(()),
        false => Err(InferenceError::Option { option, reason: format!("{value} is not {expected}") }),
    };
    let unit = |option, value: f32| range(option, value, (0.0..=1.0).contains(&value), "between 0 and 1");
    let finite = |option, value: f32| range(option, value, value.is_finite(), "a finite number");
    for &(id, bias) in &s.logit_bias {
        if id as usize >= vocab {
            let reason = format!("token {id} is not below the vocabulary size {vocab}");
            return Err(InferenceError::Option { option: "logit_bias", reason });
        }
        range("logit_bias", bias, bias < f32::INFINITY, "a number or negative infinity")?;
    }
    let repetition = s.repetition_penalty;
    range("repetition_penalty", repetition, repetition > 0.0 && repetition.is_finite(), "a finite number above 0")?;
    finite("frequency_penalty", s.frequency_penalty)?;
    finite("presence_penalty", s.presence_penalty)?;
    finite("dry_multiplier", s.dry_multiplier)?;
    range("dry_multiplier", s.dry_multiplier, s.dry_multiplier >= 0.0, "0 or above")?;
    range("dry_base", s.dry_base, (1.0..=16.0).contains(&s.dry_base), "between 1 and 16")?;
    unit("typical_p", s.typical_p)?;
    unit("top_p", s.top_p)?;
    unit("min_p", s.min_p)?;
    unit("epsilon_cutoff", s.epsilon_cutoff)?;
    unit("eta_cutoff", s.eta_cutoff)?;
    unit("xtc_probability", s.xtc_probability)?;
    unit("xtc_threshold", s.xtc_threshold)?;
    let temperature = s.temperature;
    range("temperature", temperature, temperature >= 0.0 && temperature.is_finite(), "a finite number of 0 or above")
}
