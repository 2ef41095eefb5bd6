//! Where the shared data lies, what refusals say, and tensors and GGUF bytes made by hand.
#![allow(dead_code)] // every test file uses its part

use bitnet_formats::{FormatError, Scales, Ternary};
use std::path::PathBuf;

/// A file of the shared data, or `None` (with a line in the output) on a machine without it.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let full = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    if !full.exists() {
        eprintln!("SKIPPED: {} is absent", full.display());
        return None;
    }
    Some(full)
}

/// Why it was refused.
#[track_caller]
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, FormatError>) -> String {
    result.expect_err("must be refused").to_string()
}

/// A matrix in which every row and column differs from the others.
pub(crate) fn pattern(rows: usize, cols: usize) -> Ternary {
    let mut state = 7u32;
    let codes = (0..rows * cols).map(|_| {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        ((state >> 16) % 3) as i8 - 1
    });
    Ternary { rows, cols, codes: codes.collect(), scales: Scales::Tensor(0.0625) }
}

/// A GGUF file put together from raw pieces, so that each of them can lie.
#[derive(Clone)]
pub(crate) struct RawGguf {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    /// Overrides the true number of tensors.
    pub(crate) tensor_count: Option<u64>,
    /// Overrides the true number of pairs.
    pub(crate) pair_count: Option<u64>,
    pub(crate) pairs: Vec<Vec<u8>>,
    pub(crate) infos: Vec<Vec<u8>>,
    pub(crate) alignment: usize,
    /// The data section.
    pub(crate) data: Vec<u8>,
}

impl RawGguf {
    /// The 224 bytes of the worked example in formats.md §1.2.
    pub(crate) fn example() -> Self {
        let mut data = vec![0; 32];
        data[..8].copy_from_slice(&[0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]);
        Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            pair_count: None,
            pairs: vec![
                pair("general.architecture", 8, &string(b"bitnet")),
                pair("bitnet.block_count", 4, &1u32.to_le_bytes()),
                pair("a", 9, &array(5, 2, &[1, 0, 0, 0, 2, 0, 0, 0])),
            ],
            infos: vec![info("t", &[2], 0, 0)],
            alignment: 32,
            data,
        }
    }

    /// No pairs, and tensors of `(name, dimensions innermost first, type, offset)`.
    pub(crate) fn with_tensors(tensors: &[(&str, &[u64], u32, u64)], data_len: usize) -> Self {
        let infos = tensors.iter().map(|&(name, dims, kind, offset)| info(name, dims, kind, offset)).collect();
        Self { pairs: Vec::new(), infos, data: vec![0; data_len], ..Self::example() }
    }

    /// No tensors, and one pair.
    pub(crate) fn with_pair(pair: Vec<u8>) -> Self {
        Self { pairs: vec![pair], infos: Vec::new(), data: Vec::new(), ..Self::example() }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.tensor_count.unwrap_or(self.infos.len() as u64).to_le_bytes());
        out.extend_from_slice(&self.pair_count.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        out.extend(self.pairs.iter().chain(&self.infos).flatten());
        if !self.data.is_empty() {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend_from_slice(&self.data);
        }
        out
    }
}

/// A string as GGUF stores it.
pub(crate) fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

/// The value of an array: element type, claimed count, elements.
pub(crate) fn array(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

/// A key–value pair.
pub(crate) fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&string(key.as_bytes())[..], &kind.to_le_bytes(), value].concat()
}

/// A tensor entry; `dims` innermost first.
pub(crate) fn info(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut out = string(name.as_bytes());
    out.extend_from_slice(&(dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| out.extend_from_slice(&dim.to_le_bytes()));
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    out
}
