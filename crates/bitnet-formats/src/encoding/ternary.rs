//! The pivot of all ternary encodings: codes and scales.

/// A ternary matrix: `weight[r, c] = codes[r * cols + c] * scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct Ternary {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// −1, 0 or +1, row-major.
    pub codes: Vec<i8>,
    /// The scales, finite and above zero.
    pub scales: Scales,
}

/// Scales of a ternary matrix.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// One for the whole tensor.
    Tensor(f32),
    /// One per `len` consecutive columns of a row, row-major: `[rows, cols.div_ceil(len)]`.
    Groups {
        /// Columns per scale; `cols` means one per row.
        len: usize,
        /// The scales.
        values: Vec<f32>,
    },
}

impl Ternary {
    /// Absmean ternarisation of master weights (formats.md §4.2): `m = max(mean|W|, 1e-5)`,
    /// `code = clamp(round_half_even(W / m), −1, 1)`; the scale is `m`. Exactly as transformers computes it.
    pub fn absmean(weights: &[f32], rows: usize, cols: usize) -> Ternary {
        let _ = (weights, rows, cols);
        todo!()
    }

    /// Recognises weights that already are of the form {−s, 0, +s} with one s per tensor, per row or per group of
    /// 128 or 64 columns (TriLM, unpacked Bonsai). `None` when they are not.
    pub fn detect(weights: &[f32], rows: usize, cols: usize) -> Option<Ternary> {
        let _ = (weights, rows, cols);
        todo!()
    }

    /// One scale for the whole tensor if all blocks that hold a non-zero code agree on it.
    pub fn tensor_scale(&self) -> Option<f32> {
        todo!()
    }
}
