//! The tokenizer in GGUF metadata (`tokenizer.ggml.*`), read and written.

use super::byte_bpe::{ByteBpe, Merges, Ranks};
use super::sentence_piece::SentencePiece;
use super::string_table::StringTable;
use super::vocabulary::{Kind, Spelling, Vocabulary, byte_of};
use super::{Algorithm, Specials, Tokenizer};
use crate::catalogue::{BITNET_2B4T_TEMPLATE, Entry};
use crate::{ChatTemplate, ModelError};
use bitnet_formats::gguf::{Array, Metadata, StringArray, Value};

fn error(problem: impl Into<String>) -> ModelError {
    ModelError::Tokenizer(problem.into())
}

/// Reads the tokenizer of a GGUF file; `known` is the published model it was recognised as.
pub(super) fn read(metadata: &Metadata, known: Option<&Entry>) -> Result<Tokenizer, ModelError> {
    let tokens = metadata.strings("tokenizer.ggml.tokens")?.ok_or_else(|| {
        error("the file has no tokenizer.ggml.tokens; give a tokenizer with --tokenizer (tokenizer.json, .model, ...)")
    })?;
    let model = metadata
        .string("tokenizer.ggml.model")?
        .ok_or_else(|| error("the file has no tokenizer.ggml.model; give a tokenizer with --tokenizer"))?;
    let spelling = match model {
        "gpt2" => Spelling::ByteLevel,
        "llama" => Spelling::Metaspace,
        other => {
            return Err(error(format!(
                "tokenizer.ggml.model `{other}` is not supported; supported are `gpt2` (byte-level BPE) and `llama` \
                 (SentencePiece BPE). Give the model's tokenizer.json with --tokenizer"
            )));
        }
    };
    let mut notes = Vec::new();
    let id = |key: &str| -> Result<Option<u32>, ModelError> {
        match metadata.u64(&format!("tokenizer.ggml.{key}_token_id"))? {
            // How some writers say "none".
            None | Some(0xFFFF_FFFF) => Ok(None),
            Some(id) if id < tokens.len() as u64 => Ok(Some(id as u32)),
            Some(id) => {
                Err(error(format!("tokenizer.ggml.{key}_token_id is {id}, but there are {} tokens", tokens.len())))
            }
        }
    };
    let named = |name: &str| tokens.iter().position(|t| t == name).map(|id| id as u32);
    let (mut bos, mut eos, mut unknown) = (id("bos")?, id("eos")?, id("unknown")?);
    if spelling == Spelling::Metaspace {
        bos = bos.or_else(|| named("<s>"));
        eos = eos.or_else(|| named("</s>"));
        unknown = unknown.or_else(|| named("<unk>"));
    }
    let (eot, eom) = (id("eot")?, id("eom")?);

    let mut texts = StringTable::with_capacity(tokens.len(), tokens.len() * 8);
    tokens.iter().try_for_each(|t| texts.push(t.as_bytes()))?;
    let kinds = kinds(metadata, spelling, &texts, &[bos, eos, unknown, eot, eom, id("padding")?])?;
    let vocabulary = Vocabulary::new(spelling, texts, kinds)?;

    let algorithm = match spelling {
        Spelling::ByteLevel => {
            let merges = metadata.strings("tokenizer.ggml.merges")?.ok_or_else(|| {
                error("the file has no tokenizer.ggml.merges; give the model's tokenizer.json with --tokenizer")
            })?;
            let mut pairs = StringTable::with_capacity(merges.len(), merges.len() * 12);
            merges.iter().try_for_each(|m| pairs.push(m.as_bytes()))?;
            let pre = match metadata.string("tokenizer.ggml.pre")? {
                Some(pre) => pre,
                None => {
                    let pre = known.and_then(|k| k.pre_tokenizer).unwrap_or_else(|| pre_by_size(&vocabulary));
                    notes.push(format!("the file does not name its pre-tokenizer (tokenizer.ggml.pre); took {pre}"));
                    pre
                }
            };
            Algorithm::ByteBpe(ByteBpe::new(pre, Ranks::Merges(Merges::new(pairs)?))?)
        }
        Spelling::Metaspace => {
            if metadata.bool("tokenizer.ggml.remove_extra_whitespaces")? == Some(true) {
                return Err(error("tokenizer.ggml.remove_extra_whitespaces is not supported"));
            }
            let scores = metadata.f32s("tokenizer.ggml.scores")?.ok_or_else(|| {
                error("the file has no tokenizer.ggml.scores; give the model's tokenizer.json with --tokenizer")
            })?;
            if scores.len() != vocabulary.len() {
                return Err(error(format!("{} scores for {} tokens", scores.len(), vocabulary.len())));
            }
            let space = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
            Algorithm::SentencePiece(SentencePiece::new(scores.to_vec(), space, unknown)?)
        }
    };
    // What llama.cpp assumes for files that do not say.
    let add_bos = match &algorithm {
        Algorithm::ByteBpe(bpe) => bpe.words.name() == "llama-bpe",
        _ => true,
    };
    let mut stops: Vec<u32> = eot.into_iter().chain(eom).collect();
    stops.extend(known.into_iter().flat_map(|k| k.stop).filter_map(|name| vocabulary.id(name)));
    let specials = Specials {
        bos,
        eos,
        stops,
        add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos),
        add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
    };
    let mut template = metadata.string("tokenizer.chat_template")?;
    // The placeholder of a converter that serves one model only (formats.md §5.5).
    if template.is_some_and(|t| t.contains("BITNETAssistant")) {
        notes.push("the file's chat template is a placeholder; took the one of bitnet-b1.58-2B-4T".into());
        template = Some(BITNET_2B4T_TEMPLATE);
    }
    Tokenizer::new(vocabulary, algorithm, specials)?.with_template(template.map(String::from), notes)
}

/// Token types as declared; without them, what special ids and texts say.
fn kinds(
    metadata: &Metadata,
    spelling: Spelling,
    texts: &StringTable,
    special: &[Option<u32>],
) -> Result<Vec<Kind>, ModelError> {
    if let Some(types) = metadata.i32s("tokenizer.ggml.token_type")? {
        return types.iter().enumerate().map(|(id, &number)| Kind::from_number(number, id)).collect();
    }
    let kind = |(id, text): (usize, &[u8])| {
        let byte = spelling == Spelling::Metaspace && std::str::from_utf8(text).ok().and_then(byte_of).is_some();
        match byte {
            _ if special.contains(&Some(id as u32)) => Kind::Control,
            true => Kind::Byte,
            false => Kind::Normal,
        }
    };
    Ok(texts.iter().enumerate().map(kind).collect())
}

/// The pre-tokenizer of a file that names none, by its vocabulary (formats.md §10.9).
fn pre_by_size(vocabulary: &Vocabulary) -> &'static str {
    match vocabulary.len() {
        128_256 => "llama-bpe",
        131_072 => "falcon3",
        151_936 => "qwen2",
        32_768..50_000 if vocabulary.id("<|im_end|>").is_some() => "falcon_e",
        _ => "default",
    }
}

/// The metadata that stores `tokenizer`.
pub(super) fn write(tokenizer: &Tokenizer) -> Result<Vec<(String, Value)>, ModelError> {
    let native;
    let vocabulary = &tokenizer.vocabulary;
    let algorithm = match &tokenizer.algorithm {
        Algorithm::HuggingFace(json) => {
            native = json.to_native(vocabulary)?;
            &native
        }
        other => other,
    };
    let strings = |table: &StringTable| -> Result<Value, ModelError> {
        Ok(Value::Array(Array::String(StringArray::new(
            table.iter().map(|s| std::str::from_utf8(s).unwrap_or_default()),
        )?)))
    };
    let mut pairs = Vec::new();
    let mut set = |key: &str, value| pairs.push((format!("tokenizer.ggml.{key}"), value));
    match algorithm {
        Algorithm::ByteBpe(bpe) => {
            set("model", Value::String("gpt2".into()));
            set("pre", Value::String(bpe.words.name().into()));
            set("tokens", strings(vocabulary.texts())?);
            let merges = match &bpe.ranks {
                Ranks::Merges(merges) => strings(merges.pairs())?,
                Ranks::Ids => strings(&Merges::from_ids(vocabulary)?)?,
            };
            set("merges", merges);
        }
        Algorithm::SentencePiece(bpe) => {
            set("model", Value::String("llama".into()));
            set("pre", Value::String("default".into()));
            set("tokens", strings(vocabulary.texts())?);
            set("scores", Value::Array(Array::F32(bpe.scores.clone())));
            set("add_space_prefix", Value::Bool(bpe.space_prefix));
            if let Some(id) = bpe.unknown {
                set("unknown_token_id", Value::U32(id));
            }
        }
        Algorithm::HuggingFace(_) => return Err(error("a tokenizer.json was not made native")),
    }
    set("token_type", Value::Array(Array::I32(vocabulary.kinds().iter().map(|&k| k as i32).collect())));
    let affixes = [("bos", tokenizer.bos, &tokenizer.prefix), ("eos", tokenizer.eos, &tokenizer.suffix)];
    for (name, id, affix) in affixes {
        if let Some(id) = id {
            set(&format!("{name}_token_id"), Value::U32(id));
        }
        if !affix.is_empty() && *affix != Vec::from_iter(id) {
            return Err(error(format!(
                "the ids {affix:?} around every text are not the {name} token; GGUF cannot say that"
            )));
        }
        set(&format!("add_{name}_token"), Value::Bool(!affix.is_empty()));
    }
    // Stop ids that no name gives away.
    let named: Vec<u32> = vocabulary.stops_by_name().chain(tokenizer.eos).collect();
    let mut keys = ["eot_token_id", "eom_token_id"].into_iter();
    for &id in tokenizer.stops.iter().filter(|id| !named.contains(id)) {
        let key =
            keys.next().ok_or_else(|| error("more than three stop tokens without a known name; GGUF holds three"))?;
        set(key, Value::U32(id));
    }
    if let Some(template) = &tokenizer.template {
        pairs.push(("tokenizer.chat_template".into(), Value::String(template.source().into())));
    }
    Ok(pairs)
}

impl Tokenizer {
    /// Adds a chat template and notes. A template that does not compile is left out with a note: the model can still
    /// complete text.
    pub(super) fn with_template(mut self, source: Option<String>, notes: Vec<String>) -> Result<Self, ModelError> {
        self.notes.extend(notes);
        if let Some(source) = source {
            let text = |id: Option<u32>| id.and_then(|id| self.text(id)).unwrap_or_default().to_owned();
            match ChatTemplate::new(&source, &text(self.bos), &text(self.eos)) {
                Ok(template) => self.template = Some(template),
                Err(problem) => self.notes.push(format!("the chat template cannot be used: {problem}")),
            }
        }
        Ok(self)
    }
}
