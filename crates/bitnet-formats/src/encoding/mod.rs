//! Tensor encodings: how numbers become bytes. One file per family of layouts.

mod ternary;

pub use ternary::{Scales, Ternary};

use crate::FormatError;

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
    /// bitnet.cpp 2-bit codes with one scale per tensor.
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
        let _ = (rows, cols);
        todo!()
    }

    /// True for encodings whose values are codes −1, 0, +1 times a scale.
    pub fn is_ternary(self) -> bool {
        todo!()
    }

    /// Decodes any encoding but [`Encoding::HfPacked`] (which lacks its scale) to f32, row-major.
    ///
    /// # Errors
    /// Wrong byte length, illegal codes, non-finite scales.
    pub fn decode(self, bytes: &[u8], rows: usize, cols: usize) -> Result<Vec<f32>, FormatError> {
        let _ = (bytes, rows, cols);
        todo!()
    }

    /// Encodes f32 values. For ternary encodings the values must already be of the form {−s, 0, +s}; master weights
    /// go through [`Ternary::absmean`] first.
    ///
    /// # Errors
    /// Values that the encoding cannot hold, shapes that do not fit its blocks.
    pub fn encode(self, values: &[f32], rows: usize, cols: usize) -> Result<Vec<u8>, FormatError> {
        let _ = (values, rows, cols);
        todo!()
    }

    /// Codes and scales of a ternary encoding. [`Encoding::HfPacked`] takes its direct scale from `scale`; for the
    /// others `scale` must be `None`.
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
        let _ = (bytes, rows, cols, scale);
        todo!()
    }

    /// Encodes codes and scales exactly, or says why the encoding cannot hold them (scale precision, block length,
    /// one scale only). Nothing is rounded.
    ///
    /// # Errors
    /// As described.
    pub fn encode_ternary(self, weights: &Ternary) -> Result<Vec<u8>, FormatError> {
        let _ = weights;
        todo!()
    }
}
