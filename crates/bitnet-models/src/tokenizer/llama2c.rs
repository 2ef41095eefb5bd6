//! llama2.c `tokenizer.bin`: the longest token's length, then score, length and bytes of every token.

use super::sentence_piece::SentencePiece;
use super::string_table::StringTable;
use super::vocabulary::{Kind, Spelling, Vocabulary, byte_of};
use super::{Algorithm, Specials, Tokenizer, files};
use crate::ModelError;
use std::path::Path;

/// The tokenizer that lies beside a llama2.c model of `vocab` tokens.
pub(super) fn beside(model: &Path, vocab: usize) -> Result<Tokenizer, ModelError> {
    let directory = model.parent().unwrap_or(model);
    let names = [format!("tok{vocab}.bin"), "tokenizer.bin".to_owned(), "tokenizer.model".to_owned()];
    let Some(path) = names.iter().map(|name| directory.join(name)).find(|path| path.is_file()) else {
        return Err(ModelError::Tokenizer(format!(
            "{} has no tokenizer: put {} beside it, or give one with --tokenizer",
            model.display(),
            names.join(" or ")
        )));
    };
    let tokenizer = files::open(&path)?;
    if tokenizer.vocab_size() != vocab {
        let (path, found) = (path.display(), tokenizer.vocab_size());
        return Err(ModelError::Tokenizer(format!("{path} has {found} tokens, the model has {vocab}")));
    }
    Ok(tokenizer)
}

/// Whether `bytes` start like a tokenizer: the first token is `<unk>` and fits the stated greatest length.
pub(super) fn recognise(bytes: &[u8]) -> bool {
    bytes.get(8..17) == Some(b"\x05\0\0\0<unk>")
}

/// Reads a `tokenizer.bin`.
pub(super) fn read(bytes: &[u8]) -> Result<Tokenizer, ModelError> {
    let cut = |what: &str| ModelError::Tokenizer(format!("llama2.c tokenizer: {what}"));
    let (longest, mut rest) = bytes.split_first_chunk().ok_or_else(|| cut("shorter than its header"))?;
    let longest = u32::from_le_bytes(*longest) as usize;
    let (mut texts, mut kinds, mut scores) = (StringTable::default(), Vec::new(), Vec::new());
    while !rest.is_empty() {
        let id = texts.len();
        let (score, after) = rest.split_first_chunk().ok_or_else(|| cut(&format!("cut off in token {id}")))?;
        let (len, after) = after.split_first_chunk().ok_or_else(|| cut(&format!("cut off in token {id}")))?;
        let len = u32::from_le_bytes(*len) as usize;
        if len > longest {
            return Err(cut(&format!("token {id} has {len} bytes, the header allows {longest}")));
        }
        let (text, after) = after.split_at_checked(len).ok_or_else(|| cut(&format!("cut off in token {id}")))?;
        let text = std::str::from_utf8(text).map_err(|_| cut(&format!("token {id} is not UTF-8")))?;
        // The format stores no types. The first three are <unk>, <s>, </s>, which the converter writes with line
        // breaks around the latter two.
        kinds.push(match (id, byte_of(text)) {
            (0, _) => Kind::Unknown,
            (1 | 2, _) => Kind::Control,
            (_, Some(_)) => Kind::Byte,
            _ => Kind::Normal,
        });
        let text = if id == 1 || id == 2 { text.trim() } else { text };
        texts.push(text.replace(' ', "▁").as_bytes())?;
        scores.push(f32::from_le_bytes(*score));
        rest = after;
    }
    if texts.len() < 3 {
        return Err(cut("no tokens"));
    }
    let vocabulary = Vocabulary::new(Spelling::Metaspace, texts, kinds)?;
    let algorithm = SentencePiece::new(scores, true, Some(0))?;
    let specials = Specials { bos: Some(1), eos: Some(2), add_bos: true, ..Specials::default() };
    Tokenizer::new(vocabulary, Algorithm::SentencePiece(algorithm), specials)
}
