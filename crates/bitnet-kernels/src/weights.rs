//! Weights as they are handed to a backend: bytes, a layout and a shape. The bytes are shared ([`Bytes`]), so a
//! memory-mapped tensor is used in place.

use bytes::Bytes;

/// A ternary matrix `[rows, cols]` of 2-bit codes in the 128-group layout of I2_S.
///
/// Each row takes `cols.div_ceil(128) * 32` bytes. In the block of 128 columns starting at `128 b`, byte `p` (0..32)
/// holds columns `p`, `32 + p`, `64 + p`, `96 + p` in bits 7..6, 5..4, 3..2, 1..0. Codes 0, 1, 2 are −1, 0, +1; code 3
/// is illegal; padding columns hold code 1. For `cols % 128 == 0` this is byte for byte the I2_S of GGUF files.
#[derive(Clone, Debug)]
pub struct TernaryWeights {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// The codes.
    pub codes: Bytes,
    /// What the codes are multiplied with.
    pub scales: TernaryScales,
}

/// Scale of a ternary matrix: `weight = code * scale`.
#[derive(Clone, Debug, PartialEq)]
pub enum TernaryScales {
    /// One scale for the whole matrix (absmean of the master weights).
    Tensor(f32),
    /// One scale per `len` consecutive columns of a row: `values[row * cols.div_ceil(len) + col / len]`.
    /// `len == cols` is one scale per row. Otherwise `len` is a multiple of 32.
    Groups {
        /// Columns per scale.
        len: usize,
        /// The scales, row-major.
        values: Vec<f32>,
    },
}

/// How the values of a dense matrix are stored. Block formats run along columns, as in GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenseFormat {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// Upper half of binary32.
    BF16,
    /// 32 values: f16 scale, 32 × i8.
    Q8_0,
    /// 32 values: f16 scale, 32 × 4 bit.
    Q4_0,
    /// 256 values: 8 sub-blocks with 6-bit scale and minimum.
    Q4K,
    /// 256 values: 16 sub-blocks of 6-bit values.
    Q6K,
    /// Ternary codes as in [`TernaryWeights`], then one scale for the matrix as little-endian f32: the head of an I2_S
    /// tensor as it lies in the file, whose other 28 bytes may follow. Multiplied with *float* activations (models trained without activation
    /// quantisation, such as TriLM). Code 3 and a scale that is not finite and above zero are refused.
    Ternary,
}

/// A dense matrix `[rows, cols]`.
#[derive(Clone, Debug)]
pub struct DenseWeights {
    /// Output features (or vocabulary entries of an embedding table).
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Storage of the values.
    pub format: DenseFormat,
    /// The values, row-major, without padding between rows.
    pub bytes: Bytes,
}

/// Which elements of a head form a rotated pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Element `i` with `i + dim / 2` (GPT-NeoX, HF checkpoints).
    Neox,
    /// Element `2i` with `2i + 1` (llama2.c, `llama` architecture in GGUF).
    Interleaved,
}

/// Rotary position embedding: angle of pair `i` at position `p` is `p as f32 * inverse_frequencies[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// Pairing.
    pub style: RopeStyle,
    /// One per pair, in f32 (rotary dimension / 2 of them); scaling such as llama3's is already inside.
    pub inverse_frequencies: Vec<f32>,
}
