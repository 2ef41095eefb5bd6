//! The vocabulary: byte-level BPE as GPT-2 has it, read or trained.

use crate::corpus::{self, Document, END_OF_TEXT};
use crate::tokens::GIVEN;
use crate::whole_file::write_whole;
use crate::{Recipe, TrainError};
use bitnet_models::{ChatTemplate, Message};
use serde_json::{Map, Value, json};
use std::path::Path;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

/// A tokenizer, its end-of-text token, and how it writes conversations.
pub(crate) struct Vocabulary {
    tokenizer: Tokenizer,
    end: u32,
    chat: Option<Chat>,
    /// `tokenizer_config.json` of the model that the run started from.
    config: Option<Map<String, Value>>,
}

/// The same tokenizer as the engine has it, and a template with the text of its `bos_token`.
struct Chat {
    tokenizer: bitnet_models::Tokenizer,
    template: ChatTemplate,
    bos: String,
}

/// The template that the recipe names.
fn asked_template(recipe: &Recipe) -> Result<Option<String>, TrainError> {
    let path = recipe.tokenizer.chat_template.as_ref();
    path.map(|path| std::fs::read_to_string(path).map_err(TrainError::file(path))).transpose()
}

impl Vocabulary {
    /// That of the model to start from, the recipe's file, or entries trained on the training text.
    pub(crate) fn make(recipe: &Recipe) -> Result<Vocabulary, TrainError> {
        let template = asked_template(recipe)?;
        match (&recipe.start, &recipe.tokenizer.file) {
            (Some(dir), _) => Vocabulary::read(&dir.join("tokenizer.json"), Some(dir), template),
            (None, Some(path)) => Vocabulary::read(path, None, template),
            (None, None) => Vocabulary::train(recipe),
        }
    }

    /// That of a run, as [`keep`](Self::keep) left it.
    pub(crate) fn of_run(dir: &Path, recipe: &Recipe) -> Result<Vocabulary, TrainError> {
        let path = dir.join("tokenizer.json");
        let kept = bitnet_models::Tokenizer::open(&path).map_err(|e| TrainError::Tokenizer(e.to_string()))?;
        let template = match kept.chat_template() {
            Some(template) => Some(template.source().to_owned()),
            None => asked_template(recipe)?,
        };
        Vocabulary::read(&path, recipe.start.as_deref(), template)
    }

    /// Writes into a run's directory what goes on with it, wherever it came from.
    pub(crate) fn keep(&self, dir: &Path) -> Result<(), TrainError> {
        write_whole(&dir.join("tokenizer.json"), self.to_json()?.as_bytes())?;
        let Some(Chat { template, bos, .. }) = &self.chat else { return Ok(()) };
        let config = json!({ "bos_token": bos, "chat_template": template.source() });
        write_whole(&dir.join("tokenizer_config.json"), format!("{config:#}\n").as_bytes())
    }

    /// From a `tokenizer.json`, which may be that of a model `start`, whose special tokens and chat template then hold; `template` is
    /// another one.
    pub(crate) fn read(path: &Path, start: Option<&Path>, template: Option<String>) -> Result<Vocabulary, TrainError> {
        let error = |reason: String| TrainError::Tokenizer(format!("{}: {reason}", path.display()));
        let bytes = std::fs::read(path).map_err(TrainError::file(path))?;
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|e| error(e.to_string()))?;
        // Settings for batches of transformers: they would cut and fill up documents.
        tokenizer.with_truncation(None).map_err(|e| error(e.to_string()))?;
        tokenizer.with_padding(None);
        tokenizer.set_encode_special_tokens(true);
        // a model's directory also says which token ends a text and how conversations are written
        let place = start.unwrap_or(path);
        let engine = bitnet_models::Tokenizer::open(place).map_err(|e| error(e.to_string()))?;
        let eos = start.and(engine.eos());
        let end = eos.or_else(|| tokenizer.token_to_id(END_OF_TEXT));
        let end = end.ok_or_else(|| error(format!("has no token {END_OF_TEXT}, which ends documents")))?;
        let mut config = None;
        if let Some(path) = start.map(|dir| dir.join("tokenizer_config.json")).filter(|path| path.exists()) {
            let text = std::fs::read_to_string(&path).map_err(TrainError::file(&path))?;
            config = Some(serde_json::from_str(&text).map_err(|e| error(format!("tokenizer_config.json: {e}")))?);
        }
        let template = template.or_else(|| engine.chat_template().map(|template| template.source().to_owned()));
        let text = |id: Option<u32>| id.and_then(|id| engine.text(id)).unwrap_or_default().to_owned();
        let (bos, end_text) = (text(engine.bos().or(Some(end))), text(Some(end)));
        let template = template.map(|source| ChatTemplate::new(&source, &bos, &end_text));
        let template = template.transpose().map_err(|e| TrainError::Tokenizer(e.to_string()))?;
        let chat = template.map(|template| Chat { tokenizer: engine, template, bos });
        Ok(Vocabulary { tokenizer, end, chat, config })
    }

    fn of(mut tokenizer: Tokenizer) -> Result<Vocabulary, TrainError> {
        tokenizer.set_encode_special_tokens(true);
        let end = tokenizer
            .token_to_id(END_OF_TEXT)
            .ok_or_else(|| TrainError::Tokenizer(format!("has no token {END_OF_TEXT}, which ends documents")))?;
        Ok(Vocabulary { tokenizer, end, chat: None, config: None })
    }

    /// Appends a conversation's tokens to `ids`, begun by the token that begins documents. All but what the assistant says, and the
    /// tokens that the template ends it with, are marked as [`GIVEN`].
    pub(crate) fn encode_chat(&self, messages: &[Message], ids: &mut Vec<u32>) -> Result<(), TrainError> {
        let Some(Chat { tokenizer, template, .. }) = &self.chat else {
            return Err(TrainError::Tokenizer(
                "is a conversation, but the model has no chat template: give one (tokenizer.chat_template)".into(),
            ));
        };
        let encode = |messages: &[Message], open: bool| {
            tokenizer.encode_chat(template, messages, open).map_err(|e| TrainError::Tokenizer(e.to_string()))
        };
        let whole = encode(messages, false)?;
        let mut learned = vec![false; whole.len()];
        for (turn, _) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
            let (before, after) = (encode(&messages[..turn], true)?, encode(&messages[..=turn], false)?);
            if !after.starts_with(&before) || !whole.starts_with(&after) {
                return Err(TrainError::Tokenizer(format!(
                    "the chat template writes the conversation in another way once turn {} is known, so that what is learned \
                     would not be what is asked later",
                    turn + 1
                )));
            }
            learned[before.len()..after.len()].fill(true);
        }
        let own_begin = whole.first() == Some(&self.end);
        ids.extend((!own_begin).then_some(self.end | GIVEN));
        ids.extend(whole.iter().zip(&learned).map(|(&id, &learned)| if learned { id } else { id | GIVEN }));
        Ok(())
    }

    /// The contents of `tokenizer_config.json` of a model trained on `context` positions.
    pub(crate) fn config(&self, context: usize) -> Value {
        let mut config = self.config.clone().unwrap_or_else(|| {
            let end = self.tokenizer.id_to_token(self.end).unwrap_or_default();
            let entries = [
                ("tokenizer_class", json!("PreTrainedTokenizerFast")),
                ("bos_token", json!(end)),
                ("eos_token", json!(end)),
                ("add_bos_token", json!(true)),
            ];
            entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
        });
        config.insert("model_max_length".into(), json!(context));
        if let Some(Chat { template, .. }) = &self.chat {
            config.insert("chat_template".into(), json!(template.source()));
        }
        Value::Object(config)
    }

    fn train(recipe: &Recipe) -> Result<Vocabulary, TrainError> {
        // The trainer wants an iterator; documents come by call-back, and fit in memory as the tokens will.
        let mut texts = Vec::new();
        for source in &recipe.data.train {
            corpus::documents(source, |document| {
                match document {
                    Document::Text(text) => texts.push((text.to_owned(), source.repeat)),
                    Document::Chat(_) => {
                        let reason = "is a conversation: give a vocabulary (tokenizer.file) or a model to start from";
                        return Err(TrainError::Tokenizer(reason.into()));
                    }
                }
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

    /// Appends a document's tokens to `ids`, with the token that begins it. Text that spells a special token is plain
    /// text.
    pub(crate) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TrainError> {
        ids.push(self.end);
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|e| TrainError::Tokenizer(e.to_string()))?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    /// True if the same ids mean the same tokens to the model in `dir`.
    pub(crate) fn is_that_of(&self, dir: &Path) -> Result<bool, TrainError> {
        let path = dir.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(TrainError::file(&path))?;
        let other = Tokenizer::from_bytes(&bytes);
        let other = other.map_err(|e| TrainError::Tokenizer(format!("{}: {e}", path.display())))?;
        Ok(self.tokenizer.get_vocab(true) == other.get_vocab(true))
    }

    /// The contents of `tokenizer.json`.
    pub(crate) fn to_json(&self) -> Result<String, TrainError> {
        self.tokenizer.to_string(true).map_err(|e| TrainError::Tokenizer(e.to_string()))
    }
}
