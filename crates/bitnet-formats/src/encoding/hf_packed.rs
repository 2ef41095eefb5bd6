//! Hugging Face packed ternary weights: four rows per byte, `rows / 4` apart (formats.md §3.1).

use super::{Encoding, Scales, Ternary};
use crate::FormatError;

/// `bytes` has the right length. Bits of rows beyond `rows` (where `rows % 4 != 0`) are not looked at.
pub(super) fn decode(bytes: &[u8], rows: usize, cols: usize, scale: f32) -> Result<Ternary, FormatError> {
    let encoding = Encoding::HfPacked;
    encoding.check_scale(scale)?;
    let mut codes = vec![0i8; rows * cols];
    if !bytes.is_empty() {
        for (quarter, shift) in codes.chunks_mut(bytes.len()).zip([0, 2, 4, 6]) {
            for (code, byte) in quarter.iter_mut().zip(bytes) {
                *code = (byte >> shift & 3) as i8 - 1;
            }
        }
    }
    match codes.iter().position(|&code| code == 2) {
        None => Ok(Ternary { rows, cols, codes, scales: Scales::Tensor(scale) }),
        Some(at) => Err(encoding.error_at(at, cols, "code 3 is illegal")),
    }
}

/// `weights` is checked. Bits of missing rows stay 0, as `pack_weights` of transformers leaves them.
pub(super) fn encode(weights: &Ternary) -> Vec<u8> {
    let mut bytes = vec![0u8; weights.rows.div_ceil(4) * weights.cols];
    for (quarter, shift) in weights.codes.chunks(bytes.len().max(1)).zip([0, 2, 4, 6]) {
        for (byte, code) in bytes.iter_mut().zip(quarter) {
            *byte |= ((code + 1) as u8) << shift;
        }
    }
    bytes
}
