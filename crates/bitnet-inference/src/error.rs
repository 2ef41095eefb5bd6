//! Why a request fails.

use bitnet_formats::FormatError;
use bitnet_kernels::KernelError;
use bitnet_models::ModelError;
use std::path::PathBuf;

/// Errors of loading and generating.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    /// The model or its file.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The file itself.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The backend cannot be set up as wanted.
    #[error(transparent)]
    Kernel(#[from] KernelError),
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
    /// Other sessions hold all KV pages.
    #[error(
        "all {pages} KV pages ({positions} positions) are in use by open sessions; end one, or open the engine with more \
         KV pages"
    )]
    CacheFull {
        /// Pages in the pool.
        pages: usize,
        /// Positions they hold.
        positions: usize,
    },
    /// The scheduler's queue is full.
    #[error("busy: {waiting} requests are waiting already; try again in {retry_after:?}")]
    Busy {
        /// Requests in the queue.
        waiting: usize,
        /// A guess of when there will be room.
        retry_after: std::time::Duration,
    },
    /// The scheduler takes no more requests, or ended before this one was answered.
    #[error("the scheduler has stopped: no more requests are answered")]
    Stopped,
    /// A request option is outside its range.
    #[error("{option}: {reason}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The draft model does not fit the model.
    #[error("{} cannot be the draft model: {reason}; a draft needs the vocabulary of the model that it guesses for", path.display())]
    Draft {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The model's output makes no sense: NaN or infinite logits.
    #[error("degenerate output: {0}")]
    Degenerate(String),
    /// The prompt is text and there is no usable tokenizer.
    #[error("no usable tokenizer ({reason}): give one with --tokenizer, or pass token ids")]
    NoTokenizer {
        /// Why there is none.
        reason: String,
    },
}
