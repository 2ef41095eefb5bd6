//! Tokens: their texts, kinds and bytes, and how special ones are found in text.

use super::byte_level;
use super::literals::Literals;
use super::string_table::{Index, StringTable};
use crate::ModelError;
use std::ops::Range;

/// What a token is for; the numbers are those of `tokenizer.ggml.token_type` and of SentencePiece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl Kind {
    pub(super) fn from_number(number: i32, id: usize) -> Result<Self, ModelError> {
        Ok(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return Err(ModelError::Tokenizer(format!("token {id} has type {number}; types are 1 to 6"))),
        })
    }

    /// Hidden from output, and made from text only where special tokens are recognised.
    pub(super) fn is_special(self) -> bool {
        matches!(self, Self::Control | Self::Unknown)
    }
}

/// How texts spell bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2 characters.
    ByteLevel,
    /// SentencePiece: `▁` for the space, `<0xNN>` for single bytes.
    Metaspace,
}

/// Tokens that end an answer under whatever id a model gives them; files often leave these ids out.
const STOPS: [&str; 12] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|im_end|>",
    "<|end|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<|eos|>",
    "<eos>",
    "</s>",
];

/// Bytes of one token. The longest in published vocabularies have some hundred; work on one can grow with the square.
const MAX_TOKEN: usize = 4096;

/// The tokens of a model.
#[derive(Debug)]
pub(super) struct Vocabulary {
    spelling: Spelling,
    texts: StringTable,
    kinds: Vec<Kind>,
    /// What every token decodes to; special ones to nothing.
    bytes: StringTable,
    /// Tokens that merging can reach, by text.
    pieces: Index,
    /// Special and user-defined tokens by the text they are written as.
    literals: Literals,
    /// The user-defined ones alone.
    user_defined: Literals,
    /// SentencePiece byte tokens.
    byte_ids: [Option<u32>; 256],
}

impl Vocabulary {
    pub(super) fn new(spelling: Spelling, texts: StringTable, mut kinds: Vec<Kind>) -> Result<Self, ModelError> {
        if texts.len() == 0 {
            return Err(ModelError::Tokenizer("the vocabulary is empty".into()));
        }
        if kinds.len() != texts.len() || u32::try_from(texts.len()).is_err() {
            let (kinds, tokens) = (kinds.len(), texts.len());
            return Err(ModelError::Tokenizer(format!("{kinds} token types for {tokens} tokens; the file is damaged")));
        }
        let mut bytes = StringTable::with_capacity(texts.len(), texts.len() * 6);
        let mut pieces = Index::with_capacity(texts.len());
        let mut byte_ids = [None; 256];
        for (id, text) in texts.iter().enumerate() {
            let kind = &mut kinds[id];
            let utf8 = std::str::from_utf8(text)
                .map_err(|_| ModelError::Tokenizer(format!("the text of token {id} is not UTF-8")))?;
            if text.len() > MAX_TOKEN {
                let len = text.len();
                return Err(ModelError::Tokenizer(format!("token {id} has {len} bytes; the limit is {MAX_TOKEN}")));
            }
            if text.ends_with(b">") && STOPS.contains(&utf8) {
                // Some files declare these as ordinary text; an answer would then never end.
                *kind = Kind::Control;
            }
            let same = |other: u32| texts.get(other as usize) == Some(text);
            match (*kind, spelling) {
                (Kind::Control | Kind::Unknown, _) => bytes.push(b"")?,
                (Kind::Byte, Spelling::Metaspace) => {
                    let byte = byte_of(utf8).ok_or_else(|| {
                        let problem = format!("token {id} is a byte token with the text {utf8:?}, expected <0xNN>");
                        ModelError::Tokenizer(problem)
                    })?;
                    byte_ids[byte as usize].get_or_insert(id as u32);
                    bytes.push(&[byte])?;
                    continue;
                }
                (Kind::UserDefined, Spelling::ByteLevel) => bytes.push(text)?,
                (_, Spelling::ByteLevel) => bytes.push_with(|out| byte_level::unspell(utf8, out))?,
                (_, Spelling::Metaspace) => bytes.push(utf8.replace('▁', " ").as_bytes())?,
            }
            if !kind.is_special() {
                pieces.insert(text, 0, id as u32, same);
            }
        }
        let literal = |(id, kind): (usize, &Kind)| match kind {
            Kind::Control | Kind::Unknown => Some((texts.get(id)?, id as u32)),
            Kind::UserDefined => Some((bytes.get(id)?, id as u32)),
            _ => None,
        };
        let all: Vec<_> = kinds.iter().enumerate().filter_map(literal).filter(|(text, _)| !text.is_empty()).collect();
        let user: Vec<_> = all.iter().copied().filter(|(_, id)| kinds[*id as usize] == Kind::UserDefined).collect();
        let (literals, user_defined) = (Literals::new(&all)?, Literals::new(&user)?);
        Ok(Self { spelling, texts, kinds, bytes, pieces, literals, user_defined, byte_ids })
    }

    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    pub(super) fn spelling(&self) -> Spelling {
        self.spelling
    }

    pub(super) fn texts(&self) -> &StringTable {
        &self.texts
    }

    pub(super) fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// The token as the vocabulary spells it.
    pub(super) fn text(&self, id: u32) -> Option<&str> {
        std::str::from_utf8(self.texts.get(id as usize)?).ok()
    }

    /// What the token decodes to.
    pub(super) fn bytes(&self, id: u32) -> Option<&[u8]> {
        self.bytes.get(id as usize)
    }

    /// What the token decodes to where special tokens are shown.
    pub(super) fn bytes_or_name(&self, id: u32) -> Option<&[u8]> {
        let special = self.kinds.get(id as usize)?.is_special();
        if special { self.texts.get(id as usize) } else { self.bytes(id) }
    }

    /// The token that merging may make of `text`, in the spelling of the vocabulary.
    pub(super) fn piece(&self, text: &[u8]) -> Option<u32> {
        self.pieces.find(text, 0, |id| self.texts.get(id as usize) == Some(text))
    }

    /// Where special and user-defined tokens stand in `text`.
    pub(super) fn literals<'t>(&'t self, text: &'t str) -> impl Iterator<Item = (Range<usize>, u32)> + 't {
        self.literals.find(text.as_bytes())
    }

    /// Any token by its text.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.literals
            .id(text.as_bytes())
            .or_else(|| self.piece(text.as_bytes()))
            .or_else(|| byte_of(text).and_then(|byte| self.byte_ids[byte as usize]))
    }

    /// The SentencePiece token of a single byte.
    pub(super) fn byte(&self, byte: u8) -> Option<u32> {
        self.byte_ids[byte as usize]
    }

    /// Appends the ids of user-defined tokens that stand in `text`, and of special ones if `special`; what lies
    /// between them goes through `encode`. At every place the longest token wins.
    pub(super) fn encode(
        &self,
        text: &str,
        special: bool,
        ids: &mut Vec<u32>,
        encode: impl Fn(&str, &mut Vec<u32>) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let literals = if special { &self.literals } else { &self.user_defined };
        let mut from = 0;
        for (range, id) in literals.find(text.as_bytes()) {
            if from < range.start {
                encode(&text[from..range.start], ids)?;
            }
            ids.push(id);
            from = range.end;
        }
        if from < text.len() { encode(&text[from..], ids) } else { Ok(()) }
    }

    /// Ids of the tokens that end an answer by their name.
    pub(super) fn stops_by_name(&self) -> impl Iterator<Item = u32> {
        STOPS.iter().filter_map(|name| self.literals.id(name.as_bytes()))
    }
}

/// The byte that `<0xNN>` stands for: exactly two hexadecimal digits.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let hexadecimal = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if hexadecimal { u8::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(tokens: &[(&str, Kind)]) -> Result<Vocabulary, ModelError> {
        let texts: Vec<&str> = tokens.iter().map(|t| t.0).collect();
        let kinds = tokens.iter().map(|t| t.1).collect();
        Vocabulary::new(Spelling::Metaspace, StringTable::try_from(texts.as_slice())?, kinds)
    }

    #[test]
    fn byte_tokens_have_exactly_two_digits() {
        assert_eq!(byte_of("<0x0A>"), Some(10));
        assert_eq!(byte_of("<0xff>"), Some(255));
        for bad in ["<0x-1>", "<0x+1>", "<0xA>", "<0x100>", "<0xGG>", "0x0A", "<0x0A", "<0x é>", ""] {
            assert_eq!(byte_of(bad), None, "{bad}");
            let error = vocabulary(&[(bad, Kind::Byte)]).unwrap_err().to_string();
            assert!(error.contains("expected <0xNN>"), "{error}");
        }
    }

    #[test]
    fn special_text_is_plain_text_unless_asked_for() {
        let v = vocabulary(&[("<s>", Kind::Control), ("<s>>", Kind::UserDefined), ("a", Kind::Normal)]).unwrap();
        // Text between tokens shows as 1000 + its length.
        let ids = |text: &str, special| {
            let mut ids = Vec::new();
            v.encode(text, special, &mut ids, |text, ids| {
                ids.push(1000 + text.len() as u32);
                Ok(())
            })
            .unwrap();
            ids
        };
        assert_eq!(ids("a<s>b<s>>", true), [1001, 0, 1001, 1]);
        assert_eq!(ids("a<s>b<s>>", false), [1005, 1]);
        assert_eq!(ids("é<s", true), [1004]);
        assert_eq!(v.piece(b"<s>"), None, "merging must not make a control token");
    }

    #[test]
    fn stop_tokens_are_control_tokens_whatever_the_file_says() {
        let v = vocabulary(&[("a", Kind::Normal), ("<|im_end|>", Kind::Normal), ("</s>", Kind::UserDefined)]).unwrap();
        assert_eq!(v.stops_by_name().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(v.bytes(1), Some(&b""[..]));
        assert_eq!(v.bytes_or_name(1), Some(&b"<|im_end|>"[..]));
    }

    /// A vocabulary comes from a file: neither many nor long tokens may make the work on a text more than linear.
    #[test]
    fn hostile_vocabularies_take_linear_time_or_are_refused() {
        let long = |n: usize| (1..=n).map(|len| "a".repeat(len) + "!").collect::<Vec<_>>();
        let user = |texts: &[String]| {
            let tokens: Vec<_> = texts.iter().map(|text| (text.as_str(), Kind::UserDefined)).collect();
            vocabulary(&tokens)
        };
        let v = user(&long(2800)).unwrap();
        // A search for every length at every place would read 4 TB here.
        let (text, start) = ("a".repeat(1 << 20), std::time::Instant::now());
        let mut ids = Vec::new();
        v.encode(&(text + "!"), true, &mut ids, |text, ids| {
            ids.push(text.len() as u32);
            Ok(())
        })
        .unwrap();
        assert_eq!(ids, [(1 << 20) - 2800, 2799], "the longest token, and what stands before it");
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
        let error = user(&long(3000)).unwrap_err().to_string();
        assert!(error.contains("4504500 bytes") && error.contains("limit"), "{error}");
        let error = user(&["a".repeat(5000)]).unwrap_err().to_string();
        assert!(error.contains("token 0 has 5000 bytes"), "{error}");
    }
}
