//! Tokens in a file: written once, mapped by every run that learns the same texts with the same vocabulary.
//!
//! 64 bytes of header (magic, number of tokens, bytes of text, key), then 32-bit ids in the order of this machine's bytes, which the
//! key says too.

use crate::tokenizer::Vocabulary;
use crate::tokens::GIVEN;
use crate::whole_file::beside;
use crate::{Source, TrainError};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"bitntok1";
const HEADER: usize = 64;

/// SHA-256 of texts and vocabulary.
pub(crate) type Key = [u8; 32];

/// The key of some texts' tokens: file contents, how often each is read, and how the vocabulary writes texts and conversations.
pub(crate) fn key(sources: &[Source], vocabulary: &Vocabulary) -> Result<Key, TrainError> {
    let mut hash = Sha256::new();
    for Source { path, repeat } in sources {
        let mut text = Sha256::new();
        let mut file = File::open(path).map_err(TrainError::file(path))?;
        std::io::copy(&mut file, &mut text).map_err(TrainError::file(path))?;
        hash.update(text.finalize());
        hash.update((*repeat as u64).to_le_bytes());
        // what kind of text it is goes by the name
        hash.update([u8::from(path.to_string_lossy().trim_end_matches(".gz").ends_with(".jsonl"))]);
    }
    hash.update(Sha256::digest(vocabulary.to_json()?.as_bytes()));
    hash.update(Sha256::digest(vocabulary.config(0).to_string().as_bytes()));
    hash.update(vocabulary.end().to_ne_bytes());
    Ok(hash.finalize().into())
}

/// A mapped file of tokens.
pub(crate) struct Shard {
    bytes: Bytes,
    pub(crate) text_bytes: usize,
}

impl Shard {
    /// The shard in `path`, if there is a whole one with this key and ids below `vocab`.
    pub(crate) fn open(path: &Path, key: &Key, vocab: usize) -> Option<Shard> {
        let bytes = bitnet_formats::map(path).ok()?;
        let header = bytes.get(..HEADER)?;
        let number = |at: usize| header[at..at + 8].try_into().ok().map(u64::from_le_bytes);
        let (count, text_bytes) = (usize::try_from(number(8)?).ok()?, usize::try_from(number(16)?).ok()?);
        let whole = count.checked_mul(4)?.checked_add(HEADER)? == bytes.len();
        if &header[..8] != MAGIC || &header[24..56] != key || !whole || count == 0 {
            return None;
        }
        let shard = Shard { bytes, text_bytes };
        let ids = bytemuck::try_cast_slice::<u8, u32>(&shard.bytes[HEADER..]).ok()?;
        ids.iter().all(|id| ((id & !GIVEN) as usize) < vocab).then_some(shard)
    }

    pub(crate) fn ids(&self) -> &[u32] {
        // aligned, or it would not have been opened
        bytemuck::try_cast_slice(&self.bytes[HEADER..]).unwrap_or_default()
    }
}

/// A shard that is being written, beside its place.
pub(crate) struct ShardWriter {
    path: PathBuf,
    key: Key,
    out: BufWriter<tempfile::NamedTempFile>,
    count: u64,
    pub(crate) text_bytes: usize,
}

impl ShardWriter {
    pub(crate) fn create(path: &Path, key: Key) -> Result<ShardWriter, TrainError> {
        let mut out = BufWriter::with_capacity(1 << 20, beside(path)?);
        out.write_all(&[0; HEADER]).map_err(TrainError::file(path))?;
        Ok(ShardWriter { path: path.to_owned(), key, out, count: 0, text_bytes: 0 })
    }

    /// Appends ids `repeat` times.
    pub(crate) fn write(&mut self, ids: &[u32], repeat: usize) -> Result<(), TrainError> {
        for _ in 0..repeat {
            self.out.write_all(bytemuck::cast_slice(ids)).map_err(TrainError::file(&self.path))?;
            self.count += ids.len() as u64;
        }
        Ok(())
    }

    /// Writes the header, and gives the file its name.
    pub(crate) fn finish(mut self) -> Result<(), TrainError> {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8..16].copy_from_slice(&self.count.to_le_bytes());
        header[16..24].copy_from_slice(&(self.text_bytes as u64).to_le_bytes());
        header[24..56].copy_from_slice(&self.key);
        let written = self.out.seek(SeekFrom::Start(0)).and_then(|_| self.out.write_all(&header));
        written.and_then(|()| self.out.flush()).map_err(TrainError::file(&self.path))?;
        let file =
            self.out.into_inner().map_err(|e| TrainError::File { path: self.path.clone(), source: e.into_error() })?;
        file.persist(&self.path).map_err(|e| TrainError::File { path: self.path, source: e.error })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train.tokens");
        let key = [7; 32];
        let mut writer = ShardWriter::create(&path, key).unwrap();
        writer.write(&[1, 2 | GIVEN], 1).unwrap();
        writer.write(&[3], 3).unwrap();
        writer.text_bytes = 11;
        writer.finish().unwrap();
        let shard = Shard::open(&path, &key, 4).unwrap();
        assert_eq!((shard.ids(), shard.text_bytes), (&[1, 2 | GIVEN, 3, 3, 3][..], 11));
        drop(shard);
        // of other texts, of a smaller vocabulary, cut off, damaged
        assert!(Shard::open(&path, &[8; 32], 4).is_none() && Shard::open(&path, &key, 3).is_none());
        let bytes = std::fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            let other = dir.path().join("other");
            std::fs::write(&other, bytes).unwrap();
            Shard::open(&other, &key, 4).is_none()
        };
        assert!(!refused(&bytes) && refused(&bytes[..bytes.len() - 4]) && refused(&bytes[..10]) && refused(&[]));
        let mut lying = bytes.clone();
        lying[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(refused(&lying));
        lying[8..16].copy_from_slice(&(u64::MAX / 4).to_le_bytes());
        assert!(refused(&lying));
    }
}
