//! SentencePiece `.model` files: the few protobuf fields that a BPE model needs.

use super::sentence_piece::SentencePiece;
use super::string_table::StringTable;
use super::vocabulary::{Kind, Spelling, Vocabulary};
use super::{Algorithm, Specials, Tokenizer, files::Settings};
use crate::ModelError;

fn error(problem: impl std::fmt::Display) -> ModelError {
    ModelError::Tokenizer(format!("SentencePiece model: {problem}"))
}

/// A field of a protobuf message.
enum Field<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
    /// A 64-bit field: none of ours.
    Other,
}

impl<'a> Field<'a> {
    fn bytes(self) -> Result<&'a [u8], ModelError> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(error("a field has the wrong wire type")) }
    }
    fn int(self) -> Result<u64, ModelError> {
        if let Self::Varint(value) = self { Ok(value) } else { Err(error("a field has the wrong wire type")) }
    }
    fn float(self) -> Result<f32, ModelError> {
        if let Self::Fixed32(bytes) = self {
            Ok(f32::from_le_bytes(bytes))
        } else {
            Err(error("a field has the wrong wire type"))
        }
    }
    fn bool(self) -> Result<bool, ModelError> {
        Ok(self.int()? != 0)
    }
}

/// Walks the fields of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, ModelError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or_else(|| error("cut off inside a number"))?;
            self.0 = rest;
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(error("a number of more than 64 bits"))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], ModelError> {
        let part = usize::try_from(len).ok().and_then(|len| self.0.split_at_checked(len));
        let (part, rest) = part.ok_or_else(|| error(format!("a length of {len} with {} bytes left", self.0.len())))?;
        self.0 = rest;
        Ok(part)
    }

    /// Number and value of the next field.
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, ModelError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => self.take(8).map(|_| Field::Other)?,
            2 => {
                let len = self.varint()?;
                Field::Bytes(self.take(len)?)
            }
            5 => Field::Fixed32(self.take(4)?.try_into().map_err(|_| error("cut off"))?),
            wire => return Err(error(format!("wire type {wire}"))),
        };
        Ok(Some((key >> 3, field)))
    }
}

/// Whether `bytes` start like a model: a first piece, not too long.
pub(super) fn recognise(bytes: &[u8]) -> bool {
    let mut fields = Fields(bytes);
    let first = fields.next();
    matches!(first, Ok(Some((1, Field::Bytes(piece)))) if matches!(Fields(piece).next(), Ok(Some((1, Field::Bytes(_))))))
}

/// Reads a `.model` file; `settings` are those of the directory it lies in.
pub(super) fn read(bytes: &[u8], settings: &Settings) -> Result<Tokenizer, ModelError> {
    let (mut texts, mut kinds, mut scores) = (StringTable::default(), Vec::new(), Vec::new());
    // Defaults of sentencepiece_model.proto.
    let (mut model_type, mut unknown, mut bos, mut eos) = (1, 0, 1, 2);
    let (mut dummy_prefix, mut escape, mut collapse) = (true, true, true);
    let (mut rules, mut rules_name) = (false, String::new());
    let mut message = Fields(bytes);
    while let Some((number, field)) = message.next()? {
        match number {
            1 => {
                let (mut piece, mut text, mut score, mut kind) = (Fields(field.bytes()?), &b""[..], 0.0, 1);
                while let Some((number, field)) = piece.next()? {
                    match number {
                        1 => text = field.bytes()?,
                        2 => score = field.float()?,
                        3 => kind = field.int()?,
                        _ => {}
                    }
                }
                kinds.push(Kind::from_number(i32::try_from(kind).unwrap_or(-1), kinds.len())?);
                texts.push(text)?;
                scores.push(score);
            }
            2 => {
                let mut trainer = Fields(field.bytes()?);
                while let Some((number, field)) = trainer.next()? {
                    match number {
                        3 => model_type = field.int()?,
                        40 => unknown = field.int()?,
                        41 => bos = field.int()?,
                        42 => eos = field.int()?,
                        _ => {}
                    }
                }
            }
            3 => {
                let mut normalizer = Fields(field.bytes()?);
                while let Some((number, field)) = normalizer.next()? {
                    match number {
                        1 => rules_name = String::from_utf8_lossy(field.bytes()?).into_owned(),
                        2 => rules = !field.bytes()?.is_empty(),
                        3 => dummy_prefix = field.bool()?,
                        4 => collapse = field.bool()?,
                        5 => escape = field.bool()?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if model_type != 2 {
        let name = ["0", "unigram", "BPE", "word", "char"].get(model_type as usize).unwrap_or(&"unknown");
        return Err(error(format!("its type is {name}; only BPE models are supported: give a tokenizer.json")));
    }
    if rules {
        return Err(error(format!(
            "it normalises text by `{rules_name}`, which is not supported: give a tokenizer.json"
        )));
    }
    if collapse || !escape {
        return Err(error("it removes or does not escape spaces, which is not supported: give a tokenizer.json"));
    }
    for (id, text, special) in &settings.added {
        match (*id as usize).cmp(&texts.len()) {
            std::cmp::Ordering::Less => continue,
            std::cmp::Ordering::Equal => texts.push(text.as_bytes())?,
            std::cmp::Ordering::Greater => {
                return Err(error(format!(
                    "added token {text:?} has id {id}, but the model has {} tokens",
                    texts.len()
                )));
            }
        }
        kinds.push(if *special { Kind::Control } else { Kind::UserDefined });
        scores.push(-1000.0);
    }
    let vocabulary = Vocabulary::new(Spelling::Metaspace, texts, kinds)?;
    // An id of -1 says "none".
    let id = |id: u64| u32::try_from(id).ok().filter(|&id| (id as usize) < vocabulary.len());
    let algorithm = SentencePiece::new(scores, dummy_prefix, id(unknown))?;
    let specials = Specials { bos: id(bos), eos: id(eos), add_bos: true, ..Specials::default() };
    let specials = settings.apply(specials, &vocabulary)?;
    Tokenizer::new(vocabulary, Algorithm::SentencePiece(algorithm), specials)?
        .with_template(settings.template.clone(), Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_lengths_are_refused() {
        for bad in [&b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"[..], b"\x0a\x05abc", b"\x0a", b"\x0f", b"\x80"] {
            assert!(read(bad, &Settings::default()).is_err(), "{bad:?}");
        }
        // A piece whose text is longer than the piece.
        let error = read(b"\x0a\x03\x0a\x7fa", &Settings::default()).unwrap_err().to_string();
        assert!(error.contains("a length of 127 with 1 bytes left"), "{error}");
    }

    #[test]
    fn unigram_models_are_refused_by_name() {
        // one piece "a", trainer_spec model_type 1
        let error = read(b"\x0a\x03\x0a\x01a\x12\x02\x18\x01", &Settings::default()).unwrap_err().to_string();
        assert!(error.contains("unigram"), "{error}");
    }
}
