//! What TQ1_0, TQ2_0 and the Q2_0 family share: blocks of codes with one f16 scale each.

use super::{Encoding, Scales, Ternary};
use crate::FormatError;
use half::f16;

/// The largest block, in elements.
pub(super) const MAX_LEN: usize = 256;

/// One block: where the scale stands and how the codes 0, 1, 2 (and 3, which no writer makes) are packed.
pub(super) struct Layout {
    /// Elements of a block.
    pub(super) len: usize,
    /// Bytes of a block.
    pub(super) bytes: usize,
    /// Offset of the f16 scale; the codes are the other bytes.
    pub(super) scale_at: usize,
    /// Bytes of the codes → one code per element.
    pub(super) unpack: fn(&[u8], &mut [u8]),
    /// One code (0, 1, 2) per element → bytes, which are zero before.
    pub(super) pack: fn(&[u8], &mut [u8]),
}

impl Layout {
    /// Splits a block into its scale and the bytes of its codes.
    fn split<'a>(&self, block: &'a [u8]) -> (f32, &'a [u8]) {
        let at = self.scale_at;
        let codes = if at == 0 { &block[2..] } else { &block[..at] };
        (f16::from_le_bytes([block[at], block[at + 1]]).to_f32(), codes)
    }

    pub(super) fn decode(&self, encoding: Encoding, bytes: &[u8], cols: usize) -> Result<Vec<f32>, FormatError> {
        let mut values = Vec::with_capacity(bytes.len() / self.bytes * self.len);
        let mut codes = [0u8; MAX_LEN];
        let codes = &mut codes[..self.len];
        for block in bytes.chunks_exact(self.bytes) {
            let (scale, packed) = self.split(block);
            if !scale.is_finite() {
                return Err(encoding.error_at(values.len(), cols, format!("the scale of the block is {scale}")));
            }
            (self.unpack)(packed, codes);
            values.extend(codes.iter().map(|&code| (code as f32 - 1.0) * scale));
        }
        Ok(values)
    }

    pub(super) fn decode_ternary(
        &self,
        encoding: Encoding,
        bytes: &[u8],
        rows: usize,
        cols: usize,
    ) -> Result<Ternary, FormatError> {
        let mut codes = vec![0i8; rows * cols];
        let mut scales = Vec::with_capacity(codes.len() / self.len);
        let mut unused = None; // scale of the first block that has one but no non-zero code
        let mut unpacked = [0u8; MAX_LEN];
        let unpacked = &mut unpacked[..self.len];
        for (i, (block, to)) in bytes.chunks_exact(self.bytes).zip(codes.chunks_exact_mut(self.len)).enumerate() {
            let (scale, packed) = self.split(block);
            if !scale.is_finite() || scale < 0.0 {
                let reason = format!("the scale of the block is {scale}; it must be finite and not below zero");
                return Err(encoding.error_at(i * self.len, cols, reason));
            }
            (self.unpack)(packed, unpacked);
            if let Some(at) = unpacked.iter().position(|&code| code == 3) {
                return Err(encoding.error_at(i * self.len + at, cols, "code 3 is not ternary"));
            }
            let empty = scale == 0.0 || unpacked.iter().all(|&code| code == 1);
            if !empty {
                to.iter_mut().zip(&*unpacked).for_each(|(to, &code)| *to = code as i8 - 1);
            } else if scale > 0.0 {
                unused.get_or_insert(scale);
            }
            scales.push((!empty).then_some(scale));
        }
        Ok(Ternary { rows, cols, codes, scales: Scales::settle(self.len, &scales, unused.unwrap_or(1.0)) })
    }

    /// `weights` is checked and its rows are whole blocks.
    pub(super) fn encode_ternary(&self, encoding: Encoding, weights: &Ternary) -> Result<Vec<u8>, FormatError> {
        let (rows, cols) = (weights.rows, weights.cols);
        let mut bytes = vec![0u8; rows * cols / self.len * self.bytes];
        let mut codes = [0u8; MAX_LEN];
        let codes = &mut codes[..self.len];
        for (i, (block, from)) in
            bytes.chunks_exact_mut(self.bytes).zip(weights.codes.chunks_exact(self.len)).enumerate()
        {
            let (row, col) = (i * self.len / cols, i * self.len % cols);
            let scale = weights.scale_of_columns(row, col, col + self.len).map_err(|(a, b)| {
                let len = self.len;
                let reason = format!("scales {a} and {b} in one block of {len}; choose Q2_0, whose blocks have 64");
                encoding.error_at(i * len, cols, reason)
            })?;
            let stored = f16::from_f32(scale);
            if stored.to_f32() != scale {
                let reason = format!("stores scales as f16, which cannot hold {scale} (nearest {stored}); choose I2_S");
                return Err(encoding.error(reason));
            }
            codes.iter_mut().zip(from).for_each(|(to, &code)| *to = (code + 1) as u8);
            let at = self.scale_at;
            (self.pack)(codes, if at == 0 { &mut block[2..] } else { &mut block[..at] });
            block[at..at + 2].copy_from_slice(&stored.to_le_bytes());
        }
        Ok(bytes)
    }
}
