//! Why a file or a tensor is refused.

use std::path::PathBuf;

/// Every refusal says what was found, what was expected and, where it helps, what to do.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The container is damaged, lying or not of the expected kind.
    #[error("{file}: {reason}")]
    Container {
        /// File name (or "<memory>").
        file: String,
        /// What is wrong, with offsets and values.
        reason: String,
    },
    /// One tensor cannot be used.
    #[error("{file}: tensor {tensor}: {reason}")]
    Tensor {
        /// File name.
        file: String,
        /// Tensor name.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// A value of metadata is missing or of another type than needed.
    #[error("{file}: metadata {key}: {reason}")]
    Metadata {
        /// File name.
        file: String,
        /// Key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// Bytes do not follow their encoding, or values do not fit the wanted one.
    #[error("{encoding}: {reason}")]
    Encoding {
        /// Name of the encoding.
        encoding: String,
        /// What is wrong.
        reason: String,
    },
}
