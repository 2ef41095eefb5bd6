//! One number that tells whether two machines compute the same.

use crate::evaluation::Evaluation;
use crate::{Engine, InferenceError};

/// Tokens of the fixed input.
const LENGTH: usize = 48;

impl Engine {
    /// FNV-1a, in hexadecimal, of the logit bits of a fixed id sequence (of the embedding's bits for embedding models).
    /// By contract the same on every machine, instruction-set tier and thread count, whatever the engine's options;
    /// another value for the same file means a broken kernel or damaged memory.
    ///
    /// # Errors
    /// As for [`logits`](Self::logits), or [`embed_ids`](Self::embed_ids) for embedding models.
    pub fn fingerprint(&self) -> Result<String, InferenceError> {
        let config = self.model().config();
        let ids = self.fingerprint_ids();
        let mut hash = 0xcbf2_9ce4_8422_2325;
        let mut add = |values: &[f32]| values.iter().for_each(|x| hash = fnv1a(hash, x.to_bits()));
        match config.pooling {
            Some(_) => add(&self.embed_ids(&ids)?),
            None => Evaluation::new(self, ids.len())?.run(&ids, 0, &mut |_, logits| add(logits))?,
        }
        Ok(format!("{hash:016x}"))
    }

    /// The input of the fingerprint: up to 48 tokens, spread over the vocabulary.
    pub fn fingerprint_ids(&self) -> Vec<u32> {
        let config = self.model().config();
        // multiples of the golden ratio
        let spread = |i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % config.vocab.max(1) as u64;
        (1..=LENGTH.min(config.context) as u64).map(|i| spread(i) as u32).collect()
    }
}

fn fnv1a(hash: u64, word: u32) -> u64 {
    word.to_le_bytes().iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    #[test]
    fn published_value() {
        // FNV-1a of "foob" is not published; of "foobar" it is 85944171f73967e8: two bytes by hand
        let hash = super::fnv1a(0xcbf2_9ce4_8422_2325, u32::from_le_bytes(*b"foob"));
        let hash = b"ar".iter().fold(hash, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        assert_eq!(hash, 0x8594_4171_f739_67e8);
    }
}
