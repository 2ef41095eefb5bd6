//! Text ⇄ token ids.

mod byte_bpe;
mod byte_level;
mod conversation;
mod files;
mod gguf;
mod hugging_face;
mod literals;
mod llama2c;
mod merger;
mod pre_tokenizer;
mod sentence_piece;
mod sentence_piece_model;
mod stream;
mod string_table;
mod tiktoken;
mod vocabulary;

pub(crate) use files::FILES;
pub use stream::DecodeStream;

use crate::{ChatTemplate, ModelError, catalogue};
use bitnet_formats::{Checkpoint, Source, gguf::Value};
use byte_bpe::ByteBpe;
use hugging_face::HuggingFace;
use sentence_piece::SentencePiece;
use std::path::Path;
use vocabulary::Vocabulary;

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
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    algorithm: Algorithm,
    bos: Option<u32>,
    eos: Option<u32>,
    /// Sorted, without repetition.
    stops: Vec<u32>,
    /// Ids before and after every text, as the model was trained.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    template: Option<ChatTemplate>,
    notes: Vec<String>,
}

#[derive(Debug)]
enum Algorithm {
    ByteBpe(ByteBpe),
    SentencePiece(SentencePiece),
    HuggingFace(Box<HuggingFace>),
}

/// What a source says about special tokens, before it is checked.
#[derive(Debug, Default)]
struct Specials {
    bos: Option<u32>,
    eos: Option<u32>,
    /// Further ids that end an answer.
    stops: Vec<u32>,
    add_bos: bool,
    add_eos: bool,
}

/// Longer texts are refused: positions are 32-bit and the spelling of a vocabulary may double a text.
const MAX_TEXT: usize = 1 << 30;

impl Tokenizer {
    /// From a checkpoint: GGUF metadata, or the tokenizer files of a Hugging Face directory, or `tokenizer.bin`/
    /// `tok*.bin` beside a llama2.c file.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        let known = catalogue::of(checkpoint);
        let tokenizer = match &checkpoint.source {
            Source::Gguf(metadata) => gguf::read(metadata, known),
            Source::HuggingFace(config) => files::open_directory(&config.dir),
            Source::Llama2c(header) => llama2c::beside(&checkpoint.path, header.vocab_size),
        }?;
        match known.and_then(|entry| Some((entry.name, entry.chat_template?))) {
            Some((name, template)) if tokenizer.template.is_none() => {
                let note = format!("the model has no chat template of its own; took the one of {name}");
                tokenizer.with_template(Some(template.into()), vec![note])
            }
            _ => Ok(tokenizer),
        }
    }

    /// From a path: vocabulary-only GGUF, HF directory, `tokenizer.json`, tiktoken or SentencePiece file, llama2.c
    /// `.bin`. Told by content.
    ///
    /// # Errors
    /// Unknown kind or damaged file.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        files::open(path)
    }

    fn new(vocabulary: Vocabulary, algorithm: Algorithm, specials: Specials) -> Result<Self, ModelError> {
        let Specials { bos, eos, mut stops, add_bos, add_eos } = specials;
        stops.extend(eos);
        for id in stops.iter().chain(&bos) {
            if *id as usize >= vocabulary.len() {
                let tokens = vocabulary.len();
                return Err(ModelError::Tokenizer(format!("special token {id} is outside the vocabulary of {tokens}")));
            }
        }
        stops.extend(vocabulary.stops_by_name());
        stops.sort_unstable();
        stops.dedup();
        let prefix = bos.filter(|_| add_bos).into_iter().collect();
        let suffix = eos.filter(|_| add_eos).into_iter().collect();
        Ok(Self { vocabulary, algorithm, bos, eos, stops, prefix, suffix, template: None, notes: Vec::new() })
    }

    /// Text → ids. With `how.special` a begin-of-sequence that the text itself starts with is not doubled.
    ///
    /// # Errors
    /// A text over 1 GiB, or one that needs a token the vocabulary lacks.
    pub fn encode(&self, text: &str, how: Encoding) -> Result<Vec<u32>, ModelError> {
        if text.len() > MAX_TEXT {
            return Err(ModelError::Tokenizer(format!("a text of {} bytes; the limit is 1 GiB", text.len())));
        }
        let mut ids = Vec::with_capacity(text.len() / 3 + 8);
        match how.bos {
            Some(false) => {}
            Some(true) if self.prefix.is_empty() => ids.extend(self.bos),
            _ => ids.extend(&self.prefix),
        }
        let start = ids.len();
        let vocabulary = &self.vocabulary;
        match &self.algorithm {
            Algorithm::HuggingFace(tokenizer) => tokenizer.encode(text, how.special, &mut ids)?,
            Algorithm::ByteBpe(bpe) => {
                vocabulary.encode(text, how.special, &mut ids, |text, ids| bpe.encode(vocabulary, text, ids))?;
            }
            Algorithm::SentencePiece(bpe) => {
                vocabulary.encode(text, how.special, &mut ids, |text, ids| bpe.encode(vocabulary, text, ids))?;
            }
        }
        if how.special && start > 0 && ids[start..].starts_with(&ids[..start]) {
            ids.drain(..start);
        }
        if how.bos != Some(false) {
            ids.extend(&self.suffix);
        }
        Ok(ids)
    }

    /// Ids → text; invalid and incomplete UTF-8 becomes U+FFFD. Special tokens are kept as text when `special`. Ids
    /// outside the vocabulary give nothing.
    pub fn decode(&self, ids: &[u32], special: bool) -> String {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            let token = if special { self.vocabulary.bytes_or_name(id) } else { self.vocabulary.bytes(id) };
            bytes.extend_from_slice(token.unwrap_or_default());
        }
        let text = if self.space_prefix() { bytes.strip_prefix(b" ").unwrap_or(&bytes) } else { &bytes };
        String::from_utf8_lossy(text).into_owned()
    }

    /// Incremental decoding of a whole text: the pieces together are [`decode`](Self::decode) of all ids without
    /// special tokens. Never splits a character.
    pub fn stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self, self.space_prefix())
    }

    /// As [`stream`](Self::stream), for text that follows the token `last`: a space before its first word is then part
    /// of the text, unless `last` is begin-of-sequence.
    pub fn stream_after(&self, last: Option<u32>) -> DecodeStream<'_> {
        DecodeStream::new(self, self.space_prefix() && (last.is_none() || last == self.bos))
    }

    /// The bytes a token stands for (empty for control tokens); `None` for an id outside the vocabulary.
    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocabulary.bytes(id)
    }

    /// The token as the vocabulary spells it (`Ġthe`, `▁the`, `<0x0A>`, `<|eot_id|>`).
    pub fn text(&self, id: u32) -> Option<&str> {
        self.vocabulary.text(id)
    }

    /// Id of a token by its text as the vocabulary spells it, special tokens included.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.vocabulary.id(text)
    }

    /// Number of ids.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// Begin-of-sequence id.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// End-of-sequence id as the model declares it.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Ids that end an answer: eos, eot and friends found by literal name.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stops
    }

    /// The model's chat template (catalogue and placeholder rules applied), if any.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// What was assumed because the file does not say it, or says it wrong.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Everything that stores this tokenizer in a GGUF file: `tokenizer.ggml.*` and `tokenizer.chat_template`. A
    /// tokenizer opened from it encodes the same.
    ///
    /// # Errors
    /// A `tokenizer.json` that does something GGUF cannot say.
    pub fn gguf_metadata(&self) -> Result<Vec<(String, Value)>, ModelError> {
        gguf::write(self)
    }

    /// The model puts a space before the first word, and decoding takes it away again.
    fn space_prefix(&self) -> bool {
        match &self.algorithm {
            Algorithm::ByteBpe(_) => false,
            Algorithm::SentencePiece(bpe) => bpe.space_prefix,
            Algorithm::HuggingFace(tokenizer) => tokenizer.space_prefix(),
        }
    }
}
