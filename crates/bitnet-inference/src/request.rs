//! Requests and the events they cause.

use crate::Grammar;
use std::time::Duration;

/// What to continue.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Plain text.
    Text(String),
    /// Token ids, taken as they are.
    Ids(Vec<u32>),
}

/// The sampler chain, applied in the order of the fields: temperature comes last, after the filters. The default is
/// top-k 40, top-p 0.95 and temperature 0.8; everything else is off.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Divides (or multiplies, when negative) logits of tokens seen in the last `penalty_window`. 1 = off.
    pub repetition_penalty: f32,
    /// Subtracted once per occurrence. 0 = off.
    pub frequency_penalty: f32,
    /// Subtracted once if the token occurred. 0 = off.
    pub presence_penalty: f32,
    /// How many past tokens (prompt included) the penalties look at; `None` = all.
    pub penalty_window: Option<usize>,
    /// DRY: penalty multiplier for tokens that would continue a repeated sequence. 0 = off.
    pub dry_multiplier: f32,
    /// DRY base (default 1.75).
    pub dry_base: f32,
    /// DRY: repeats up to this length are free (default 2).
    pub dry_allowed_length: usize,
    /// Bans tokens that would complete an n-gram of this length that already occurred. 0 = off.
    pub no_repeat_ngram: usize,
    /// Keeps the k most probable tokens. 0 = off.
    pub top_k: usize,
    /// Locally typical sampling. 1 = off.
    pub typical_p: f32,
    /// Nucleus. 1 = off.
    pub top_p: f32,
    /// Keeps tokens with `p >= min_p * max p`. 0 = off.
    pub min_p: f32,
    /// Keeps tokens with at least this probability. 0 = off.
    pub epsilon_cutoff: f32,
    /// Eta sampling: as epsilon, but lower where the distribution is flat. 0 = off.
    pub eta_cutoff: f32,
    /// XTC: chance per step to remove all but the least probable of the tokens above `xtc_threshold`. 0 = off.
    pub xtc_probability: f32,
    /// XTC threshold (default 0.1).
    pub xtc_threshold: f32,
    /// 0 is greedy.
    pub temperature: f32,
    /// Same seed, same text, on every machine.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            logit_bias: Vec::new(),
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_window: None,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            no_repeat_ngram: 0,
            top_k: 40,
            typical_p: 1.0,
            top_p: 0.95,
            min_p: 0.0,
            epsilon_cutoff: 0.0,
            eta_cutoff: 0.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            temperature: 0.8,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Always the most probable token.
    pub fn greedy() -> Self {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }
}

/// A request with everything spelled out.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// What to continue.
    pub prompt: Prompt,
    /// Recognise special tokens inside a text prompt (rendered chat templates).
    pub special: bool,
    /// Add begin-of-sequence: `None` follows the model.
    pub bos: Option<bool>,
    /// At most this many new tokens.
    pub max_tokens: usize,
    /// How to choose them.
    pub sampling: Sampling,
    /// Ends when one of these texts appears (also across token borders); the text itself is not emitted.
    pub stop: Vec<String>,
    /// Ends at the model's own stop tokens.
    pub stop_at_eos: bool,
    /// The form that the answer must have. It ends when that is complete.
    pub grammar: Option<Grammar>,
    /// Report this many most probable tokens with every event; `None` = no log-probabilities.
    pub logprobs: Option<usize>,
    /// When the context is full: drop the oldest half after the first `keep` tokens and go on.
    pub slide: Option<usize>,
}

impl GenerateRequest {
    /// A text request with defaults.
    pub fn new(prompt: impl Into<String>, max_tokens: usize) -> Self {
        GenerateRequest {
            prompt: Prompt::Text(prompt.into()),
            special: false,
            bos: None,
            max_tokens,
            sampling: Sampling::default(),
            stop: Vec::new(),
            stop_at_eos: true,
            grammar: None,
            logprobs: None,
            slide: None,
        }
    }
}

/// A token with its log-probability under the model's unmodified distribution.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct TokenLogprob {
    /// Token.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// One generated token. The stop token is reported too, with whatever text was still held back.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEvent {
    /// Token; text may lag behind it while a character or a possible stop text is incomplete.
    pub id: u32,
    /// Text that became certain with this token.
    pub text: String,
    /// Log-probability, when asked for.
    pub logprob: Option<f32>,
    /// Most probable alternatives, when asked for.
    pub top: Vec<TokenLogprob>,
    /// The stop text that ended the answer: its place among those of the request.
    pub stop: Option<usize>,
    /// Since the request began.
    pub elapsed: Duration,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model's stop token.
    EndOfText,
    /// A stop text.
    StopText,
    /// Nothing can follow in the request's grammar.
    Complete,
    /// `max_tokens` reached.
    Length,
    /// No position is left in the context, and the request has no `slide`.
    ContextFull,
    /// The same token came [`REPEAT_LIMIT`] times in a row.
    Degenerate,
}

/// So many equal tokens in a row end a generation as [`FinishReason::Degenerate`].
pub const REPEAT_LIMIT: usize = 64;

impl std::fmt::Display for FinishReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FinishReason::EndOfText => f.write_str("end of text"),
            FinishReason::StopText => f.write_str("stop text"),
            FinishReason::Complete => f.write_str("the grammar is complete"),
            FinishReason::Length => f.write_str("token limit reached"),
            FinishReason::ContextFull => {
                f.write_str("context full; raise the context length, or choose a sliding context")
            }
            FinishReason::Degenerate => write!(
                f,
                "the same token {REPEAT_LIMIT} times in a row. Likely causes: the wrong gate activation, another I2_S \
                 layout than declared, weight scales applied in the wrong direction, a missing begin-of-sequence token, \
                 or greedy sampling without a repetition penalty"
            ),
        }
    }
}

/// What a request cost.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, taken from the cache.
    pub cached_tokens: usize,
    /// New tokens.
    pub new_tokens: usize,
    /// Waiting for the first step, in a [`Scheduler`](crate::Scheduler).
    pub queue_time: Duration,
    /// Reading the prompt.
    pub prompt_time: Duration,
    /// Making the new tokens.
    pub decode_time: Duration,
    /// Tokens that the draft model guessed.
    pub drafted_tokens: usize,
    /// Of these, right, and taken without a step of their own.
    pub drafted_right: usize,
}
