//! `rope_store`: rotary embedding of queries and keys, and the write into the KV cache.

use crate::threads::{Pool, grain};
use crate::{Batch, Cpu, KernelError, Kv, KvShape, PAGE_LEN, RopeStyle, RopeTable, Rows};

/// Tokens whose rotations are kept from layer to layer.
const TOKENS: usize = 512;

/// Makes `values` at least so long.
fn grow<T: Clone>(values: &mut Vec<T>, len: usize, value: T) -> Result<(), KernelError> {
    let refused = |_| KernelError::Memory { what: "rotations", bytes: len.saturating_mul(size_of::<T>()) };
    let len = len.max(values.len());
    values.try_reserve_exact(len - values.len()).map_err(refused)?;
    values.resize(len, value);
    Ok(())
}

/// Cosines and sines of the last batch. All layers of a step share them.
#[derive(Default)]
pub(crate) struct Rotations {
    positions: Vec<usize>,
    frequencies: Vec<f32>,
    /// Per position and pair: cosine, sine.
    values: Vec<[f32; 2]>,
    /// A key of each head on its way into the cache.
    keys: Vec<f32>,
}

impl Rotations {
    /// Makes room for a cache of that shape, so that no verb allocates.
    pub(crate) fn reserve(&mut self, shape: KvShape) -> Result<(), KernelError> {
        let KvShape { head_dim, kv_heads, .. } = shape;
        grow(&mut self.values, (head_dim / 2).saturating_mul(TOKENS), [1.0, 0.0])?;
        grow(&mut self.keys, kv_heads.saturating_mul(head_dim), 0.0)?;
        self.frequencies.reserve(head_dim / 2);
        self.positions.reserve(TOKENS);
        Ok(())
    }

    /// Computes the rotations of `positions`, unless they are there already.
    fn prepare(&mut self, pool: &Pool, frequencies: &[f32], positions: impl Iterator<Item = usize> + Clone) {
        if self.frequencies == frequencies && positions.clone().eq(self.positions.iter().copied()) {
            return;
        }
        self.positions.clear();
        self.positions.extend(positions);
        self.frequencies.clear();
        self.frequencies.extend_from_slice(frequencies);
        let pairs = frequencies.len();
        let (positions, values) = (&self.positions, &mut self.values[..self.positions.len() * pairs]);
        // An angle costs as much as some forty plain values.
        pool.chunks(values, pairs, grain(40 * pairs), |token, values| {
            for (value, frequency) in values.iter_mut().zip(frequencies) {
                let angle = positions[token] as f32 * frequency;
                let (sin, cos) = libm::sincos(f64::from(angle));
                *value = [cos as f32, sin as f32];
            }
        });
    }

    fn of(&self, token: usize) -> &[[f32; 2]] {
        &self.values[token * self.frequencies.len()..][..self.frequencies.len()]
    }
}

/// Rotates `q` in place and `k`, writes `k` and `v` into the batch's pages of `layer`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn run(
    cpu: &Cpu,
    q: &mut Rows,
    k: &Rows,
    v: &Rows,
    rope: &RopeTable,
    batch: &Batch,
    layer: usize,
    kv: &mut Kv,
) {
    let shape = kv.shape();
    let (tokens, head_dim, q_cols) = (batch.tokens().len(), shape.head_dim, q.cols());
    assert_eq!((q.len(), k.len(), v.len()), (tokens, tokens, tokens), "rows of q, k and v");
    assert_eq!((k.cols(), v.cols()), (shape.kv_heads * head_dim, shape.kv_heads * head_dim), "columns of k and v");
    assert!(q_cols % head_dim == 0, "{q_cols} query columns for heads of {head_dim}");
    assert!(2 * rope.inverse_frequencies.len() <= head_dim, "more rotated channels than a head has");

    let mut rotations = cpu.rotations();
    let mut keys = std::mem::take(&mut rotations.keys); // borrowed apart from the rest
    for first in (0..tokens).step_by(TOKENS) {
        let count = TOKENS.min(tokens - first);
        let places = || batch.places().skip(first).take(count);
        rotations.prepare(cpu.pool(), &rope.inverse_frequencies, places().map(|(position, _)| position));
        let rotations = &*rotations;
        let q = &mut q.data_mut()[first * q_cols..(first + count) * q_cols];
        cpu.pool().chunks(q, q_cols, grain(q_cols), |token, q| {
            for head in q.chunks_exact_mut(head_dim) {
                rotate(rope.style, rotations.of(token), head);
            }
        });
        kv.heads(cpu.pool(), layer, &mut keys, |head, mut pages, key| {
            let of_head = head * head_dim..(head + 1) * head_dim;
            for (token, (position, page)) in places().enumerate() {
                let value = &v.row(first + token)[of_head.clone()];
                key.copy_from_slice(&k.row(first + token)[of_head.clone()]);
                rotate(rope.style, rotations.of(token), key);
                shape.store(pages.chunk(page as usize), position % PAGE_LEN, key, value);
            }
        });
    }
    rotations.keys = keys;
}

/// Rotates the pairs of one head: `(a, b)` becomes `(a cos - b sin, b cos + a sin)`. Channels that belong to no pair stay.
fn rotate(style: RopeStyle, rotations: &[[f32; 2]], head: &mut [f32]) {
    let pairs = rotations.len();
    for (i, [cos, sin]) in rotations.iter().enumerate() {
        let (first, second) = match style {
            RopeStyle::Neox => (i, i + pairs),
            RopeStyle::Interleaved => (2 * i, 2 * i + 1),
        };
        let (a, b) = (head[first], head[second]);
        head[first] = a * cos - b * sin;
        head[second] = b * cos + a * sin;
    }
}
