//! Q8_0 and Q4_0: an f16 scale, then 32 integers (formats.md §2.8). Encoding follows ggml's reference quantiser.

use super::Encoding;
use crate::FormatError;
use half::f16;

pub(super) fn decode_q8_0(bytes: &[u8], cols: usize) -> Result<Vec<f32>, FormatError> {
    let mut values = Vec::with_capacity(bytes.len() / 34 * 32);
    for block in bytes.chunks_exact(34) {
        let scale = Encoding::Q8_0.block_scale(block, values.len(), cols)?;
        values.extend(block[2..].iter().map(|&q| q as i8 as f32 * scale));
    }
    Ok(values)
}

pub(super) fn encode_q8_0(values: &[f32], cols: usize) -> Result<Vec<u8>, FormatError> {
    let mut bytes = Vec::with_capacity(values.len() / 32 * 34);
    for (i, block) in values.chunks_exact(32).enumerate() {
        let largest = largest(block);
        let scale = largest.abs() / 127.0;
        bytes.extend(f16_scale(Encoding::Q8_0, scale, i * 32, cols)?);
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        bytes.extend(block.iter().map(|v| (v * inverse).round() as i8 as u8));
    }
    Ok(bytes)
}

pub(super) fn decode_q4_0(bytes: &[u8], cols: usize) -> Result<Vec<f32>, FormatError> {
    let mut values = Vec::with_capacity(bytes.len() / 18 * 32);
    for block in bytes.chunks_exact(18) {
        let scale = Encoding::Q4_0.block_scale(block, values.len(), cols)?;
        values.extend(block[2..].iter().map(|q| ((q & 15) as f32 - 8.0) * scale));
        values.extend(block[2..].iter().map(|q| ((q >> 4) as f32 - 8.0) * scale));
    }
    Ok(values)
}

pub(super) fn encode_q4_0(values: &[f32], cols: usize) -> Result<Vec<u8>, FormatError> {
    let mut bytes = Vec::with_capacity(values.len() / 32 * 18);
    for (i, block) in values.chunks_exact(32).enumerate() {
        // The value of largest magnitude becomes -8, the end of the range that is one longer.
        let scale = largest(block) / -8.0;
        bytes.extend(f16_scale(Encoding::Q4_0, scale, i * 32, cols)?);
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        // In f64, where the product is exact: in f32 the result would depend on fused multiply-add.
        let quantise = |v: f32| ((v as f64 * inverse as f64 + 8.5) as u8).min(15);
        bytes.extend((0..16).map(|j| quantise(block[j]) | quantise(block[j + 16]) << 4));
    }
    Ok(bytes)
}

fn f16_scale(encoding: Encoding, scale: f32, at: usize, cols: usize) -> Result<[u8; 2], FormatError> {
    let stored = f16::from_f32(scale);
    if stored.is_finite() {
        Ok(stored.to_le_bytes())
    } else {
        Err(encoding.error_at(at, cols, format!("a block has the scale {scale}, which f16 cannot hold; choose BF16")))
    }
}

/// The first value of largest magnitude; NaN if there is one.
fn largest(block: &[f32]) -> f32 {
    block.iter().fold(0.0, |m: f32, &v| if v.abs() > m.abs() || v.is_nan() { v } else { m })
}
