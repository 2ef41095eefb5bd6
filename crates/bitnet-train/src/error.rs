//! What can go wrong in training.

use std::path::PathBuf;

/// An error of training. Files that existed before are never left half-written.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A recipe that cannot be followed.
    #[error("recipe: {0}")]
    Recipe(String),
    /// Text that cannot be trained on.
    #[error("{path}: {reason}")]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The tokenizer could not be trained or read.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A model that cannot be the beginning of a run, or its teacher.
    #[error("{path}: {reason}")]
    Model {
        /// Its directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint that does not belong to the recipe, or is damaged.
    #[error("{path}: {reason}")]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Loss or gradient are no numbers any more.
    #[error(
        "in step {step} the loss is {loss} and the gradient's norm {gradient_norm}. The last good checkpoint is kept: `bitnet export --last` \
         makes a model of it, from which a new run can start (start) with a lower peak_lr, a longer warm-up or a smaller clip"
    )]
    Diverged {
        /// The step, counted from 1.
        step: usize,
        /// In nats per token.
        loss: f64,
        /// Before clipping.
        gradient_norm: f64,
    },
    /// Weights that cannot be quantised.
    #[error("{name}: {reason}")]
    Weights {
        /// The weight.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl TrainError {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> TrainError {
        let path = path.into();
        move |source| TrainError::File { path, source }
    }
}
