//! How the stored values of a dense matrix become f32: exactly ggml's values, product by product.

use crate::lanes::{LANES, Lanes};
use half::f16;

/// Columns that are decoded at a time; a multiple of every block length.
pub(crate) const PANEL: usize = 256;

/// Up to [`PANEL`] decoded columns of one row, in lanes.
pub(crate) type Panel = [[f32; LANES]; PANEL / LANES];

/// One storage format.
pub(crate) trait Format: Copy {
    /// Columns that share a block.
    const BLOCK: usize;
    /// Bytes of a block.
    const BYTES: usize;

    /// Decodes whole blocks, at most a panel of them. Lanes after the last column, up to a multiple of sixteen, become
    /// zero; later ones stay.
    fn decode<L: Lanes>(self, l: L, bytes: &[u8], out: &mut Panel);
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32_const()
}

#[derive(Clone, Copy)]
pub(crate) struct F32;

impl Format for F32 {
    const BLOCK: usize = 1;
    const BYTES: usize = 4;

    #[inline(always)]
    fn decode<L: Lanes>(self, _: L, bytes: &[u8], out: &mut Panel) {
        for (bytes, out) in bytes.chunks(4 * LANES).zip(out) {
            if bytes.len() < 4 * LANES {
                *out = [0.0; LANES];
            }
            for (b, out) in bytes.chunks_exact(4).zip(out) {
                *out = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct BF16;

impl Format for BF16 {
    const BLOCK: usize = 1;
    const BYTES: usize = 2;

    #[inline(always)]
    fn decode<L: Lanes>(self, _: L, bytes: &[u8], out: &mut Panel) {
        for (bytes, out) in bytes.chunks(2 * LANES).zip(out) {
            if bytes.len() < 2 * LANES {
                *out = [0.0; LANES];
            }
            for (b, out) in bytes.chunks_exact(2).zip(out) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct F16;

impl Format for F16 {
    const BLOCK: usize = 1;
    const BYTES: usize = 2;

    #[inline(always)]
    fn decode<L: Lanes>(self, l: L, bytes: &[u8], out: &mut Panel) {
        for (bytes, out) in bytes.chunks(2 * LANES).zip(out) {
            match bytes.first_chunk() {
                Some(full) => l.store(l.load_f16(full), out),
                None => {
                    let mut padded = [0; 2 * LANES];
                    padded[..bytes.len()].copy_from_slice(bytes);
                    l.store(l.load_f16(&padded), out);
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Q8_0;

impl Format for Q8_0 {
    const BLOCK: usize = 32;
    const BYTES: usize = 34;

    /// f16 `d`, i8 `q[32]`: `q d`.
    #[inline(always)]
    fn decode<L: Lanes>(self, _: L, bytes: &[u8], out: &mut Panel) {
        for (block, out) in bytes.chunks_exact(Self::BYTES).zip(out.as_flattened_mut().chunks_exact_mut(Self::BLOCK)) {
            let d = half(block);
            for (q, out) in block[2..].iter().zip(out) {
                *out = f32::from(*q as i8) * d;
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Q4_0;

impl Format for Q4_0 {
    const BLOCK: usize = 32;
    const BYTES: usize = 18;

    /// f16 `d`, 16 bytes: low nibbles are values 0..16, high ones 16..32: `(n - 8) d`.
    #[inline(always)]
    fn decode<L: Lanes>(self, _: L, bytes: &[u8], out: &mut Panel) {
        for (block, out) in bytes.chunks_exact(Self::BYTES).zip(out.as_flattened_mut().chunks_exact_mut(Self::BLOCK)) {
            let d = half(block);
            let (low, high) = out.split_at_mut(16);
            for ((n, low), high) in block[2..].iter().zip(low).zip(high) {
                *low = f32::from((n & 15) as i8 - 8) * d;
                *high = f32::from((n >> 4) as i8 - 8) * d;
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Q4K;

impl Format for Q4K {
    const BLOCK: usize = 256;
    const BYTES: usize = 144;

    /// f16 `d` and `dmin`, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles: `(d scale) n - (dmin min)`.
    #[inline(always)]
    fn decode<L: Lanes>(self, _: L, bytes: &[u8], out: &mut Panel) {
        for (block, out) in bytes.chunks_exact(Self::BYTES).zip(out.as_flattened_mut().chunks_exact_mut(Self::BLOCK)) {
            let (d, dmin) = (half(block), half(&block[2..]));
            let s = &block[4..16];
            let scale_min = |j: usize| {
                let (scale, min) = if j < 4 {
                    (s[j] & 63, s[j + 4] & 63)
                } else {
                    ((s[j + 4] & 15) | ((s[j - 4] >> 6) << 4), (s[j + 4] >> 4) | ((s[j] >> 6) << 4))
                };
                (d * f32::from(scale), dmin * f32::from(min))
            };
            for (i, (q, out)) in block[16..].chunks_exact(32).zip(out.chunks_exact_mut(64)).enumerate() {
                let (scale_low, min_low) = scale_min(2 * i);
                let (scale_high, min_high) = scale_min(2 * i + 1);
                let (low, high) = out.split_at_mut(32);
                for ((n, low), high) in q.iter().zip(low).zip(high) {
                    *low = scale_low * f32::from(n & 15) - min_low;
                    *high = scale_high * f32::from(n >> 4) - min_high;
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Q6K;

impl Format for Q6K {
    const BLOCK: usize = 256;
    const BYTES: usize = 210;

    /// 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 i8 scales, f16 `d`: `(d scale) (q - 32)`.
    #[inline(always)]
    fn decode<L: Lanes>(self, _: L, bytes: &[u8], out: &mut Panel) {
        for (block, out) in bytes.chunks_exact(Self::BYTES).zip(out.as_flattened_mut().chunks_exact_mut(Self::BLOCK)) {
            let d = half(&block[208..]);
            for (h, out) in out.chunks_exact_mut(128).enumerate() {
                let low = &block[64 * h..][..64];
                let high = &block[128 + 32 * h..][..32];
                let scales = &block[192 + 8 * h..][..8];
                // Quarter k holds values 32 k .. 32 k + 32 of this half: nibbles from byte 32 (k % 2) on, lower ones
                // for k < 2, and bit pair k of `high`.
                for (k, out) in out.chunks_exact_mut(32).enumerate() {
                    let nibbles = &low[32 * (k % 2)..][..32];
                    let (nibble_shift, pair_shift) = (4 * (k / 2), 2 * k);
                    for part in 0..2 {
                        let scale = d * f32::from(scales[2 * k + part] as i8);
                        for i in 16 * part..16 * part + 16 {
                            let q = ((nibbles[i] >> nibble_shift) & 15) | (((high[i] >> pair_shift) & 3) << 4);
                            out[i] = scale * f32::from(q as i8 - 32);
                        }
                    }
                }
            }
        }
    }
}

/// 2-bit codes of [`TernaryWeights`](crate::TernaryWeights) and the matrix's scale.
#[derive(Clone, Copy)]
pub(crate) struct Ternary(pub(crate) f32);

impl Format for Ternary {
    const BLOCK: usize = 128;
    const BYTES: usize = 32;

    /// `(code - 1) scale`; padding columns hold code 1, hence zero.
    #[inline(always)]
    fn decode<L: Lanes>(self, _: L, bytes: &[u8], out: &mut Panel) {
        for (block, out) in bytes.chunks_exact(Self::BYTES).zip(out.as_flattened_mut().chunks_exact_mut(Self::BLOCK)) {
            for (j, out) in out.chunks_exact_mut(32).enumerate() {
                for (code, out) in block.iter().zip(out) {
                    *out = f32::from((code >> (6 - 2 * j)) as i8 & 3) - 1.0;
                    *out *= self.0;
                }
            }
        }
    }
}
