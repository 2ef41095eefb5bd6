//! Tensor encodings: how numbers become bytes. One file per family of layouts.

mod absmean;
mod blocks_of_32;
mod dense;
mod hf_packed;
mod i2s;
mod k_quants;
mod name;
mod q2;
mod ternary;
mod ternary_blocks;
mod tile;
mod tq;

pub use ternary::{Scales, Ternary};

use crate::FormatError;
use half::f16;

/// How a tensor's bytes encode its values. Matrices are `[rows, cols]`, row-major, blocks run along columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// IEEE binary32.
    F32,
    /// IEEE binary64.
    F64,
    /// IEEE binary16.
    F16,
    /// Upper half of binary32.
    BF16,
    /// Signed bytes.
    I8,
    /// Unsigned bytes (HF-packed ternary weights arrive as this: the loader, which knows the config, reads them as
    /// [`Encoding::HfPacked`]).
    U8,
    /// 16-bit integers.
    I16,
    /// 32-bit integers.
    I32,
    /// 64-bit integers.
    I64,
    /// 34 bytes per 32 values.
    Q8_0,
    /// 18 bytes per 32 values.
    Q4_0,
    /// 144 bytes per 256 values.
    Q4K,
    /// 210 bytes per 256 values.
    Q6K,
    /// bitnet.cpp 2-bit codes with one scale per tensor. The published layout cuts the flattened tensor into blocks of
    /// 128, so rows can be used in place only if `cols % 128 == 0`.
    I2S(I2sLayout),
    /// 54 bytes per 256 values, base 3.
    Tq1_0,
    /// 66 bytes per 256 values.
    Tq2_0,
    /// 18 bytes per 64 values (mainline id 42).
    Q2_0,
    /// 34 bytes per 128 values (early PrismML files, also id 42).
    Q2_0Legacy,
    /// 34 bytes per 128 values (id 142), same bytes as [`Encoding::Q2_0Legacy`].
    Pq2_0,
    /// bitnet.cpp lookup-table layout for ARM; private to the build that made it.
    Tl1(TileParams),
    /// bitnet.cpp lookup-table layout for x86; private to the build that made it.
    Tl2(TileParams),
    /// Hugging Face packed ternary: four rows per byte with stride `rows / 4`; the scale is another tensor.
    HfPacked,
}

/// Which writer made the I2_S bytes: nothing in a file says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum I2sLayout {
    /// 128-element blocks: x86 writers, all Python converters, every published file.
    #[default]
    X86,
    /// 64-element blocks: files quantised by a C build for ARM NEON.
    Arm,
    /// Four rows interleaved: weight-parallel x86 builds since November 2025.
    Rows4,
}

/// Tile parameters of TL1/TL2 (formats.md §2.2–2.4); they are not in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TileParams {
    /// Rows of a tile.
    pub bm_tile: u32,
    /// Columns of a tile.
    pub bk_tile: u32,
    /// Rows of an inner tile (32 or 64; always 32 for TL2).
    pub bm: u32,
}

impl Encoding {
    /// Bytes of a `[rows, cols]` matrix, with checked arithmetic.
    ///
    /// # Errors
    /// When the shape does not fit the encoding's blocks or the size overflows.
    pub fn byte_len(self, rows: usize, cols: usize) -> Result<usize, FormatError> {
        let too_large = || self.error(format!("a matrix of {rows} x {cols} does not fit into memory"));
        let elements = rows.checked_mul(cols).ok_or_else(too_large)?;
        let (block, block_bytes) = match self {
            Encoding::I8 | Encoding::U8 => (1, 1),
            Encoding::F16 | Encoding::BF16 | Encoding::I16 => (1, 2),
            Encoding::F32 | Encoding::I32 => (1, 4),
            Encoding::F64 | Encoding::I64 => (1, 8),
            Encoding::Q4_0 => (32, 18),
            Encoding::Q8_0 => (32, 34),
            Encoding::Q4K => (256, k_quants::Q4_K_BYTES),
            Encoding::Q6K => (256, k_quants::Q6_K_BYTES),
            Encoding::Tq1_0 | Encoding::Tq2_0 | Encoding::Q2_0 | Encoding::Q2_0Legacy | Encoding::Pq2_0 => {
                let layout = self.ternary_block().ok_or_else(too_large)?;
                (layout.len, layout.bytes)
            }
            Encoding::I2S(layout) => return i2s::byte_len(layout, rows, cols),
            Encoding::Tl1(tile) => return tile::Tl1::new(tile, rows, cols).map(|t| t.byte_len()),
            Encoding::Tl2(tile) => return tile::Tl2::new(tile, rows, cols).map(|t| t.byte_len()),
            Encoding::HfPacked => return rows.div_ceil(4).checked_mul(cols).ok_or_else(too_large),
        };
        if !cols.is_multiple_of(block) {
            let advice = if self.is_ternary() {
                "; choose I2_S (columns in multiples of 128), Q2_0 (multiples of 64) or F32"
            } else {
                ""
            };
            return Err(
                self.error(format!("rows of {cols} columns are not a multiple of its blocks of {block}{advice}"))
            );
        }
        (elements / block).checked_mul(block_bytes).ok_or_else(too_large)
    }

    /// True for encodings whose values are codes −1, 0, +1 times a scale.
    pub fn is_ternary(self) -> bool {
        self.ternary_block().is_some()
            || matches!(self, Encoding::I2S(_) | Encoding::Tl1(_) | Encoding::Tl2(_) | Encoding::HfPacked)
    }

    /// Decodes any encoding but [`Encoding::HfPacked`] (which lacks its scale) to f32, row-major. In the block formats
    /// that can express it (TQ2_0, Q2_0, PQ2_0) code 3 is read as +2, as ggml does; see
    /// [`decode_ternary`](Self::decode_ternary) for the strict reading.
    ///
    /// # Errors
    /// Wrong byte length, illegal codes, non-finite scales.
    pub fn decode(self, bytes: &[u8], rows: usize, cols: usize) -> Result<Vec<f32>, FormatError> {
        self.check_bytes(bytes, rows, cols)?;
        if let Some(layout) = self.ternary_block() {
            return layout.decode(self, bytes, cols);
        }
        match self {
            Encoding::Q8_0 => blocks_of_32::decode_q8_0(bytes, cols),
            Encoding::Q4_0 => blocks_of_32::decode_q4_0(bytes, cols),
            Encoding::Q4K => k_quants::decode_q4_k(bytes, cols),
            Encoding::Q6K => k_quants::decode_q6_k(bytes, cols),
            Encoding::I2S(_) | Encoding::Tl1(_) | Encoding::Tl2(_) => {
                Ok(self.decode_ternary(bytes, rows, cols, None)?.to_f32())
            }
            Encoding::HfPacked => {
                Err(self.error("the scale is another tensor: decode_ternary takes it as an argument"))
            }
            dense => dense::decode(dense, bytes),
        }
    }

    /// Encodes f32 values. For ternary encodings the values must already be of the form {−s, 0, +s}; master weights
    /// go through [`Ternary::absmean`] first.
    ///
    /// # Errors
    /// Values that the encoding cannot hold, shapes that do not fit its blocks.
    pub fn encode(self, values: &[f32], rows: usize, cols: usize) -> Result<Vec<u8>, FormatError> {
        self.byte_len(rows, cols)?;
        if values.len() != rows * cols {
            return Err(self.error(format!("{} values given for a matrix of {rows} x {cols}", values.len())));
        }
        match self {
            Encoding::Q8_0 => blocks_of_32::encode_q8_0(values, cols),
            Encoding::Q4_0 => blocks_of_32::encode_q4_0(values, cols),
            Encoding::Q4K => Err(self.error("can be read but not written; choose Q6_K, Q8_0 or F16")),
            Encoding::Q6K => k_quants::encode_q6_k(values, cols),
            Encoding::HfPacked => Err(self.error("holds codes only: make a Ternary and use encode_ternary")),
            ternary if ternary.is_ternary() => {
                let group = ternary.ternary_block().map_or(values.len(), |layout| layout.len);
                let weights = Ternary::from_grouped_values(values, rows, cols, group).map_err(|at| {
                    let (row, col) = (at / cols, at % cols);
                    ternary.error(format!(
                        "value {} at row {row}, column {col} does not belong to {{-s, 0, +s}} of its group of {group}; \
                         master weights must be ternarised (absmean) first",
                        values[at]
                    ))
                })?;
                ternary.encode_ternary(&weights)
            }
            dense => dense::encode(dense, values, cols),
        }
    }

    /// Codes and scales of a ternary encoding. [`Encoding::HfPacked`] takes its direct scale from `scale`; for the
    /// others `scale` must be `None`.
    ///
    /// Blocks without a non-zero code take the scale of the others, so a tensor whose scales all agree has
    /// [`Scales::Tensor`].
    ///
    /// # Errors
    /// Illegal codes (code 3), non-finite or negative scales, wrong length.
    pub fn decode_ternary(
        self,
        bytes: &[u8],
        rows: usize,
        cols: usize,
        scale: Option<f32>,
    ) -> Result<Ternary, FormatError> {
        self.check_bytes(bytes, rows, cols)?;
        if scale.is_some() && self != Encoding::HfPacked {
            return Err(self.error("has its scale in its own bytes; none may be given"));
        }
        if let Some(layout) = self.ternary_block() {
            return layout.decode_ternary(self, bytes, rows, cols);
        }
        match self {
            Encoding::I2S(layout) => i2s::decode(layout, bytes, rows, cols),
            Encoding::Tl1(params) => tile::Tl1::new(params, rows, cols)?.decode(bytes),
            Encoding::Tl2(params) => tile::Tl2::new(params, rows, cols)?.decode(bytes),
            Encoding::HfPacked => {
                let scale = scale.ok_or_else(|| self.error("the scale is another tensor and was not given"))?;
                hf_packed::decode(bytes, rows, cols, scale)
            }
            other => Err(other.error("is not a ternary encoding")),
        }
    }

    /// Encodes codes and scales exactly, or says why the encoding cannot hold them (scale precision, block length,
    /// one scale only). Nothing is rounded. [`Encoding::HfPacked`] holds the codes; the caller stores the scale.
    ///
    /// # Errors
    /// As described.
    pub fn encode_ternary(self, weights: &Ternary) -> Result<Vec<u8>, FormatError> {
        weights.check(self)?;
        self.byte_len(weights.rows, weights.cols)?;
        if let Some(layout) = self.ternary_block() {
            return layout.encode_ternary(self, weights);
        }
        let one_scale = || {
            weights.tensor_scale().ok_or_else(|| {
                self.error(
                    "holds one scale for the whole tensor, but this one has several; choose TQ2_0, Q2_0 or PQ2_0",
                )
            })
        };
        match self {
            Encoding::I2S(layout) => i2s::encode(layout, weights, one_scale()?),
            Encoding::Tl1(params) => tile::Tl1::new(params, weights.rows, weights.cols)?.encode(weights, one_scale()?),
            Encoding::Tl2(params) => tile::Tl2::new(params, weights.rows, weights.cols)?.encode(weights, one_scale()?),
            Encoding::HfPacked => one_scale().map(|_| hf_packed::encode(weights)),
            other => Err(other.error("is not a ternary encoding; choose I2_S, TQ1_0, TQ2_0, Q2_0 or PQ2_0")),
        }
    }

    /// The block layout of encodings that are ternary blocks with an f16 scale each.
    fn ternary_block(self) -> Option<&'static ternary_blocks::Layout> {
        match self {
            Encoding::Tq1_0 => Some(&tq::TQ1_0),
            Encoding::Tq2_0 => Some(&tq::TQ2_0),
            Encoding::Q2_0 => Some(&q2::GROUPS_OF_64),
            Encoding::Q2_0Legacy | Encoding::Pq2_0 => Some(&q2::GROUPS_OF_128),
            _ => None,
        }
    }

    fn check_bytes(self, bytes: &[u8], rows: usize, cols: usize) -> Result<(), FormatError> {
        let expected = self.byte_len(rows, cols)?;
        if bytes.len() != expected {
            let found = bytes.len();
            return Err(self.error(format!("a matrix of {rows} x {cols} has {expected} bytes, but {found} are given")));
        }
        Ok(())
    }

    fn error(self, reason: impl Into<String>) -> FormatError {
        FormatError::Encoding { encoding: self.to_string(), reason: reason.into() }
    }

    /// Refuses the element with flat index `at`.
    fn error_at(self, at: usize, cols: usize, reason: impl std::fmt::Display) -> FormatError {
        let cols = cols.max(1);
        self.error(format!("row {}, column {}: {reason}", at / cols, at % cols))
    }

    /// The f16 scale at the start of `bytes`, of the block that begins with element `at`.
    fn block_scale(self, bytes: &[u8], at: usize, cols: usize) -> Result<f32, FormatError> {
        let scale = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        if scale.is_finite() {
            Ok(scale)
        } else {
            Err(self.error_at(at, cols, format!("the scale of the block is {scale}")))
        }
    }

    /// A scale of a file: finite and above zero.
    fn check_scale(self, scale: f32) -> Result<f32, FormatError> {
        if scale.is_finite() && scale > 0.0 {
            Ok(scale)
        } else {
            Err(self.error(format!("the scale is {scale}; it must be finite and above zero")))
        }
    }
}
