//! Byte-level BPE: GPT-2, Llama 3, Falcon, Qwen.

use super::byte_level;
use super::merger::Merger;
use super::pre_tokenizer::PreTokenizer;
use super::string_table::{Index, StringTable};
use super::vocabulary::Vocabulary;
use crate::ModelError;
use std::sync::OnceLock;
use tokenizers::NormalizedString;

/// What decides which pair is joined first.
#[derive(Debug)]
pub(super) enum Ranks {
    /// The id of the joined token (tiktoken).
    Ids,
    /// The place in a list of merges.
    Merges(Merges),
}

/// Byte-level BPE over a [`Vocabulary`].
#[derive(Debug)]
pub(super) struct ByteBpe {
    pub(super) words: PreTokenizer,
    pub(super) ranks: Ranks,
    /// A word that is a token is taken whole, even where merging would not arrive at it (`ignore_merges`).
    pub(super) whole_words: bool,
    /// Text is brought to Unicode NFC first.
    pub(super) nfc: bool,
}

impl ByteBpe {
    /// With the settings that go with the pre-tokenizer `name` (`tokenizer.ggml.pre`).
    pub(super) fn new(name: &str, ranks: Ranks) -> Result<Self, ModelError> {
        let words = PreTokenizer::by_name(name)?;
        // llama.cpp does not normalise; the models were trained with it, and it matters for decomposed text only.
        let (whole_words, nfc) = (words.name() == "llama-bpe", matches!(words.name(), "qwen2" | "olmo"));
        Ok(Self { words, ranks, whole_words, nfc })
    }

    pub(super) fn encode(&self, vocabulary: &Vocabulary, text: &str, ids: &mut Vec<u32>) -> Result<(), ModelError> {
        if self.nfc && !text.is_ascii() {
            let mut normal = NormalizedString::from(text);
            normal.nfc();
            return self.encode_words(vocabulary, normal.get(), ids);
        }
        self.encode_words(vocabulary, text, ids)
    }

    /// The rank of joining `both[..mid]` and `both[mid..]`, if they may be joined.
    pub(super) fn rank(&self, vocabulary: &Vocabulary, both: &[u8], mid: usize) -> Option<u32> {
        match &self.ranks {
            Ranks::Ids => vocabulary.piece(both),
            Ranks::Merges(merges) => merges.rank(both, mid),
        }
    }

    fn encode_words(&self, vocabulary: &Vocabulary, text: &str, ids: &mut Vec<u32>) -> Result<(), ModelError> {
        let (mut merger, mut spelled) = (Merger::default(), String::new());
        self.words.split(text, &mut |word| {
            spelled.clear();
            byte_level::spell(word.as_bytes(), &mut spelled);
            if self.whole_words
                && let Some(id) = vocabulary.piece(spelled.as_bytes())
            {
                ids.push(id);
                return Ok(());
            }
            let symbols = merger.merge(&spelled, |both, mid| self.rank(vocabulary, both, mid));
            for symbol in symbols {
                if let Some(id) = vocabulary.piece(symbol.as_bytes()) {
                    ids.push(id);
                    continue;
                }
                // A merge led to a text that is no token: fall back to its bytes.
                for c in symbol.chars() {
                    let id = vocabulary.piece(c.encode_utf8(&mut [0; 4]).as_bytes()).ok_or_else(|| {
                        ModelError::Tokenizer(format!("the vocabulary has no token for {c:?}, which is in {word:?}"))
                    })?;
                    ids.push(id);
                }
            }
            Ok(())
        })
    }
}

/// Pairs in the order of joining, kept as the file spells them, `left right`, and found by hash.
#[derive(Debug)]
pub(super) struct Merges {
    pairs: StringTable,
    /// Made when first needed: where whole words are looked up first, a short prompt often needs none of 280,147
    /// merges.
    index: OnceLock<Index>,
}

impl Merges {
    /// From `left right` strings.
    pub(super) fn new(pairs: StringTable) -> Result<Self, ModelError> {
        if let Some(rank) = pairs.iter().position(|pair| middle(pair).is_none()) {
            let pair = String::from_utf8_lossy(pairs.get(rank).unwrap_or_default());
            let problem = format!("merge {rank} is {pair:?}, expected two texts with a space between");
            return Err(ModelError::Tokenizer(problem));
        }
        Ok(Self { pairs, index: OnceLock::new() })
    }

    fn index(&self) -> &Index {
        self.index.get_or_init(|| {
            let mut index = Index::with_capacity(self.pairs.len());
            let mut both = Vec::new();
            for (rank, pair) in self.pairs.iter().enumerate() {
                let mid = middle(pair).unwrap_or(pair.len());
                both.clear();
                both.extend_from_slice(&pair[..mid]);
                both.extend_from_slice(pair.get(mid + 1..).unwrap_or_default());
                index.insert(&both, mid, rank as u32, |other| self.pairs.get(other as usize) == Some(pair));
            }
            index
        })
    }

    fn rank(&self, both: &[u8], mid: usize) -> Option<u32> {
        self.index().find(both, mid, |rank| {
            self.pairs.get(rank as usize).is_some_and(|pair| {
                pair.len() == both.len() + 1 && pair[..mid] == both[..mid] && pair[mid + 1..] == both[mid..]
            })
        })
    }

    pub(super) fn pairs(&self) -> &StringTable {
        &self.pairs
    }

    /// The merges that are equivalent to joining by token id: every split of a token into two others.
    pub(super) fn from_ids(vocabulary: &Vocabulary) -> Result<StringTable, ModelError> {
        let mut pairs = StringTable::default();
        let mut splits = Vec::new();
        for id in 0..vocabulary.len() as u32 {
            let Some(text) = vocabulary.text(id).filter(|t| vocabulary.piece(t.as_bytes()) == Some(id)) else {
                continue;
            };
            splits.clear();
            for (mid, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(mid);
                if let (Some(l), Some(r)) = (vocabulary.piece(left.as_bytes()), vocabulary.piece(right.as_bytes())) {
                    splits.push((l, r, mid));
                }
            }
            splits.sort_unstable();
            for &(_, _, mid) in &splits {
                pairs.push(format!("{} {}", &text[..mid], &text[mid..]).as_bytes())?;
            }
        }
        Ok(pairs)
    }
}

/// The place of the space between two texts; the left one has at least one character and may be a space itself.
fn middle(pair: &[u8]) -> Option<usize> {
    pair.iter().skip(1).position(|&b| b == b' ').map(|i| i + 1).filter(|&mid| mid + 1 < pair.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_are_found_by_both_sides() {
        let merges = Merges::new(StringTable::try_from(["a b", "ab c", "a bc", "a b"].as_slice()).unwrap()).unwrap();
        assert_eq!(merges.rank(b"ab", 1), Some(0));
        assert_eq!(merges.rank(b"abc", 2), Some(1));
        assert_eq!(merges.rank(b"abc", 1), Some(2));
        assert_eq!(merges.rank(b"ac", 1), None);
    }

    #[test]
    fn malformed_merges_are_refused() {
        for bad in ["ab", "", "a ", " a"] {
            let error = Merges::new(StringTable::try_from([bad].as_slice()).unwrap()).unwrap_err().to_string();
            assert!(error.contains("merge 0"), "{error}");
        }
    }
}
