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
        /// File name (or `<memory>`).
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
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// Bytes do not follow their encoding, or values do not fit the wanted one.
    #[error("{encoding}: {reason}")]
    Encoding {
        /// Name of the encoding.
        encoding: String,
        /// What is wrong.
        reason: String,
    },
}

impl FormatError {
    pub(crate) fn container(file: &str, reason: impl Into<String>) -> Self {
        Self::Container { file: file.to_owned(), reason: reason.into() }
    }

    pub(crate) fn tensor(file: &str, tensor: &str, reason: impl Into<String>) -> Self {
        Self::Tensor { file: file.to_owned(), tensor: tensor.to_owned(), reason: reason.into() }
    }

    pub(crate) fn metadata(file: &str, key: &str, reason: impl Into<String>) -> Self {
        Self::Metadata { file: file.to_owned(), key: key.to_owned(), reason: reason.into() }
    }
}
