//! Why a model, tokenizer or template is refused.

use bitnet_formats::FormatError;
use bitnet_kernels::KernelError;

/// Errors of this crate; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file itself.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A weight that the backend refuses.
    #[error("tensor {tensor}: {source}")]
    Weights {
        /// Tensor name.
        tensor: String,
        /// The reason.
        source: KernelError,
    },
    /// Metadata that is missing, contradictory or of an unknown architecture.
    #[error("{0}")]
    Config(String),
    /// The tokenizer cannot be built or used.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template cannot be rendered.
    #[error("chat template: {0}")]
    Template(String),
}
