//! `tokenizer.json`, run by the `tokenizers` crate exactly as Hugging Face does.

use super::byte_bpe::{ByteBpe, Merges, Ranks};
use super::merger::Merger;
use super::pre_tokenizer::PreTokenizer;
use super::sentence_piece::SentencePiece;
use super::string_table::StringTable;
use super::vocabulary::{Kind, Spelling, Vocabulary, byte_of};
use super::{Algorithm, Specials, Tokenizer, files::Settings};
use crate::ModelError;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

fn error(problem: impl Display) -> ModelError {
    ModelError::Tokenizer(format!("tokenizer.json: {problem}"))
}

/// The `tokenizers` crate trusts its file in places and panics where it is damaged: that is an error of the file.
fn contained<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, ModelError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(error),
        Err(_) => Err(error("damaged in a way that the tokenizers library cannot describe; get the file again")),
    }
}

/// A tokenizer in two readings of special tokens.
#[derive(Debug)]
pub(super) struct HuggingFace {
    /// Takes the text of special tokens as plain text.
    plain: tokenizers::Tokenizer,
    /// Recognises special tokens; made when first needed.
    special: OnceLock<tokenizers::Tokenizer>,
    space_prefix: bool,
}

/// Reads a `tokenizer.json`; `settings` are those of the directory it lies in.
pub(super) fn read(bytes: &[u8], settings: &Settings) -> Result<Tokenizer, ModelError> {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(error)?;
    let mut plain = contained(|| tokenizers::Tokenizer::from_bytes(bytes))?;
    plain.with_truncation(None).map_err(error)?;
    plain.with_padding(None);
    let decoder = serde_json::to_value(plain.get_decoder()).map_err(error)?;
    let (spelling, space_prefix) = spelling(&decoder)?;
    let vocabulary = vocabulary(&plain, spelling)?;

    // What the post-processor puts around a text shows when it is run.
    let ids = |special| contained(|| plain.encode_fast("a", special).map(|e| e.get_ids().to_vec()));
    let (bare, around) = (ids(false)?, ids(true)?);
    let at = around.windows(bare.len().max(1)).position(|window| window == bare);
    let (prefix, suffix) = match at {
        Some(at) => (around[..at].to_vec(), around[at + bare.len()..].to_vec()),
        None if around == bare => (Vec::new(), Vec::new()),
        None => return Err(error("its post_processor does not leave a text in one piece, which is not supported")),
    };
    plain.set_encode_special_tokens(true);

    let named = |text| vocabulary.id(text).filter(|_| spelling == Spelling::Metaspace);
    let specials = Specials {
        bos: prefix.first().copied().or_else(|| named("<s>")),
        eos: suffix.last().copied().or_else(|| named("</s>")),
        add_bos: !prefix.is_empty(),
        add_eos: !suffix.is_empty(),
        ..Specials::default()
    };
    let specials = settings.apply(specials, &vocabulary)?;
    let algorithm = HuggingFace { plain, special: OnceLock::new(), space_prefix };
    let mut tokenizer = Tokenizer::new(vocabulary, Algorithm::HuggingFace(Box::new(algorithm)), specials)?;
    // As transformers does: an explicit add_bos_token or add_eos_token replaces what the post-processor adds.
    if settings.add_bos.is_none() {
        tokenizer.prefix = prefix;
    }
    if settings.add_eos.is_none() {
        tokenizer.suffix = suffix;
    }
    tokenizer.with_template(settings.template.clone(), Vec::new())
}

/// How the decoder reads texts, and whether it drops a first space. Other decoders join tokens in ways that cannot be
/// told token by token.
fn spelling(decoder: &Value) -> Result<(Spelling, bool), ModelError> {
    let parts = decoder["decoders"].as_array().map_or(std::slice::from_ref(decoder), Vec::as_slice);
    let has = |kind: &str| parts.iter().find(|p| p["type"] == kind);
    if has("ByteLevel").is_some() {
        return Ok((Spelling::ByteLevel, false));
    }
    let replaces = has("Replace").is_some_and(|r| r["pattern"]["String"] == "▁" && r["content"] == " ");
    if replaces {
        return Ok((Spelling::Metaspace, has("Strip").is_some_and(|s| s["content"] == " " && s["start"] == 1)));
    }
    if let Some(metaspace) = has("Metaspace").filter(|m| m["replacement"] == "▁") {
        return Ok((Spelling::Metaspace, metaspace["prepend_scheme"] != "never"));
    }
    Err(error(format!("its decoder ({}) is not supported", decoder["type"].as_str().unwrap_or("none"))))
}

/// The tokens of the model and the added ones.
fn vocabulary(tokenizer: &tokenizers::Tokenizer, spelling: Spelling) -> Result<Vocabulary, ModelError> {
    let ids = tokenizer.get_vocab(true);
    let len = ids.values().max().map_or(0, |&max| max as usize + 1);
    if len > ids.len() + (1 << 16) {
        return Err(error(format!("the highest id is {}, but there are only {} tokens", len - 1, ids.len())));
    }
    let mut tokens: Vec<Option<(&str, Kind)>> = vec![None; len];
    for (text, &id) in &ids {
        let byte = spelling == Spelling::Metaspace && byte_of(text).is_some();
        tokens[id as usize] = Some((text, if byte { Kind::Byte } else { Kind::Normal }));
    }
    let added = tokenizer.get_added_tokens_decoder();
    for (&id, token) in &added {
        if let Some(slot) = tokens.get_mut(id as usize) {
            *slot = Some((&token.content, if token.special { Kind::Control } else { Kind::UserDefined }));
        }
    }
    let (mut texts, mut kinds) = (StringTable::default(), Vec::with_capacity(len));
    for (id, token) in tokens.into_iter().enumerate() {
        match token {
            Some((text, _)) => texts.push(text.as_bytes())?,
            None => texts.push(format!("[PAD{id}]").as_bytes())?,
        }
        kinds.push(token.map_or(Kind::Unused, |t| t.1));
    }
    Vocabulary::new(spelling, texts, kinds)
}

impl HuggingFace {
    pub(super) fn encode(&self, text: &str, special: bool, ids: &mut Vec<u32>) -> Result<(), ModelError> {
        let tokenizer = if special {
            self.special.get_or_init(|| {
                let mut tokenizer = self.plain.clone();
                tokenizer.set_encode_special_tokens(false);
                tokenizer
            })
        } else {
            &self.plain
        };
        ids.extend_from_slice(contained(|| tokenizer.encode_fast(text, false))?.get_ids());
        Ok(())
    }

    pub(super) fn space_prefix(&self) -> bool {
        self.space_prefix
    }

    /// The same tokenizer in the terms of GGUF, with proof that it is the same: what GGUF cannot say is an error.
    pub(super) fn to_native(&self, vocabulary: &Vocabulary) -> Result<Algorithm, ModelError> {
        let text = self.plain.to_string(false).map_err(error)?;
        let json: Value = serde_json::from_str(&text).map_err(error)?;
        let model = &json["model"];
        let refuse = |what: &str| Err(error(format!("GGUF cannot hold a tokenizer with {what}")));
        if model["type"] != "BPE" {
            return refuse(&format!("a {} model", model["type"].as_str().unwrap_or("nameless")));
        }
        for key in ["dropout", "continuing_subword_prefix", "end_of_word_suffix"] {
            if !matches!(&model[key], Value::Null) && model[key] != "" {
                return refuse(key);
            }
        }
        for token in json["added_tokens"].as_array().into_iter().flatten() {
            let content = &token["content"];
            if token["lstrip"] == true || token["rstrip"] == true || token["single_word"] == true {
                return refuse(&format!("the added token {content} that strips text or is a single word"));
            }
            // It is then found in text to which a space was added, with the space or not at all.
            if token["normalized"] == true
                && !json["normalizer"].is_null()
                && json["normalizer"] != json!({"type": "NFC"})
            {
                return refuse(&format!("the added token {content} that is looked for in normalised text"));
            }
        }
        match vocabulary.spelling() {
            Spelling::ByteLevel => byte_level(&json, vocabulary),
            Spelling::Metaspace => sentence_piece(&json, vocabulary, self.space_prefix),
        }
    }
}

/// The merges, as two texts each.
fn merges(model: &Value) -> Result<Vec<(&str, &str)>, ModelError> {
    fn pair(merge: &Value) -> Option<(&str, &str)> {
        match merge.as_array() {
            Some(pair) => Some((pair.first()?.as_str()?, pair.get(1)?.as_str()?)),
            None => merge.as_str()?.split_once(' '),
        }
    }
    let list = model["merges"].as_array().ok_or_else(|| error("it has no merges"))?;
    list.iter().map(|merge| pair(merge).ok_or_else(|| error("a merge is not a pair of texts"))).collect()
}

fn byte_level(json: &Value, vocabulary: &Vocabulary) -> Result<Algorithm, ModelError> {
    let refuse = |what: &str| Err(error(format!("GGUF cannot hold byte-level BPE with {what}")));
    let pre = &json["pre_tokenizer"];
    let steps = pre["pretokenizers"].as_array().map_or(std::slice::from_ref(pre), Vec::as_slice);
    let name = match steps {
        [bytes] if bytes["type"] == "ByteLevel" && bytes["use_regex"] == true => Some("gpt-2"),
        [split, bytes] if bytes["type"] == "ByteLevel" && bytes["use_regex"] == false => {
            let plain = split["type"] == "Split" && split["behavior"] == "Isolated" && split["invert"] == false;
            split["pattern"]["Regex"].as_str().filter(|_| plain).and_then(PreTokenizer::name_of_regex)
        }
        _ => None,
    };
    let nfc = match &json["normalizer"] {
        Value::Null => false,
        normalizer if *normalizer == json!({"type": "NFC"}) => true,
        _ => return refuse("this normalizer"),
    };
    let name = match name {
        Some("gpt-2") if nfc => "olmo",
        Some(name) => name,
        None => return refuse("this pre_tokenizer"),
    };
    if steps.iter().any(|s| s["add_prefix_space"] == true) {
        return refuse("add_prefix_space");
    }
    let mut pairs = StringTable::default();
    for (left, right) in merges(&json["model"])? {
        if left.contains(' ') || right.contains(' ') {
            return refuse("a merge of texts that contain spaces");
        }
        pairs.push(format!("{left} {right}").as_bytes())?;
    }
    let mut bpe = ByteBpe::new(name, Ranks::Merges(Merges::new(pairs)?))?;
    if bpe.nfc != nfc {
        return refuse(&format!("{} normalizer and the {name} pre-tokenizer", if nfc { "an NFC" } else { "no" }));
    }
    let ignore_merges = json["model"]["ignore_merges"] == true;
    if bpe.whole_words != ignore_merges {
        // The name decides in GGUF whether whole words are looked up first. That changes nothing exactly when merging
        // arrives at every token by itself.
        bpe.whole_words = false;
        let mut merger = Merger::default();
        for id in 0..vocabulary.len() as u32 {
            let Some(text) = vocabulary.text(id).filter(|t| vocabulary.piece(t.as_bytes()) == Some(id)) else {
                continue;
            };
            if merger.merge(text, |both, mid| bpe.rank(vocabulary, both, mid)).count() > 1 {
                return refuse(&format!("ignore_merges {ignore_merges} and the {name} pre-tokenizer"));
            }
        }
    }
    Ok(Algorithm::ByteBpe(bpe))
}

fn sentence_piece(json: &Value, vocabulary: &Vocabulary, space_prefix: bool) -> Result<Algorithm, ModelError> {
    let refuse = |what: &str| Err(error(format!("GGUF cannot hold SentencePiece BPE with {what}")));
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let legacy = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]});
    let on_spaces =
        json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
    let (normalizer, pre) = (&json["normalizer"], &json["pre_tokenizer"]);
    let prepends = if *normalizer == legacy && pre.is_null() {
        true
    } else if *normalizer == replace && (pre.is_null() || *pre == on_spaces) {
        false // no space is left to split at
    } else if normalizer.is_null() && pre["type"] == "Metaspace" && pre["split"] == false {
        match pre["prepend_scheme"].as_str() {
            Some("always") => true,
            Some("never") => false,
            _ => return refuse("a space put before the first word of the text but not after special tokens"),
        }
    } else {
        return refuse("this normalizer and pre_tokenizer");
    };
    if prepends != space_prefix {
        return refuse("a space before the text on one side of encoding and decoding only");
    }
    if json["model"]["ignore_merges"] == true {
        return refuse("ignore_merges");
    }
    if json["model"]["byte_fallback"] != true {
        return refuse("no byte_fallback");
    }
    // SentencePiece joins by token, tokenizer.json by pair. They agree when the pairs are all splits of the tokens
    // into tokens, and those of one token stand together.
    let id = |text: &str| vocabulary.piece(text.as_bytes());
    let mut group: HashMap<u32, usize> = HashMap::new();
    let (mut last, mut count) = (None, 0);
    for (rank, (left, right)) in merges(&json["model"])?.into_iter().enumerate() {
        let joined = format!("{left}{right}");
        let (Some(_), Some(_), Some(token)) = (id(left), id(right), id(&joined)) else {
            return refuse(&format!("the merge {left:?} {right:?}, which joins something that is no ordinary token"));
        };
        if last != Some(token) && group.insert(token, rank).is_some() {
            return refuse(&format!("merges of {joined:?} that stand apart"));
        }
        last = Some(token);
        count += 1;
    }
    let splits = Merges::from_ids(vocabulary)?.len();
    if splits != count {
        return refuse(&format!("{count} merges where its tokens allow {splits}"));
    }
    let scores = (0..vocabulary.len() as u32).map(|id| match (vocabulary.kinds()[id as usize], group.get(&id)) {
        (_, Some(&rank)) => -(rank as f32),
        (Kind::Normal | Kind::Byte, None) => 0.0,
        _ => -1000.0,
    });
    let unknown = json["model"]["unk_token"].as_str().and_then(|text| vocabulary.id(text));
    Ok(Algorithm::SentencePiece(SentencePiece::new(scores.collect(), space_prefix, unknown)?))
}
