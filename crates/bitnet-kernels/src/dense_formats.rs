//! How the stored values of a dense matrix become f32: exactly ggml's values, product by product.

use crate::lanes::{LANES, Lanes};
use half::f16;

/// Columns that are decoded at a time; a multiple of every block length.
pub(crate) const PANEL: usize = 256;

/// Up to [`PANEL`] decoded columns of one row, in lanes.
pub(crate) type Panel = [[f32; LANES]; PANEL / LANES];

/// One storage format. (The loops of `decode` call no closures with vectors in them: a closure that is not inlined is not
/// compiled for the tier.)
pub(crate) trait Format: Copy {
    /// Columns that share a block.
    const BLOCK: usize;
    /// Bytes of a block.
    const BYTES: usize;

    /// Decodes whole blocks, at most a panel of them. Values after the last column, up to a multiple of sixteen, become
    /// zero; later ones are left alone.
    fn decode<L: Lanes>(self, l: L, bytes: &[u8], out: &mut Panel);
}

#[inline(always)]
fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32_const()
}

/// Decodes values of `N / 16` bytes each.
#[inline(always)]
fn plain<const N: usize, L: Lanes>(l: L, bytes: &[u8], out: &mut Panel, load: impl Fn(&[u8; N]) -> L::V) {
    let (full, tail) = bytes.as_chunks::<N>();
    for (bytes, out) in full.iter().zip(out.iter_mut()) {
        l.store(load(bytes), out);
    }
    if !tail.is_empty() {
        let mut padded = [0; N];
        padded[..tail.len()].copy_from_slice(tail);
        l.store(load(&padded), &mut out[full.len()]);
    }
}

/// Sixteen bytes as one number.
#[inline(always)]
fn sixteen(bytes: &[u8]) -> u128 {
    let mut x = [0; LANES];
    x.copy_from_slice(&bytes[..LANES]);
    u128::from_le_bytes(x)
}

/// The low and the high nibbles of sixteen bytes. (The shifts are constants: variable ones of 128 bits are slow.)
#[inline(always)]
fn nibbles(x: u128) -> [u128; 2] {
    let mask = u128::from_le_bytes([15; LANES]);
    [x & mask, x >> 4 & mask]
}

/// The bit pairs of sixteen bytes, lowest first.
#[inline(always)]
fn pairs(x: u128) -> [u128; 4] {
    let mask = u128::from_le_bytes([3; LANES]);
    [x & mask, x >> 2 & mask, x >> 4 & mask, x >> 6 & mask]
}

#[derive(Clone, Copy)]
pub(crate) struct F32;

impl Format for F32 {
    const BLOCK: usize = 1;
    const BYTES: usize = 4;

    #[inline(always)]
    fn decode<L: Lanes>(self, l: L, bytes: &[u8], out: &mut Panel) {
        plain(l, bytes, out, |b| l.load_f32(b));
    }
}

#[derive(Clone, Copy)]
pub(crate) struct BF16;

impl Format for BF16 {
    const BLOCK: usize = 1;
    const BYTES: usize = 2;

    #[inline(always)]
    fn decode<L: Lanes>(self, l: L, bytes: &[u8], out: &mut Panel) {
        plain(l, bytes, out, |b| l.load_bf16(b));
    }
}

#[derive(Clone, Copy)]
pub(crate) struct F16;

impl Format for F16 {
    const BLOCK: usize = 1;
    const BYTES: usize = 2;

    #[inline(always)]
    fn decode<L: Lanes>(self, l: L, bytes: &[u8], out: &mut Panel) {
        plain(l, bytes, out, |b| l.load_f16(b));
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Q8_0;

impl Format for Q8_0 {
    const BLOCK: usize = 32;
    const BYTES: usize = 34;

    /// f16 `d`, i8 `q[32]`: `q d`.
    #[inline(always)]
    fn decode<L: Lanes>(self, l: L, bytes: &[u8], out: &mut Panel) {
        let (blocks, _) = bytes.as_chunks::<{ Self::BYTES }>();
        for (block, out) in blocks.iter().zip(out.as_chunks_mut::<2>().0) {
            let d = l.splat(half(block));
            for (q, out) in block[2..].chunks_exact(LANES).zip(out) {
                l.store(l.mul(l.i8_lanes(sixteen(q)), d), out);
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
    fn decode<L: Lanes>(self, l: L, bytes: &[u8], out: &mut Panel) {
        let (blocks, _) = bytes.as_chunks::<{ Self::BYTES }>();
        for (block, out) in blocks.iter().zip(out.as_chunks_mut::<2>().0) {
            let d = l.splat(half(block));
            for (n, out) in nibbles(sixteen(&block[2..])).into_iter().zip(out) {
                l.store(l.mul(l.sub(l.i8_lanes(n), l.splat(8.0)), d), out);
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
    fn decode<L: Lanes>(self, l: L, bytes: &[u8], out: &mut Panel) {
        let (blocks, _) = bytes.as_chunks::<{ Self::BYTES }>();
        for (block, out) in blocks.iter().zip(out.as_chunks_mut::<16>().0) {
            let (d, dmin) = (half(block), half(&block[2..]));
            let s = &block[4..16];
            let scales: [[f32; 2]; 8] = std::array::from_fn(|j| {
                let (scale, min) = if j < 4 {
                    (s[j] & 63, s[j + 4] & 63)
                } else {
                    ((s[j + 4] & 15) | ((s[j - 4] >> 6) << 4), (s[j + 4] >> 4) | ((s[j] >> 6) << 4))
                };
                [d * f32::from(scale), dmin * f32::from(min)]
            });
            // Sub-blocks 2 i and 2 i + 1 of 32 columns are the low and the high nibbles of bytes 32 i .. 32 i + 32.
            for (i, (n, out)) in block[16..].chunks_exact(32).zip(out.as_chunks_mut::<4>().0).enumerate() {
                for part in 0..2 {
                    for (high, n) in nibbles(sixteen(&n[part * LANES..])).into_iter().enumerate() {
                        let [scale, min] = scales[2 * i + high];
                        let value = l.sub(l.mul(l.splat(scale), l.i8_lanes(n)), l.splat(min));
                        l.store(value, &mut out[2 * high + part]);
                    }
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
    fn decode<L: Lanes>(self, l: L, bytes: &[u8], out: &mut Panel) {
        let (blocks, _) = bytes.as_chunks::<{ Self::BYTES }>();
        for (block, out) in blocks.iter().zip(out.as_chunks_mut::<16>().0) {
            let d = half(&block[208..]);
            // Columns 128 h + 32 k + 16 part ..: nibbles from byte 64 h + 32 (k % 2) on, the lower ones for k < 2, and
            // bit pair k of the bytes from 128 + 32 h on.
            for (h, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                for part in 0..2 {
                    let even = nibbles(sixteen(&block[64 * h + part * LANES..]));
                    let odd = nibbles(sixteen(&block[64 * h + 32 + part * LANES..]));
                    let high = pairs(sixteen(&block[128 + 32 * h + part * LANES..]));
                    let low = [even[0], odd[0], even[1], odd[1]];
                    for k in 0..4 {
                        let q = l.sub(l.i8_lanes(low[k] | high[k] << 4), l.splat(32.0));
                        let scale = d * f32::from(block[192 + 8 * h + 2 * k + part] as i8);
                        l.store(l.mul(l.splat(scale), q), &mut out[2 * k + part]);
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
    fn decode<L: Lanes>(self, l: L, bytes: &[u8], out: &mut Panel) {
        let (blocks, _) = bytes.as_chunks::<{ Self::BYTES }>();
        for (block, out) in blocks.iter().zip(out.as_chunks_mut::<8>().0) {
            for part in 0..2 {
                for (j, code) in pairs(sixteen(&block[part * LANES..])).into_iter().rev().enumerate() {
                    let code = l.sub(l.i8_lanes(code), l.splat(1.0));
                    l.store(l.mul(code, l.splat(self.0)), &mut out[2 * j + part]);
                }
            }
        }
    }
}
