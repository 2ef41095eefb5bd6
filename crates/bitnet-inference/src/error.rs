//! Why a request fails.

use bitnet_formats::FormatError;
use bitnet_models::ModelError;

/// Errors of loading and generating.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    /// The model or its file.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The file itself.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The prompt (and answer) do not fit the context.
    #[error(
        "{tokens} tokens do not fit the context of {context}; shorten the prompt, raise the context length, or choose a sliding context"
    )]
    ContextFull {
        /// Tokens needed.
        tokens: usize,
        /// Positions there are.
        context: usize,
    },
    /// A request option is outside its range.
    #[error("{option}: {reason}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The model's output makes no sense: NaN logits or one token for ever.
    #[error("degenerate output: {0}")]
    Degenerate(String),
    /// The model has no tokenizer and the prompt is text.
    #[error("the model has no tokenizer: give one with --tokenizer, or pass token ids")]
    NoTokenizer,
}
