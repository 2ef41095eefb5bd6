//! The vocabulary: byte-level BPE as GPT-2 has it, read or trained.

use crate::corpus::{self, END_OF_TEXT};
use crate::{Recipe, TrainError};
use std::path::Path;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

/// A tokenizer and its end-of-text token.
pub(crate) struct Vocabulary {
    tokenizer: Tokenizer,
    end: u32,
}

impl Vocabulary {
    /// The recipe's file, or entries trained on the training text.
    pub(crate) fn make(recipe: &Recipe) -> Result<Vocabulary, TrainError> {
        match &recipe.tokenizer.file {
            Some(path) => Vocabulary::read(path),
            None => Vocabulary::train(recipe),
        }
    }

    pub(crate) fn read(path: &Path) -> Result<Vocabulary, TrainError> {
        let bytes = std::fs::read(path).map_err(TrainError::file(path))?;
        let tokenizer =
            Tokenizer::from_bytes(&bytes).map_err(|e| TrainError::Tokenizer(format!("{}: {e}", path.display())))?;
        Vocabulary::of(tokenizer)
    }

    fn of(tokenizer: Tokenizer) -> Result<Vocabulary, TrainError> {
        let end = tokenizer
            .token_to_id(END_OF_TEXT)
            .ok_or_else(|| TrainError::Tokenizer(format!("has no token {END_OF_TEXT}, which ends documents")))?;
        Ok(Vocabulary { tokenizer, end })
    }

    fn train(recipe: &Recipe) -> Result<Vocabulary, TrainError> {
        // The trainer wants an iterator; documents come by call-back, and fit in memory as the tokens will.
        let mut texts = Vec::new();
        for source in &recipe.data.train {
            corpus::documents(source, |text| {
                texts.push((text.to_owned(), source.repeat));
                Ok(())
            })?;
        }
        let mut tokenizer = Tokenizer::new(BPE::default());
        tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        let mut trainer: TrainerWrapper = BpeTrainerBuilder::new()
            .show_progress(false)
            .vocab_size(recipe.tokenizer.vocab)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .build()
            .into();
        tokenizer
            .train(&mut trainer, texts.iter().flat_map(|(text, repeat)| std::iter::repeat_n(text.as_str(), *repeat)))
            .map_err(|e| TrainError::Tokenizer(e.to_string()))?;
        Vocabulary::of(tokenizer)
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The token between documents.
    pub(crate) fn end(&self) -> u32 {
        self.end
    }

    /// Appends a document's tokens to `ids`, with the token that begins it. Text that spells the special token is plain
    /// text.
    pub(crate) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TrainError> {
        ids.push(self.end);
        // no special token may come out of text
        for (index, part) in text.split(END_OF_TEXT).enumerate() {
            if index > 0 {
                for part in [&END_OF_TEXT[..2], &END_OF_TEXT[2..]] {
                    self.append(part, ids)?;
                }
            }
            self.append(part, ids)?;
        }
        Ok(())
    }

    fn append(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TrainError> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|e| TrainError::Tokenizer(e.to_string()))?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    /// The contents of `tokenizer.json`.
    pub(crate) fn to_json(&self) -> Result<String, TrainError> {
        self.tokenizer.to_string(true).map_err(|e| TrainError::Tokenizer(e.to_string()))
    }
}
