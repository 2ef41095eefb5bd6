//! Weights without a model, more of them than caches hold.

use bitnet_kernels::{Backend, Dense, DenseFormat, DenseWeights, KernelError, Ternary};
use bytes::Bytes;
use half::f16;
use std::sync::LazyLock;

use crate::{CPU, tensor};

/// Bytes without two set bits in a pair: legal ternary codes, and no infinity or NaN wherever a format has an f16.
static ARENA: LazyLock<Bytes> = LazyLock::new(|| {
    const BYTES: usize = 768 << 20;
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bits = (state >> 33) as u8;
        bits & !(bits & (bits << 1) & 0xaa)
    };
    let mut bytes = Vec::with_capacity(BYTES);
    bytes.extend((0..1 << 20).map(|_| next()));
    while bytes.len() < BYTES {
        bytes.extend_from_within(..);
    }
    bytes.truncate(BYTES);
    bytes.into()
});

/// Matrices of a shape, as many as there is room for.
pub(crate) fn ternary(rows: usize, cols: usize) -> Result<Vec<Ternary>, KernelError> {
    let bytes = rows * cols / 4;
    (0..ARENA.len() / bytes).map(|i| tensor(rows, cols, ARENA.slice(i * bytes..(i + 1) * bytes))).collect()
}

/// A matrix, and its bytes.
pub(crate) fn dense(format: DenseFormat, rows: usize, cols: usize) -> Result<(Dense, usize), KernelError> {
    let row_bytes = match format {
        DenseFormat::F16 => cols * 2,
        DenseFormat::Q8_0 => cols / 32 * 34,
        DenseFormat::Q6K => cols / 256 * 210,
        DenseFormat::Q4K => cols / 256 * 144,
        other => unreachable!("{other:?} is not measured"),
    };
    let bytes = ARENA.slice(..rows * row_bytes);
    Ok((CPU.dense(DenseWeights { rows, cols, format, bytes })?, rows * row_bytes))
}

/// An F16 head of normal weights, with memory for selections.
pub(crate) fn normal_head(rows: usize, cols: usize) -> Result<Dense, KernelError> {
    let values = normal(1).take(rows * cols);
    let mut bytes = Vec::with_capacity(2 * rows * cols);
    values.for_each(|value| bytes.extend(f16::from_f32(value * 0.02).to_le_bytes()));
    CPU.head(DenseWeights { rows, cols, format: DenseFormat::F16, bytes: bytes.into() })
}

/// Nearly normal: the sum of the four quarters of 64 random bits.
pub(crate) fn normal(mut state: u64) -> impl Iterator<Item = f32> {
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bits = state ^ state >> 31;
        let quarters = [bits, bits >> 16, bits >> 32, bits >> 48].map(|q| f32::from(q as u16));
        (quarters.iter().sum::<f32>() - 131_070.0) / 37_837.0
    })
}
