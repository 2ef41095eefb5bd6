//! One door for every kind of model file.

use crate::{FormatError, I2sLayout, Tensor, TileParams, gguf, llama2c, map::map, safetensors};
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

/// What a GGUF file does not say about itself.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Which writer made the I2_S tensors.
    pub i2s_layout: I2sLayout,
    /// Tile parameters of TL1 and TL2 tensors by shape `(rows, cols)`. Without those such a tensor is refused.
    pub tile_params: BTreeMap<(usize, usize), TileParams>,
}

impl Checkpoint {
    /// Opens a GGUF file (any part of a split one), a Hugging Face directory, or a llama2.c `.bin`. The kind is told
    /// by content, not by name.
    ///
    /// # Errors
    /// Every check of formats.md §1.4 and §3.
    pub fn open(path: &Path) -> Result<Checkpoint, FormatError> {
        Self::open_with(path, &OpenOptions::default())
    }

    /// [`open`](Self::open) with what the file does not say.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_with(path: &Path, options: &OpenOptions) -> Result<Checkpoint, FormatError> {
        let (source, tensors) = if path.is_dir() {
            let (config, tensors) = safetensors::open_dir(path)?;
            (Source::HuggingFace(config), tensors)
        } else {
            let file = path.display().to_string();
            let bytes = map(path)?;
            refuse_pointer(&file, &bytes)?;
            if bytes.starts_with(gguf::MAGIC) || bytes.starts_with(b"FUGG") {
                let (metadata, tensors) = gguf::read_all(path, &bytes, options)?;
                (Source::Gguf(metadata), tensors)
            } else if let Some(header) = llama2c::recognise(&file, &bytes)? {
                let tensors = llama2c::tensors(&header, &bytes);
                (Source::Llama2c(header), tensors)
            } else if bytes.get(8) == Some(&b'{') {
                let (config, tensors) = safetensors::open_lone(path, &bytes)?;
                (Source::HuggingFace(config), tensors)
            } else {
                return Err(unknown(&file, &bytes));
            }
        };
        Ok(Checkpoint { path: path.to_owned(), tensors, source })
    }

    /// A GGUF file in memory (the embedded default model).
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn from_gguf_bytes(bytes: Bytes) -> Result<Checkpoint, FormatError> {
        let path = PathBuf::new();
        let (metadata, tensors) = gguf::read_memory(&bytes)?;
        Ok(Checkpoint { path, tensors, source: Source::Gguf(metadata) })
    }
}

/// A clone made without Git LFS has small text files where the large ones belong.
pub(crate) fn refuse_pointer(file: &str, bytes: &[u8]) -> Result<(), FormatError> {
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(FormatError::container(
            file,
            "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull` or download it directly",
        ));
    }
    Ok(())
}

fn unknown(file: &str, bytes: &[u8]) -> FormatError {
    let start = &bytes[..bytes.len().min(8)];
    let what = match start {
        [] => "is empty".to_owned(),
        [b'P', b'K', 3, 4, ..] => "is a zip archive, perhaps PyTorch weights (convert them to safetensors)".to_owned(),
        [b'{', ..] => "is a JSON file; give the model's directory instead".to_owned(),
        _ => format!("is of an unknown kind: it starts with {start:02x?}"),
    };
    FormatError::container(
        file,
        format!(
            "{what}; expected a GGUF file, a Hugging Face directory (config.json and safetensors) or a llama2.c .bin \
             whose size agrees with its header"
        ),
    )
}
