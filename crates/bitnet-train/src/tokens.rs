//! Text as tokens, and the order in which they are learned.

use crate::corpus::{self, Document};
use crate::random::Random;
use crate::shard::{self, Shard, ShardWriter};
use crate::tokenizer::Vocabulary;
use crate::{Source, TrainError};
use std::path::Path;

/// Marks a token that is read, but not learned: what a person says in a conversation.
pub(crate) const GIVEN: u32 = 1 << 31;

/// Tokens that are learned among some.
pub(crate) fn learned(ids: &[u32]) -> usize {
    ids.iter().filter(|id| *id & GIVEN == 0).count()
}

/// All tokens of some sources, document after document, each begun by the end-of-text token.
pub(crate) struct Tokens {
    ids: Ids,
    /// Bytes of the learned text, each repetition counted.
    pub(crate) bytes: usize,
}

/// Where tokens lie.
enum Ids {
    Memory(Vec<u32>),
    /// A file of tokens.
    Shard(Shard),
}

impl Tokens {
    /// Into memory.
    pub(crate) fn read(sources: &[Source], vocabulary: &Vocabulary) -> Result<Tokens, TrainError> {
        let mut all = Vec::new();
        let bytes = tokenize(sources, vocabulary, &mut |ids, repeat| {
            (0..repeat).for_each(|_| all.extend_from_slice(ids));
            Ok(())
        })?;
        Ok(Tokens { ids: Ids::Memory(all), bytes })
    }

    /// From the shard `path`, which is written first unless it holds the tokens of these very texts and this vocabulary already. It is mapped,
    /// not read: texts may be larger than memory.
    pub(crate) fn mapped(path: &Path, sources: &[Source], vocabulary: &Vocabulary) -> Result<Tokens, TrainError> {
        let key = shard::key(sources, vocabulary)?;
        let shard = match Shard::open(path, &key, vocabulary.len()) {
            Some(shard) => shard,
            None => {
                let mut writer = ShardWriter::create(path, key)?;
                writer.text_bytes = tokenize(sources, vocabulary, &mut |ids, repeat| writer.write(ids, repeat))?;
                writer.finish()?;
                Shard::open(path, &key, vocabulary.len()).ok_or_else(|| TrainError::Data {
                    path: path.to_owned(),
                    reason: "was written and cannot be read back".into(),
                })?
            }
        };
        Ok(Tokens { bytes: shard.text_bytes, ids: Ids::Shard(shard) })
    }

    fn ids(&self) -> &[u32] {
        match &self.ids {
            Ids::Memory(ids) => ids,
            Ids::Shard(shard) => shard.ids(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ids().len()
    }

    /// Tokens that [`windows`](Self::windows) predict and that are learned.
    pub(crate) fn predicted(&self) -> usize {
        learned(&self.ids()[1..])
    }

    /// Consecutive windows of `len` tokens and the one after each, which cover the whole text once; the last is shorter.
    pub(crate) fn windows(&self, len: usize) -> impl Iterator<Item = &[u32]> {
        let ids = self.ids();
        (0..ids.len() - 1).step_by(len).map(move |at| &ids[at..(at + len + 1).min(ids.len())])
    }
}

/// Takes ids, and how often they come.
type Each<'a> = &'a mut dyn FnMut(&[u32], usize) -> Result<(), TrainError>;

/// Calls `each(ids, how often)` for parts of the sources' tokens in order, and gives the bytes of learned text. A source that is read several
/// times comes in one part, others by documents.
fn tokenize(sources: &[Source], vocabulary: &Vocabulary, each: Each<'_>) -> Result<usize, TrainError> {
    let mut bytes = 0usize;
    for source in sources {
        let mut ids = Vec::new();
        let mut once = 0usize;
        corpus::documents(source, |document| {
            match document {
                Document::Text(text) => {
                    once += text.len();
                    vocabulary.encode(text, &mut ids)?;
                }
                Document::Chat(messages) => {
                    let answers = messages.iter().filter(|message| message.role == "assistant");
                    once += answers.map(|message| message.content.len()).sum::<usize>();
                    vocabulary.encode_chat(&messages, &mut ids)?;
                }
            }
            if source.repeat == 1 {
                each(&ids, 1)?;
                ids.clear();
            }
            Ok(())
        })?;
        each(&ids, source.repeat)?;
        bytes = bytes.saturating_add(once.saturating_mul(source.repeat));
    }
    each(&[vocabulary.end()], 1)?;
    Ok(bytes)
}

/// Draws training windows: every epoch cuts the tokens at another place and shuffles the windows.
pub(crate) struct Windows<'a> {
    tokens: &'a Tokens,
    len: usize,
    seed: u64,
    epoch: Option<u64>,
    starts: Vec<usize>,
}

impl<'a> Windows<'a> {
    pub(crate) fn new(tokens: &'a Tokens, len: usize, seed: u64) -> Result<Windows<'a>, TrainError> {
        if tokens.len() < 2 * len + 1 {
            return Err(TrainError::Recipe(format!(
                "data.train has {} tokens; a context of {len} needs at least {}",
                tokens.len(),
                2 * len + 1
            )));
        }
        Ok(Windows { tokens, len, seed, epoch: None, starts: Vec::new() })
    }

    /// Windows per epoch, whatever its offset.
    pub(crate) fn per_epoch(&self) -> usize {
        (self.tokens.len() - self.len) / self.len
    }

    /// Window `index` of the whole run: `len + 1` tokens. A function of the seed and the index alone.
    pub(crate) fn get(&mut self, index: u64) -> &'a [u32] {
        let per_epoch = self.per_epoch() as u64;
        let epoch = index / per_epoch;
        if self.epoch != Some(epoch) {
            let mut random = Random::new(self.seed, epoch + 1);
            let offset = random.below(self.len);
            self.starts = (0..per_epoch as usize).map(|window| offset + window * self.len).collect();
            random.shuffle(&mut self.starts);
            self.epoch = Some(epoch);
        }
        let start = self.starts[(index % per_epoch) as usize];
        &self.tokens.ids()[start..start + self.len + 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(len: usize) -> Tokens {
        Tokens { ids: Ids::Memory((0..len as u32).collect()), bytes: len }
    }

    #[test]
    fn an_epoch_has_every_window_once() {
        let tokens = count(1003);
        let mut windows = Windows::new(&tokens, 10, 5).unwrap();
        let per_epoch = windows.per_epoch() as u64;
        let mut starts: Vec<u32> = (0..per_epoch).map(|index| windows.get(index)[0]).collect();
        assert_ne!(starts[0] + 10, starts[1], "shuffled");
        starts.sort_unstable();
        assert!(starts.windows(2).all(|pair| pair[1] == pair[0] + 10));
        let second: Vec<u32> = (per_epoch..2 * per_epoch).map(|index| windows.get(index)[0]).collect();
        assert_ne!(second[0] % 10, starts[0] % 10, "cut at another place");
        assert!((0..3 * per_epoch).all(|index| windows.get(index).len() == 11));
    }

    #[test]
    fn a_window_depends_on_seed_and_index_alone() {
        let tokens = count(1003);
        let mut all = Windows::new(&tokens, 10, 5).unwrap();
        let sequence: Vec<u32> = (0..300).map(|index| all.get(index)[0]).collect();
        for index in [250, 3, 299, 101] {
            assert_eq!(Windows::new(&tokens, 10, 5).unwrap().get(index)[0], sequence[index as usize]);
        }
        let other: Vec<u32> = (0..300).map(|index| Windows::new(&tokens, 10, 6).unwrap().get(index)[0]).collect();
        assert_ne!(sequence, other);
    }

    #[test]
    fn validation_covers_everything_once() {
        let tokens = count(25);
        let windows: Vec<&[u32]> = tokens.windows(10).collect();
        assert_eq!(windows.iter().map(|w| w.len()).collect::<Vec<_>>(), [11, 11, 5]);
        let targets: Vec<u32> = windows.iter().flat_map(|w| w[1..].to_vec()).collect();
        assert_eq!(targets, (1..25).collect::<Vec<_>>());
    }

    #[test]
    fn too_little_text() {
        assert!(Windows::new(&count(20), 10, 0).is_err());
    }
}
