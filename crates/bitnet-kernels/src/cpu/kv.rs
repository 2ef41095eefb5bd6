//! The KV cache in main memory.

use crate::aligned::Aligned;
use crate::lanes::LANES;
use crate::threads::{Dealt, Pool};
use crate::{KernelError, KvFormat, KvShape, PAGE_LEN};

/// The paged keys and values of all layers, as bytes.
///
/// One (layer, page, head) is one stretch of memory: keys, values, and in the int8 format the scales `[PAGE_LEN]` of the
/// keys and those of the values. Channels are padded with zeros to `dim`, a multiple of 16.
///
/// - f32, f16: keys `[dim, PAGE_LEN]`, values `[PAGE_LEN, dim]`: both products of attention run along memory.
/// - int8: codes + 128, keys `[dim / 4, PAGE_LEN, 4]`, values `[PAGE_LEN / 4, dim, 4]`: as instructions want them that
///   multiply four bytes with four bytes and add them up.
pub struct Kv {
    data: Aligned<u8>,
    shape: KvShape,
}

/// int8 codes of a vector: value ≈ code × scale.
///
/// `scale = max|x| / 127`, `code = round_half_even(x · (127 / max|x|))`. The code 128 above zero is given to `store`. When a
/// value is not finite the scale is NaN, so that it shows in whatever is computed from it.
pub(crate) fn quantize(x: &[f32], mut store: impl FnMut(usize, i8)) -> f32 {
    // Lane by lane, so that no value waits for the one before: neither result depends on the order.
    let (chunks, rest) = x.as_chunks::<LANES>();
    let (mut largest, mut broken) = ([0f32; LANES], [0f32; LANES]);
    for chunk in chunks {
        for i in 0..LANES {
            largest[i] = largest[i].max(chunk[i].abs());
            broken[i] += 0.0 * chunk[i]; // 0 · x is zero unless x is infinite or NaN
        }
    }
    let largest = largest.iter().chain(rest).fold(0f32, |m, x| m.max(x.abs()));
    let broken = broken.iter().sum::<f32>() + rest.iter().map(|x| 0.0 * x).sum::<f32>();
    let factor = if largest > 0.0 { (127.0 / largest).min(f32::MAX) } else { 0.0 };
    for (i, x) in x.iter().enumerate() {
        // Adding 1.5 · 2^23 rounds to a whole number, whose low byte then is the lowest of the mantissa. A code larger
        // than 127 cannot arise but from the two roundings of `x · factor`, which stay below 127.5.
        store(i, (x * factor + ROUND).to_bits() as i8);
    }
    largest / 127.0 + broken
}

/// `1.5 · 2^23`.
pub(crate) const ROUND: f32 = 12_582_912.0;

impl Kv {
    pub(crate) fn new(shape: KvShape) -> Result<Kv, KernelError> {
        if shape.format == KvFormat::Int8 && shape.head_dim > KvFormat::MAX_INT8_HEAD {
            return Err(KernelError::Shape {
                what: "channels per head in an int8 KV cache",
                found: shape.head_dim.to_string(),
                expected: format!("at most {}; take f16 or f32", KvFormat::MAX_INT8_HEAD),
            });
        }
        Ok(Kv { data: Aligned::zeroed("the KV cache", shape.bytes())?, shape })
    }

    /// Size of the cache.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    #[inline(always)]
    fn index(&self, layer: usize, page: u32, head: usize) -> usize {
        let KvShape { layers, kv_heads, pages, .. } = self.shape;
        let page = page as usize;
        assert!(layer < layers && page < pages && head < kv_heads, "outside of the KV cache");
        ((layer * pages + page) * kv_heads + head) * self.shape.head_bytes()
    }

    /// Keys, values and scales of one head in one page.
    #[inline(always)] // once per page in attention
    pub(crate) fn head(&self, layer: usize, page: u32, head: usize) -> &[u8] {
        &self.data[self.index(layer, page, head)..][..self.shape.head_bytes()]
    }

    /// Calls `body(head, pages, own)` for all heads of a layer, which the threads share: `pages` are that head's in the order of their
    /// numbers, each as [`KvShape::store`] takes it; `own` is its part of `scratch`, `head_dim` values.
    pub(crate) fn heads(
        &mut self,
        pool: &Pool,
        layer: usize,
        scratch: &mut [f32],
        body: impl Fn(usize, Dealt<'_>, &mut [f32]) + Sync,
    ) {
        let KvShape { layers, kv_heads, pages, .. } = self.shape;
        assert!(layer < layers, "outside of the KV cache");
        let len = self.shape.head_bytes();
        let of_layer = pages * kv_heads * len;
        let scratch = (scratch, self.shape.head_dim);
        pool.deal(&mut self.data[layer * of_layer..][..of_layer], len, kv_heads, scratch, body);
    }

    pub(crate) fn copy_page(&mut self, from: u32, to: u32) {
        let len = self.shape.kv_heads * self.shape.head_bytes();
        if len == 0 {
            return;
        }
        for layer in 0..self.shape.layers {
            let (from, to) = (self.index(layer, from, 0), self.index(layer, to, 0));
            self.data.copy_within(from..from + len, to);
        }
    }
}

impl KvShape {
    /// Writes a key and a value at position `slot` of a page of one head.
    pub(crate) fn store(self, page: &mut [u8], slot: usize, key: &[f32], value: &[f32]) {
        let (dim, format) = (self.padded_dim(), self.format);
        let (keys, values) = page.split_at_mut(PAGE_LEN * dim * format.code_bytes());
        match format {
            KvFormat::F32 => store_floats(keys, values, slot, dim, key, value, f32::to_le_bytes),
            KvFormat::F16 => {
                store_floats(keys, values, slot, dim, key, value, |x| half::f16::from_f32(x).to_le_bytes());
            }
            KvFormat::Int8 => {
                let (values, scales) = values.split_at_mut(PAGE_LEN * dim);
                let (scales, _) = scales.as_chunks_mut();
                let (keys, values) = (&mut keys[4 * slot..], &mut values[slot / 4 * 4 * dim + slot % 4..]);
                let key_scale = quantize(key, |c, code| keys[c / 4 * 4 * PAGE_LEN + c % 4] = code as u8 ^ 0x80);
                let value_scale = quantize(value, |c, code| values[4 * c] = code as u8 ^ 0x80);
                scales[slot] = key_scale.to_le_bytes();
                scales[PAGE_LEN + slot] = value_scale.to_le_bytes();
            }
        }
    }
}

/// The same for floats of `N` bytes.
fn store_floats<const N: usize>(
    keys: &mut [u8],
    values: &mut [u8],
    slot: usize,
    dim: usize,
    key: &[f32],
    value: &[f32],
    bytes: impl Fn(f32) -> [u8; N],
) {
    let (keys, _) = keys.as_chunks_mut::<N>();
    let (values, _) = values.as_chunks_mut::<N>();
    // every channel of a key lies in another cache line, and stores wait for theirs one by one
    keys[slot..].iter().step_by(PAGE_LEN).for_each(|place| crate::arch::fetch(place));
    for (place, x) in keys[slot..].iter_mut().step_by(PAGE_LEN).zip(key) {
        *place = bytes(*x);
    }
    for (place, x) in values[slot * dim..][..dim].iter_mut().zip(value) {
        *place = bytes(*x);
    }
}
