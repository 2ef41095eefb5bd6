//! SentencePiece BPE: characters joined by the score of the joined token, bytes for what has no token.

use super::merger::Merger;
use super::vocabulary::Vocabulary;
use crate::ModelError;

/// SentencePiece BPE over a [`Vocabulary`].
#[derive(Debug)]
pub(super) struct SentencePiece {
    pub(super) scores: Vec<f32>,
    /// `scores` as integers in the opposite order: the merger takes the lowest first.
    priorities: Vec<u32>,
    /// Text starts with a space that nobody wrote.
    pub(super) space_prefix: bool,
    pub(super) unknown: Option<u32>,
}

impl SentencePiece {
    pub(super) fn new(scores: Vec<f32>, space_prefix: bool, unknown: Option<u32>) -> Result<Self, ModelError> {
        if let Some(id) = scores.iter().position(|s| s.is_nan()) {
            return Err(ModelError::Tokenizer(format!("the score of token {id} is not a number")));
        }
        // The usual order-preserving map of floats to integers, negated; + 0.0 makes one zero of two.
        let priority = |score: &f32| {
            let bits = (score + 0.0).to_bits();
            !(if bits >> 31 == 1 { !bits } else { bits | 1 << 31 })
        };
        Ok(Self { priorities: scores.iter().map(priority).collect(), scores, space_prefix, unknown })
    }

    pub(super) fn encode(&self, vocabulary: &Vocabulary, text: &str, ids: &mut Vec<u32>) -> Result<(), ModelError> {
        let mut spelled = String::with_capacity(text.len() + text.len() / 4 + 3);
        if self.space_prefix {
            spelled.push('▁');
        }
        spelled.extend(text.chars().map(|c| if c == ' ' { '▁' } else { c }));
        let mut merger = Merger::default();
        let symbols = merger.merge(&spelled, |both, _| vocabulary.piece(both).map(|id| self.priorities[id as usize]));
        for symbol in symbols {
            if let Some(id) = vocabulary.piece(symbol.as_bytes()) {
                ids.push(id);
                continue;
            }
            // A character that is no token: its bytes, else one unknown token.
            let bytes: Option<Vec<u32>> = symbol.bytes().map(|b| vocabulary.byte(b)).collect();
            match (bytes, self.unknown) {
                (Some(bytes), _) => ids.extend(bytes),
                (None, Some(unknown)) => ids.push(unknown),
                (None, None) => {
                    return Err(ModelError::Tokenizer(format!(
                        "the vocabulary has no token for {symbol:?}, no byte tokens and no unknown token"
                    )));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_score_comes_first() {
        let scores = vec![-2.0, 0.0, -0.0, 3.5, f32::NEG_INFINITY, -1.0];
        let p = SentencePiece::new(scores, true, None).unwrap().priorities;
        assert!(p[3] < p[1] && p[1] == p[2] && p[2] < p[5] && p[5] < p[0] && p[0] < p[4], "{p:?}");
        assert!(SentencePiece::new(vec![f32::NAN], true, None).is_err());
    }
}
