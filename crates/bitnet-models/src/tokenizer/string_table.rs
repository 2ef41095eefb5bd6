//! Many short strings in one block of memory, and a hash index to find them by content.
//!
//! A vocabulary has 128,256 tokens and 280,147 merges; one allocation per string would cost more than everything else
//! a start does.

use crate::ModelError;
use std::hash::{BuildHasher, RandomState};

/// Byte strings by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StringTable {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl StringTable {
    pub(super) fn with_capacity(strings: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(strings) }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn push(&mut self, string: &[u8]) -> Result<(), ModelError> {
        self.push_with(|bytes| bytes.extend_from_slice(string))
    }

    /// Adds the string that `write` appends to the block.
    pub(super) fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), ModelError> {
        write(&mut self.bytes);
        let end = u32::try_from(self.bytes.len())
            .map_err(|_| ModelError::Tokenizer("the texts of the vocabulary exceed 4 GiB".into()))?;
        self.ends.push(end);
        Ok(())
    }

    pub(super) fn get(&self, i: usize) -> Option<&[u8]> {
        let end = *self.ends.get(i)? as usize;
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        Some(&self.bytes[start..end])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).filter_map(|i| self.get(i))
    }
}

impl<S: AsRef<[u8]>> TryFrom<&[S]> for StringTable {
    type Error = ModelError;
    fn try_from(strings: &[S]) -> Result<Self, ModelError> {
        let mut table = Self::with_capacity(strings.len(), strings.iter().map(|s| s.as_ref().len()).sum());
        strings.iter().try_for_each(|s| table.push(s.as_ref()))?;
        Ok(table)
    }
}

/// Numbers found by the hash of a key. The keys themselves stay with the caller, who says in `same` whether a candidate
/// is the one. Open addressing, fixed capacity. The hash is seeded per process so that a file cannot choose collisions.
#[derive(Debug)]
pub(super) struct Index {
    /// 0 when free, else the number plus one below as many bits of the hash as there is room for.
    slots: Vec<u32>,
    /// The bits of a slot that hold the number.
    number: u32,
    seed: u64,
}

impl Index {
    /// Room for `n` entries, numbered below `n`.
    pub(super) fn with_capacity(n: usize) -> Self {
        let slots = (n + n / 3 + 1).next_power_of_two();
        let number = u32::MAX.checked_shr((n as u32).leading_zeros()).unwrap_or(0);
        Self { slots: vec![0; slots], number, seed: RandomState::new().hash_one(n) }
    }

    /// Stores `value` unless `same` recognises an entry already stored under this key.
    pub(super) fn insert(&mut self, key: &[u8], salt: usize, value: u32, same: impl Fn(u32) -> bool) {
        let hash = self.hash(key, salt);
        if let Err(free) = self.probe(hash, same) {
            self.slots[free] = ((hash >> 32) as u32 & !self.number) | (value + 1);
        }
    }

    pub(super) fn find(&self, key: &[u8], salt: usize, same: impl Fn(u32) -> bool) -> Option<u32> {
        self.probe(self.hash(key, salt), same).ok()
    }

    /// The number stored under `hash` that is the `same`, or the free slot where the search ended.
    fn probe(&self, hash: u64, same: impl Fn(u32) -> bool) -> Result<u32, usize> {
        let tag = (hash >> 32) as u32 & !self.number;
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return Err(at);
            }
            let value = (slot & self.number).wrapping_sub(1);
            if slot & !self.number == tag && same(value) {
                return Ok(value);
            }
            at = (at + 1) & mask;
        }
    }

    /// Eight bytes at a time, each folded in by the two halves of a 128-bit product.
    fn hash(&self, key: &[u8], salt: usize) -> u64 {
        let mut hash = self.seed ^ ((key.len() as u64) << 32) ^ salt as u64;
        let (words, tail) = key.as_chunks::<8>();
        for word in words {
            hash = fold(hash ^ u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        fold(hash ^ u64::from_le_bytes(last))
    }
}

fn fold(x: u64) -> u64 {
    let product = u128::from(x) * 0x9E37_79B9_7F4A_7C15;
    (product as u64) ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_key_and_nothing_else() {
        let words: Vec<String> = (0..5000).map(|i| format!("word{}", i * i)).collect();
        let table = StringTable::try_from(words.as_slice()).unwrap();
        let mut index = Index::with_capacity(words.len());
        for (i, word) in words.iter().enumerate() {
            index.insert(word.as_bytes(), 7, i as u32, |_| false);
        }
        let find =
            |key: &str, salt| index.find(key.as_bytes(), salt, |i| table.get(i as usize) == Some(key.as_bytes()));
        for (i, word) in words.iter().enumerate() {
            assert_eq!(find(word, 7), Some(i as u32));
        }
        assert_eq!(find("word", 7), None);
        assert_eq!(find("", 7), None);
        assert_eq!(find("word1", 8), None, "the salt is part of the key");
    }

    #[test]
    fn keeps_the_first_of_equal_keys() {
        let mut index = Index::with_capacity(3);
        for value in 0..3 {
            index.insert(b"same", 0, value, |_| true);
        }
        assert_eq!(index.find(b"same", 0, |_| true), Some(0));
    }
}
