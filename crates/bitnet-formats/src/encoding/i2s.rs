//! I2_S: 2-bit codes of the whole tensor, then 32 bytes that begin with one f32 scale (formats.md §2.1).

use super::{Encoding, I2sLayout, Scales, Ternary};
use crate::FormatError;

/// The scale and its padding.
const TAIL: usize = 32;

pub(super) fn byte_len(layout: I2sLayout, rows: usize, cols: usize) -> Result<usize, FormatError> {
    let encoding = Encoding::I2S(layout);
    let elements =
        rows.checked_mul(cols).ok_or_else(|| encoding.error(format!("a matrix of {rows} x {cols} is too large")))?;
    let advice = "choose Q2_0 (columns in multiples of 64), or F16";
    match layout {
        I2sLayout::X86 if elements % 128 != 0 => {
            Err(encoding.error(format!("{rows} x {cols} elements are not a multiple of its blocks of 128; {advice}")))
        }
        I2sLayout::Arm if elements % 64 != 0 => {
            Err(encoding.error(format!("{rows} x {cols} elements are not a multiple of its blocks of 64; {advice}")))
        }
        I2sLayout::Rows4 if !rows.is_multiple_of(4) => {
            Err(encoding.error(format!("{rows} rows are not a multiple of the 4 that are interleaved; {advice}")))
        }
        _ => Ok(elements / 4 + TAIL),
    }
}

/// `bytes` has the right length.
pub(super) fn decode(layout: I2sLayout, bytes: &[u8], rows: usize, cols: usize) -> Result<Ternary, FormatError> {
    let encoding = Encoding::I2S(layout);
    let (packed, tail) = bytes.split_at(bytes.len() - TAIL);
    let scale = encoding.check_scale(f32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]))?;
    let mut codes = vec![0i8; rows * cols];
    let run = run_of(layout, cols);
    for (from, to) in packed.chunks_exact(run).zip(codes.chunks_exact_mut(4 * run)) {
        for (lane, shift) in to.chunks_exact_mut(run).zip([6, 4, 2, 0]) {
            for (code, byte) in lane.iter_mut().zip(from) {
                *code = (byte >> shift & 3) as i8 - 1;
            }
        }
    }
    match codes.iter().position(|&code| code == 2) {
        None => Ok(Ternary { rows, cols, codes, scales: Scales::Tensor(scale) }),
        Some(at) => Err(encoding.error_at(at, cols, "code 3 is illegal: the data is damaged or has another layout")),
    }
}

/// `weights` is checked and `scale` is its scale.
pub(super) fn encode(layout: I2sLayout, weights: &Ternary, scale: f32) -> Result<Vec<u8>, FormatError> {
    let mut bytes = vec![0; byte_len(layout, weights.rows, weights.cols)?];
    let (packed, tail) = bytes.split_at_mut(weights.codes.len() / 4);
    let run = run_of(layout, weights.cols);
    for (to, from) in packed.chunks_exact_mut(run).zip(weights.codes.chunks_exact(4 * run)) {
        for (lane, shift) in from.chunks_exact(run).zip([6, 4, 2, 0]) {
            for (byte, code) in to.iter_mut().zip(lane) {
                *byte |= ((code + 1) as u8) << shift;
            }
        }
    }
    tail[..4].copy_from_slice(&scale.to_le_bytes());
    Ok(bytes)
}

/// All layouts put four runs of consecutive elements into as many bytes as one run has elements, the first run in bits
/// 7..6. In the 4-row interleave a run is a row.
fn run_of(layout: I2sLayout, cols: usize) -> usize {
    match layout {
        I2sLayout::X86 => 32,
        I2sLayout::Arm => 16,
        I2sLayout::Rows4 => cols.max(1),
    }
}
