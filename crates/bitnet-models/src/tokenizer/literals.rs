//! Tokens that are written out in a text, such as `<|eot_id|>`, found in one pass over the text however many and however
//! long they are: a vocabulary comes with a model file, from whoever made it.

use crate::ModelError;
use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use std::ops::Range;

/// Bytes of all literals together. Published vocabularies have up to 60 kB; the automaton takes some 50 times as much.
const MAX_BYTES: usize = 4 << 20;

/// A set of tokens by the text they are written as. At every place the longest wins; of equal ones the first.
#[derive(Debug)]
pub(super) struct Literals {
    automaton: AhoCorasick,
    ids: Vec<u32>,
}

impl Literals {
    pub(super) fn new(literals: &[(&[u8], u32)]) -> Result<Self, ModelError> {
        let bytes: usize = literals.iter().map(|(text, _)| text.len()).sum();
        if bytes > MAX_BYTES {
            let problem =
                format!("special and user-defined tokens of {bytes} bytes together; the limit is {MAX_BYTES}");
            return Err(ModelError::Tokenizer(problem));
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(literals.iter().map(|(text, _)| text))
            .map_err(|e| ModelError::Tokenizer(format!("special tokens: {e}")))?;
        Ok(Self { automaton, ids: literals.iter().map(|&(_, id)| id).collect() })
    }

    /// Where tokens stand in `text`, from left to right without overlap.
    pub(super) fn find<'t>(&'t self, text: &'t [u8]) -> impl Iterator<Item = (Range<usize>, u32)> + 't {
        self.automaton.find_iter(text).map(|found| (found.range(), self.ids[found.pattern()]))
    }

    /// The token written as exactly `text`.
    pub(super) fn id(&self, text: &[u8]) -> Option<u32> {
        self.find(text).next().filter(|(range, _)| range.len() == text.len()).map(|(_, id)| id)
    }
}
