//! One door for every kind of model file.

use crate::{FormatError, Tensor, gguf, llama2c, safetensors};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An opened and checked model: tensors by name, and where the metadata comes from.
#[derive(Debug)]
pub struct Checkpoint {
    /// The path as given (empty for in-memory data).
    pub path: PathBuf,
    /// Tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Container-specific metadata.
    pub source: Source,
}

/// The container and its metadata.
#[derive(Debug)]
pub enum Source {
    /// GGUF key–value pairs.
    Gguf(gguf::Metadata),
    /// A Hugging Face directory: the parsed `config.json`; tokenizer files lie in the directory.
    HuggingFace(safetensors::HfConfig),
    /// llama2.c header; the tokenizer is a separate file beside it.
    Llama2c(llama2c::Header),
}

impl Checkpoint {
    /// Opens a GGUF file (any part of a split one), a Hugging Face directory, or a llama2.c `.bin`. The kind is told
    /// by content, not by name.
    ///
    /// # Errors
    /// Every check of formats.md §1.4 and §3.
    pub fn open(path: &Path) -> Result<Checkpoint, FormatError> {
        let _ = path;
        todo!()
    }

    /// A GGUF file in memory (the embedded default model).
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn from_gguf_bytes(bytes: Bytes) -> Result<Checkpoint, FormatError> {
        let _ = bytes;
        todo!()
    }
}
