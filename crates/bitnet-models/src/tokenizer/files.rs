//! Which file holds the tokenizer, and what the files beside it say.

use super::byte_bpe::{ByteBpe, Merges, Ranks};
use super::string_table::StringTable;
use super::vocabulary::{Kind, Spelling, Vocabulary};
use super::{Algorithm, Specials, Tokenizer, hugging_face, llama2c, sentence_piece_model, tiktoken};
use crate::ModelError;
use bitnet_formats::{Checkpoint, FormatError};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// Names of tokenizer files in a Hugging Face directory, the first found is taken. `vocab.json` goes with `merges.txt`.
pub(crate) const FILES: [&str; 5] =
    ["tokenizer.json", "tokenizer.model", "tokenizer.tiktoken", "qwen.tiktoken", "vocab.json"];

/// No published tokenizer file is near this size.
const MAX_FILE: u64 = 256 << 20;
/// Nor a file of settings near this one; parsed it takes up to sixteen times its size.
const MAX_SETTINGS: u64 = 32 << 20;

fn error(path: &Path, problem: impl std::fmt::Display) -> ModelError {
    ModelError::Tokenizer(format!("{}: {problem}", path.display()))
}

fn read_file(path: &Path, most: u64) -> Result<Vec<u8>, ModelError> {
    let io = |source| FormatError::Io { path: path.to_owned(), source };
    let len = std::fs::metadata(path).map_err(io)?.len();
    if len > most {
        return Err(error(path, format!("{len} bytes; such a file has at most {most}")));
    }
    Ok(std::fs::read(path).map_err(io)?)
}

/// A JSON file that may be absent.
fn read_json(path: &Path) -> Result<Value, ModelError> {
    if !path.is_file() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&read_file(path, MAX_SETTINGS)?).map_err(|e| error(path, e))
}

/// Opens any tokenizer file or a directory; the kind is told by content.
pub(super) fn open(path: &Path) -> Result<Tokenizer, ModelError> {
    if path.is_dir() {
        return open_directory(path);
    }
    let mut start = [0; 4];
    let io = |source| FormatError::Io { path: path.to_owned(), source };
    let read = std::fs::File::open(path).and_then(|mut f| std::io::Read::read(&mut f, &mut start)).map_err(io)?;
    if matches!(&start[..read], b"GGUF" | b"FUGG") {
        return Tokenizer::from_checkpoint(&Checkpoint::open(path)?);
    }
    let bytes = read_file(path, MAX_FILE)?;
    let directory = path.parent().unwrap_or(path);
    let opened = if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{') {
        if path.file_name().is_some_and(|name| name == "vocab.json") {
            return vocab_and_merges(directory);
        }
        hugging_face::read(&bytes, &Settings::read(directory)?)
    } else if tiktoken::recognise(&bytes) {
        tiktoken::read(&bytes, &Settings::read(directory)?)
    } else if sentence_piece_model::recognise(&bytes) {
        sentence_piece_model::read(&bytes, &Settings::read(directory)?)
    } else if llama2c::recognise(&bytes) {
        llama2c::read(&bytes)
    } else {
        return Err(error(
            path,
            "not a tokenizer file; known are tokenizer.json, GGUF, tiktoken ranks, SentencePiece .model, \
             llama2.c tokenizer.bin and vocab.json with merges.txt",
        ));
    };
    opened.map_err(|e| match e {
        ModelError::Tokenizer(problem) => error(path, problem),
        other => other,
    })
}

/// The tokenizer of a Hugging Face directory.
pub(super) fn open_directory(directory: &Path) -> Result<Tokenizer, ModelError> {
    match FILES.iter().map(|name| directory.join(name)).find(|path| path.is_file()) {
        Some(path) => open(&path),
        None => Err(error(directory, format!("no tokenizer: none of {} with merges.txt", FILES.join(", ")))),
    }
}

/// GPT-2's pair of files.
fn vocab_and_merges(directory: &Path) -> Result<Tokenizer, ModelError> {
    let path = directory.join("vocab.json");
    let ids: HashMap<String, u32> =
        serde_json::from_slice(&read_file(&path, MAX_FILE)?).map_err(|e| error(&path, e))?;
    let settings = Settings::read(directory)?;
    let mut texts: Vec<Option<&str>> = vec![None; ids.len()];
    for (text, &id) in &ids {
        let tokens = ids.len();
        let slot = texts.get_mut(id as usize);
        *slot.ok_or_else(|| error(&path, format!("token {text:?} has id {id}, but there are {tokens} tokens")))? =
            Some(text);
    }
    let mut kinds = vec![Kind::Normal; texts.len()];
    for (id, text, special) in &settings.added {
        let (id, tokens) = (*id as usize, texts.len());
        if id > tokens {
            return Err(error(&path, format!("{tokens} tokens, but the added token {text:?} has id {id}")));
        }
        if id == tokens {
            texts.push(Some(text));
            kinds.push(Kind::UserDefined);
        }
        if *special {
            kinds[id] = Kind::Control;
        }
    }
    let all: Option<Vec<&str>> = texts.into_iter().collect();
    let all = all.ok_or_else(|| error(&path, "an id is used twice"))?;
    let vocabulary = Vocabulary::new(Spelling::ByteLevel, StringTable::try_from(all.as_slice())?, kinds)?;

    let path = directory.join("merges.txt");
    let merges = read_file(&path, MAX_FILE)?;
    let mut pairs = StringTable::with_capacity(0, merges.len());
    for (number, line) in merges.split(|&b| b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !(line.is_empty() || number == 0 && line.starts_with(b"#version")) {
            pairs.push(line)?;
        }
    }
    let merges = Merges::new(pairs).map_err(|e| error(&path, e))?;
    let mut notes = Vec::new();
    let pre = match settings.class.as_deref() {
        Some(class) if class.starts_with("Qwen2") => "qwen2",
        Some(class) if class.starts_with("GPT2") => "gpt-2",
        class => {
            let class = class.map_or("no tokenizer_class".to_owned(), |class| format!("tokenizer_class {class}"));
            notes.push(format!("vocab.json with {class} does not say how text is cut into words; took gpt-2"));
            "gpt-2"
        }
    };
    let algorithm = Algorithm::ByteBpe(ByteBpe::new(pre, Ranks::Merges(merges))?);
    let end = vocabulary.id("<|endoftext|>");
    let specials = settings.apply(Specials { bos: end, eos: end, ..Specials::default() }, &vocabulary)?;
    Tokenizer::new(vocabulary, algorithm, specials)?.with_template(settings.template, notes)
}

/// What `tokenizer_config.json` and its neighbours say.
#[derive(Debug, Default)]
pub(super) struct Settings {
    bos: Option<String>,
    eos: Option<String>,
    pub(super) add_bos: Option<bool>,
    pub(super) add_eos: Option<bool>,
    /// Ids that end an answer, of `generation_config.json`.
    stops: Vec<u32>,
    pub(super) template: Option<String>,
    /// Tokens beyond the vocabulary: id, text, special; by id.
    pub(super) added: Vec<(u32, String, bool)>,
    class: Option<String>,
}

impl Settings {
    pub(super) fn read(directory: &Path) -> Result<Self, ModelError> {
        let config = read_json(&directory.join("tokenizer_config.json"))?;
        // A token is its text or an object with the text in `content`.
        let token = |key: &str| config[key].as_str().or(config[key]["content"].as_str()).map(String::from);
        let jinja = directory.join("chat_template.jinja");
        let template = if jinja.is_file() {
            Some(String::from_utf8(read_file(&jinja, MAX_SETTINGS)?).map_err(|_| error(&jinja, "not UTF-8"))?)
        } else {
            named_template(&config["chat_template"])
        };
        let mut added = Vec::new();
        for (text, id) in read_json(&directory.join("added_tokens.json"))?.as_object().into_iter().flatten() {
            added.extend(id.as_u64().and_then(|id| u32::try_from(id).ok()).map(|id| (id, text.clone(), true)));
        }
        for (id, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
            if let (Ok(id), Some(text)) = (id.parse(), token["content"].as_str()) {
                added.retain(|(other, ..)| *other != id);
                added.push((id, text.to_owned(), token["special"].as_bool().unwrap_or(false)));
            }
        }
        added.sort();
        let generation = read_json(&directory.join("generation_config.json"))?;
        let ends = &generation["eos_token_id"];
        let ends = ends.as_array().map_or(std::slice::from_ref(ends), Vec::as_slice);
        Ok(Self {
            bos: token("bos_token"),
            eos: token("eos_token"),
            add_bos: config["add_bos_token"].as_bool(),
            add_eos: config["add_eos_token"].as_bool(),
            stops: ends.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()).collect(),
            template,
            added,
            class: config["tokenizer_class"].as_str().map(String::from),
        })
    }

    /// Overrides what the tokenizer file itself says.
    pub(super) fn apply(&self, mut specials: Specials, vocabulary: &Vocabulary) -> Result<Specials, ModelError> {
        for (text, id, name) in [(&self.bos, &mut specials.bos, "bos"), (&self.eos, &mut specials.eos, "eos")] {
            if let Some(text) = text {
                let found = vocabulary.id(text);
                *id = Some(found.ok_or_else(|| {
                    ModelError::Tokenizer(format!(
                        "{name}_token {text:?} of tokenizer_config.json is not in the vocabulary"
                    ))
                })?);
            }
        }
        specials.stops.extend(&self.stops);
        specials.add_bos = self.add_bos.unwrap_or(specials.add_bos);
        specials.add_eos = self.add_eos.unwrap_or(specials.add_eos);
        Ok(specials)
    }
}

/// `chat_template`: one text, or a list of named ones of which `default` is meant.
fn named_template(value: &Value) -> Option<String> {
    let list = value.as_array().map_or(&[][..], Vec::as_slice);
    let chosen = list.iter().find(|t| t["name"] == "default").or(list.first());
    value.as_str().or(chosen.and_then(|t| t["template"].as_str())).map(String::from)
}
