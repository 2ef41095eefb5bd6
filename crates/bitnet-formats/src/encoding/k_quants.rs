//! Q4_K (read only) and Q6_K: blocks of 256 with scales for sub-blocks (formats.md §2.8).

use super::Encoding;
use crate::FormatError;
use half::f16;

/// `d dmin scales[12] qs[128]`.
pub(super) const Q4_K_BYTES: usize = 144;
/// `ql[128] qh[64] scales[16] d`.
pub(super) const Q6_K_BYTES: usize = 210;

pub(super) fn decode_q4_k(bytes: &[u8], cols: usize) -> Result<Vec<f32>, FormatError> {
    let mut values = Vec::with_capacity(bytes.len() / Q4_K_BYTES * 256);
    for block in bytes.chunks_exact(Q4_K_BYTES) {
        let d = Encoding::Q4K.block_scale(&block[..2], values.len(), cols)?;
        let d_min = Encoding::Q4K.block_scale(&block[2..4], values.len(), cols)?;
        let (s, qs) = block[4..].split_at(12);
        for j in 0..8 {
            let (sc, m) = if j < 4 {
                (s[j] & 63, s[j + 4] & 63)
            } else {
                (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
            };
            let (factor, offset) = (d * sc as f32, d_min * m as f32);
            let shift = j % 2 * 4;
            values.extend(qs[j / 2 * 32..][..32].iter().map(|q| factor * (q >> shift & 15) as f32 - offset));
        }
    }
    Ok(values)
}

pub(super) fn decode_q6_k(bytes: &[u8], cols: usize) -> Result<Vec<f32>, FormatError> {
    let mut values = Vec::with_capacity(bytes.len() / Q6_K_BYTES * 256);
    for block in bytes.chunks_exact(Q6_K_BYTES) {
        let d = Encoding::Q6K.block_scale(&block[208..], values.len(), cols)?;
        for e in 0..256 {
            let (low, high, sub_block) = q6_k_position(e);
            let q = block[low.0] >> low.1 & 15 | (block[high.0] >> high.1 & 3) << 4;
            values.push(d * (block[192 + sub_block] as i8 as f32) * (q as f32 - 32.0));
        }
    }
    Ok(values)
}

/// Where element `e` of a block lies: (byte, shift) of its lower four and of its upper two bits, and its sub-block.
fn q6_k_position(e: usize) -> ((usize, usize), (usize, usize), usize) {
    let (half, quarter, l) = (e / 128, e % 128 / 32, e % 32);
    ((64 * half + 32 * (quarter % 2) + l, quarter / 2 * 4), (128 + 32 * half + l, quarter * 2), e / 16)
}

/// Least-squares scales per sub-block of 16, these again in 8 bits, then the values to nearest: ggml's method.
pub(super) fn encode_q6_k(values: &[f32], cols: usize) -> Result<Vec<u8>, FormatError> {
    let mut bytes = vec![0u8; values.len() / 256 * Q6_K_BYTES];
    for (i, (block, to)) in values.chunks_exact(256).zip(bytes.chunks_exact_mut(Q6_K_BYTES)).enumerate() {
        if let Some(at) = block.iter().position(|v| !v.is_finite()) {
            return Err(Encoding::Q6K.error_at(i * 256 + at, cols, format!("it cannot hold {}", block[at])));
        }
        let mut scales = [0f32; 16];
        for (scale, sub_block) in scales.iter_mut().zip(block.chunks_exact(16)) {
            *scale = least_squares_scale(sub_block);
        }
        let largest = scales.iter().fold(0f32, |m, &s| if s.abs() > m.abs() { s } else { m });
        let d = f16::from_f32(largest / -128.0);
        if !d.is_finite() {
            let reason = format!("a block has the scale {largest}, which is too large; choose BF16");
            return Err(Encoding::Q6K.error_at(i * 256, cols, reason));
        }
        to[208..].copy_from_slice(&d.to_le_bytes());
        for (j, sub_block) in block.chunks_exact(16).enumerate() {
            let scale = if d.to_f32() == 0.0 { 0.0 } else { (scales[j] / d.to_f32()).round_ties_even() };
            let scale = scale.clamp(-128.0, 127.0) as i8;
            to[192 + j] = scale as u8;
            let step = d.to_f32() * scale as f32;
            for (l, v) in sub_block.iter().enumerate() {
                let q = if step == 0.0 { 0.0 } else { (v / step).round_ties_even().clamp(-32.0, 31.0) };
                let q = (q + 32.0) as u8;
                let (low, high, _) = q6_k_position(16 * j + l);
                to[low.0] |= (q & 15) << low.1;
                to[high.0] |= (q >> 4) << high.1;
            }
        }
    }
    Ok(bytes)
}

/// The scale `s` for integers `q` in −32..=31 with the least error `Σ v² (v − s q)²`, over candidate steps around
/// "largest value = −32".
fn least_squares_scale(values: &[f32]) -> f32 {
    let largest = values.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    if largest.abs() < 1e-15 {
        return 0.0;
    }
    let (mut best, mut best_gain) = (0.0, 0.0);
    for candidate in -9..=9 {
        let inverse = -(32.0 + 0.1 * candidate as f64) / largest as f64;
        let (mut vq, mut qq) = (0f64, 0f64);
        for &v in values {
            let v = v as f64;
            let q = (v * inverse).round_ties_even().clamp(-32.0, 31.0);
            vq += v * v * v * q;
            qq += v * v * q * q;
        }
        // With the best s = vq / qq the error falls by vq² / qq.
        if qq > 0.0 && vq * vq / qq > best_gain {
            (best, best_gain) = ((vq / qq) as f32, vq * vq / qq);
        }
    }
    best
}
