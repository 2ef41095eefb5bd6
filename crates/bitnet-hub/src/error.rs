//! What can go wrong.

use std::io;
use std::path::PathBuf;

/// Why a model cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A name that is none.
    #[error("{0:?} is no model of a hub: expected owner/name, or owner/name/file.gguf")]
    Location(String),
    /// A setting of the environment.
    #[error("{variable}: {reason}")]
    Setting {
        /// Its name.
        variable: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The network must not be used.
    #[error("{0} is not in the cache, and HF_HUB_OFFLINE forbids to download it")]
    Offline(String),
    /// The hub says no.
    #[error("{url}: status {status}: {advice}")]
    Refused {
        /// What was asked for.
        url: String,
        /// The answer.
        status: u16,
        /// What to do.
        advice: &'static str,
    },
    /// The hub cannot be reached, or the connection broke too often.
    #[error("{url}: {reason}")]
    Connection {
        /// What was asked for.
        url: String,
        /// What the system says.
        reason: String,
    },
    /// An answer that no hub gives.
    #[error("{url}: {reason}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Which of several files?
    #[error("{repository} has {} models; name one, for example {repository}/{}", .files.len(), .files.first().map_or("", String::as_str))]
    Several {
        /// Where they are.
        repository: String,
        /// Their names.
        files: Vec<String>,
    },
    /// Nothing to run.
    #[error("{0} has neither a GGUF file nor a config.json with safetensors")]
    NoModel(String),
    /// A file that the repository does not have.
    #[error("{repository} has no file {file:?}")]
    NoFile {
        /// Where it was looked for.
        repository: String,
        /// Its name.
        file: String,
    },
    /// The file that came is not the one that was promised; it was thrown away.
    #[error("{file}: its hash is {found}, but the hub says {expected}; it was removed, try again")]
    Hash {
        /// Its name.
        file: String,
        /// Of what came.
        found: String,
        /// Of what should have come.
        expected: String,
    },
    /// Another process is at it.
    #[error("{0}: another process is downloading it")]
    Busy(PathBuf),
    /// The caller said stop. What came so far is kept.
    #[error("cancelled")]
    Cancelled,
    /// The disk.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl HubError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| HubError::Io { path: path.into(), source }
    }
}
