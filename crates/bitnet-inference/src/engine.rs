//! The engine: a model, its tokenizer and the pool of KV pages.

use crate::{GenerateRequest, InferenceError, Session};
use bitnet_formats::Checkpoint;
use bitnet_models::{LoadOptions, Tokenizer};
use std::path::{Path, PathBuf};

/// Choices at start.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Context length; `None` = the model's, at most 4096 unless more is asked for.
    pub context: Option<usize>,
    /// Tokens per prompt chunk; `None` = 128.
    pub chunk: Option<usize>,
    /// Threads; `None` = `RAYON_NUM_THREADS` or all cores.
    pub threads: Option<usize>,
    /// Instruction-set cap; `None` = `BITNET_ISA` or the best.
    pub isa: Option<String>,
    /// Another tokenizer than the model's.
    pub tokenizer: Option<PathBuf>,
    /// How weights are read.
    pub load: LoadOptions,
}

/// A loaded model that answers requests.
pub struct Engine {}

impl Engine {
    /// Opens a model with defaults: a GGUF file, a Hugging Face directory or a llama2.c file.
    ///
    /// # Errors
    /// Anything wrong with the file.
    pub fn new(path: impl AsRef<Path>) -> Result<Self, InferenceError> {
        Self::open(path, EngineOptions::default())
    }

    /// Opens a model with options.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn open(path: impl AsRef<Path>, options: EngineOptions) -> Result<Self, InferenceError> {
        let _ = (path.as_ref(), options);
        todo!()
    }

    /// From an opened checkpoint (the embedded default model).
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: EngineOptions) -> Result<Self, InferenceError> {
        let _ = (checkpoint, options);
        todo!()
    }

    /// The answer to a prompt, at once.
    ///
    /// # Errors
    /// See [`InferenceError`].
    pub fn generate(&self, prompt: &str, max_tokens: usize) -> Result<String, InferenceError> {
        let _ = (prompt, max_tokens);
        todo!()
    }

    /// A new, empty session.
    pub fn session(&self) -> Session<'_> {
        todo!()
    }

    /// One-shot request with a callback per event; return false from it to stop.
    ///
    /// # Errors
    /// See [`InferenceError`].
    pub fn stream(
        &self,
        request: &GenerateRequest,
        on_event: &mut dyn FnMut(&crate::TokenEvent) -> bool,
    ) -> Result<(crate::FinishReason, crate::Usage), InferenceError> {
        let _ = (request, on_event);
        todo!()
    }

    /// Logits at every position of `ids`, `[ids, vocab]`, row-major.
    ///
    /// # Errors
    /// Ids outside the vocabulary, or more than the context.
    pub fn logits(&self, ids: &[u32]) -> Result<Vec<f32>, InferenceError> {
        let _ = ids;
        todo!()
    }

    /// One L2-normalised vector per text (embedding models; others use mean pooling on request).
    ///
    /// # Errors
    /// Text longer than the context.
    pub fn embed(&self, text: &str) -> Result<Vec<f32>, InferenceError> {
        let _ = text;
        todo!()
    }

    /// The tokenizer, if there is one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        todo!()
    }
}
