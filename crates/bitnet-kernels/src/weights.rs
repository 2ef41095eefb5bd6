//! Weights as they are handed to a backend: bytes, a layout and a shape. The bytes are shared ([`Bytes`]), so a
//! memory-mapped tensor is used in place.

use bytes::Bytes;

use crate::KernelError;

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

impl TernaryWeights {
    /// Bytes of one row of codes.
    pub fn row_bytes(&self) -> usize {
        self.cols.div_ceil(128) * 32
    }

    /// Packs weights −1, 0, +1 (`[rows, cols]`, row-major) into this layout.
    pub fn pack(weights: &[i8], rows: usize, cols: usize, scales: TernaryScales) -> Result<Self, KernelError> {
        if rows.checked_mul(cols) != Some(weights.len()) || cols == 0 {
            return Err(KernelError::Shape {
                what: "ternary weights to pack",
                found: weights.len().to_string(),
                expected: format!("{rows} × {cols}"),
            });
        }
        let mut codes = Vec::with_capacity(rows * cols.div_ceil(128) * 32);
        let mut illegal = 0;
        for row in weights.chunks_exact(cols) {
            for block in row.chunks(128) {
                let mut padded = [0; 128]; // code 1
                padded[..block.len()].copy_from_slice(block);
                let mut bytes = [0; 32];
                for p in 0..32 {
                    let code = |chunk: usize| padded[32 * chunk + p].wrapping_add(1) as u8;
                    illegal |= (code(0) > 2) as u8 | (code(1) > 2) as u8 | (code(2) > 2) as u8 | (code(3) > 2) as u8;
                    bytes[p] = code(0) << 6 | code(1) << 4 | code(2) << 2 | code(3);
                }
                codes.extend_from_slice(&bytes);
            }
        }
        if illegal != 0
            && let Some(at) = weights.iter().position(|weight| !(-1..=1).contains(weight))
        {
            return Err(KernelError::Shape {
                what: "ternary weight",
                found: format!("{} at index {at}", weights[at]),
                expected: "-1, 0 or 1".to_owned(),
            });
        }
        Ok(TernaryWeights { rows, cols, codes: codes.into(), scales })
    }
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
