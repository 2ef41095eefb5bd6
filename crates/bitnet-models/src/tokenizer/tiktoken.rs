//! tiktoken rank files: lines of a base64 token and its rank. Which model they belong to shows in their number.

use super::byte_bpe::{ByteBpe, Ranks};
use super::byte_level;
use super::string_table::StringTable;
use super::vocabulary::{Kind, Spelling, Vocabulary};
use super::{Algorithm, Specials, Tokenizer, files::Settings};
use crate::ModelError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Ranks in the files of Llama 3 and of Qwen.
const LLAMA3: usize = 128_000;
const QWEN: usize = 151_643;

/// Whether `bytes` start like a rank file.
pub(super) fn recognise(bytes: &[u8]) -> bool {
    bytes.split(|&b| b == b'\n').next().is_some_and(|line| parse_line(line).is_some())
}

/// The bytes and the rank of one line.
fn parse_line(line: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (token, rank) = std::str::from_utf8(line).ok()?.trim_end_matches('\r').split_once(' ')?;
    Some((STANDARD.decode(token).ok().filter(|t| !t.is_empty())?, rank.parse().ok()?))
}

/// Reads a rank file; `settings` are those of the directory it lies in.
pub(super) fn read(bytes: &[u8], settings: &Settings) -> Result<Tokenizer, ModelError> {
    let mut texts = StringTable::default();
    let mut spelled = String::new();
    for (number, line) in bytes.split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let (token, rank) = parse_line(line).ok_or_else(|| {
            ModelError::Tokenizer(format!("line {} of the tiktoken file is not `base64 rank`", number + 1))
        })?;
        if rank != texts.len() {
            let expected = texts.len();
            let line = number + 1;
            return Err(ModelError::Tokenizer(format!("line {line} has rank {rank}, expected {expected}")));
        }
        spelled.clear();
        byte_level::spell(&token, &mut spelled);
        texts.push(spelled.as_bytes())?;
    }
    let ranks = texts.len();
    let (pre, special) = match ranks {
        LLAMA3 => ("llama-bpe", llama3_specials()),
        QWEN => ("qwen2", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(String::from).to_vec()),
        _ => {
            return Err(ModelError::Tokenizer(format!(
                "a tiktoken file of {ranks} ranks; known are Llama 3 with {LLAMA3} and Qwen with {QWEN}. \
                 Give the model's tokenizer.json instead"
            )));
        }
    };
    special.iter().try_for_each(|text| texts.push(text.as_bytes()))?;
    let mut kinds = vec![Kind::Normal; ranks];
    kinds.resize(texts.len(), Kind::Control);
    let vocabulary = Vocabulary::new(Spelling::ByteLevel, texts, kinds)?;
    let llama3 = ranks == LLAMA3;
    let specials = Specials {
        bos: vocabulary.id("<|begin_of_text|>"),
        eos: vocabulary.id(if llama3 { "<|end_of_text|>" } else { "<|endoftext|>" }),
        add_bos: llama3,
        ..Specials::default()
    };
    let specials = settings.apply(specials, &vocabulary)?;
    Tokenizer::new(vocabulary, Algorithm::ByteBpe(ByteBpe::new(pre, Ranks::Ids)?), specials)?
        .with_template(settings.template.clone(), Vec::new())
}

/// The 256 special tokens of Llama 3, from id 128,000 on.
fn llama3_specials() -> Vec<String> {
    let reserved = |i| format!("<|reserved_special_token_{i}|>");
    let mut names = vec!["<|begin_of_text|>".to_owned(), "<|end_of_text|>".to_owned()];
    names.extend((0..4).map(reserved));
    names.extend([
        "<|start_header_id|>".to_owned(),
        "<|end_header_id|>".to_owned(),
        reserved(4),
        "<|eot_id|>".to_owned(),
    ]);
    names.extend((5..251).map(reserved));
    names
}
