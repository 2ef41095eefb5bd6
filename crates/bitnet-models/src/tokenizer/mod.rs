//! Text ⇄ token ids.

use crate::{ChatTemplate, ModelError};
use bitnet_formats::Checkpoint;
use std::path::Path;

/// How text becomes ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// Begin-of-sequence (and end-of-sequence for models that append it): `None` follows the model, `Some(false)` is
    /// `--no-bos`.
    pub bos: Option<bool>,
    /// Recognise special-token text such as `<|eot_id|>`. Off for anything a user typed.
    pub special: bool,
}

/// A tokenizer of any source: `tokenizer.json`, GGUF metadata, tiktoken ranks, SentencePiece `.model`, llama2.c.
pub struct Tokenizer {}

impl Tokenizer {
    /// From a checkpoint: GGUF metadata, or the tokenizer files of a Hugging Face directory, or `tokenizer.bin`/
    /// `tok*.bin` beside a llama2.c file.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        let _ = checkpoint;
        todo!()
    }

    /// From a path: vocabulary-only GGUF, HF directory, `tokenizer.json`, tiktoken or SentencePiece file, llama2.c
    /// `.bin`. Told by content.
    ///
    /// # Errors
    /// Unknown kind or damaged file.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let _ = path;
        todo!()
    }

    /// Text → ids.
    ///
    /// # Errors
    /// Only where the underlying tokenizer can fail.
    pub fn encode(&self, text: &str, how: Encoding) -> Result<Vec<u32>, ModelError> {
        let _ = (text, how);
        todo!()
    }

    /// Ids → text; incomplete UTF-8 becomes U+FFFD. Special tokens are kept as text when `special`.
    pub fn decode(&self, ids: &[u32], special: bool) -> String {
        let _ = (ids, special);
        todo!()
    }

    /// Incremental decoding that never splits a character.
    pub fn stream(&self) -> DecodeStream<'_> {
        todo!()
    }

    /// The bytes a token stands for (empty for control tokens); `None` for an id outside the vocabulary.
    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        let _ = id;
        todo!()
    }

    /// Id of a token by its literal text, special tokens included.
    pub fn id(&self, text: &str) -> Option<u32> {
        let _ = text;
        todo!()
    }

    /// Number of ids.
    pub fn vocab_size(&self) -> usize {
        todo!()
    }

    /// Begin-of-sequence id.
    pub fn bos(&self) -> Option<u32> {
        todo!()
    }

    /// Ids that end an answer: eos, eot and friends found by literal name.
    pub fn stop_ids(&self) -> &[u32] {
        todo!()
    }

    /// The model's chat template (catalogue and placeholder rules applied), if any.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        todo!()
    }
}

/// Turns a growing list of ids into text, holding back bytes of an unfinished character.
pub struct DecodeStream<'a> {
    _tokenizer: &'a Tokenizer,
}

impl DecodeStream<'_> {
    /// Takes the next id and returns the text that became complete (often empty inside a character). Reuses its
    /// memory.
    pub fn push(&mut self, id: u32) -> &str {
        let _ = id;
        todo!()
    }

    /// What is left at the end, lossily.
    pub fn finish(&mut self) -> &str {
        todo!()
    }
}
