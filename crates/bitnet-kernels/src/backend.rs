//! The verbs a network is written in.

use crate::{Batch, DenseWeights, KernelError, KvShape, RopeTable, TernaryWeights};

/// Gate non-linearity of a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `max(x, 0)²` (BitNet b1.58 2B-4T).
    Relu2,
    /// `x · sigmoid(x)` (LLaMA).
    Silu,
    /// `0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))` (Gemma).
    GeluTanh,
}

/// An RMS norm: `x / sqrt(mean(x²) + eps) * weight`.
#[derive(Clone, Debug, PartialEq)]
pub struct NormWeight {
    /// One factor per channel; Gemma's `1 + w` is already applied.
    pub weight: Vec<f32>,
    /// Added to the mean square.
    pub eps: f32,
}

/// Which logits of a step are needed.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// All of them.
    All,
    /// Those that can be chosen, row by row.
    Top(&'a [Top<'a>]),
}

/// The logits among which a token is chosen: those of `ids`; and of all other tokens the `count` largest, whatever equals the
/// smallest of these, and whatever lies less than `margin` below it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Top<'a> {
    /// How many.
    pub count: usize,
    /// How far below the `count`-th largest logit.
    pub margin: f32,
    /// Tokens whose logits are wanted in any case, each once.
    pub ids: &'a [u32],
}

/// What [`Backend::logits`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Computed {
    /// False when only what was wanted is there: every logit that is not negative infinity has the very bits that the full head
    /// gives, is finite, and everything wanted is among them.
    pub complete: bool,
    /// Bytes of weights read.
    pub bytes: u64,
}

/// Where and how the arithmetic runs. A network is written once over these verbs; every implementation gives results
/// that pass the same conformance suite, and CPU tiers give the same bits.
///
/// Buffers have a capacity in rows and a current row count, which the verb that fills them sets. Shapes are checked by
/// assertion: a mismatch is a bug in the network's code, never caused by input.
pub trait Backend: Send + Sync + 'static {
    /// Float activations `[rows, cols]`.
    type Rows: Send + Sync;
    /// int8 activations `[rows, cols]` with one scale per row.
    type Quantized: Send + Sync;
    /// A resident ternary matrix.
    type Ternary: Send + Sync;
    /// A resident dense matrix.
    type Dense: Send + Sync;
    /// A resident norm.
    type Norm: Send + Sync;
    /// The paged keys and values of all layers.
    type Kv: Send + Sync;

    // ---- memory: all of it is made at load ----

    /// Float rows for up to `capacity` tokens.
    fn rows(&self, capacity: usize, cols: usize) -> Result<Self::Rows, KernelError>;
    /// int8 rows for up to `capacity` tokens.
    fn quantized(&self, capacity: usize, cols: usize) -> Result<Self::Quantized, KernelError>;
    /// An empty KV cache.
    fn kv(&self, shape: KvShape) -> Result<Self::Kv, KernelError>;
    /// Takes ternary weights: checks byte length, codes and scales.
    fn ternary(&self, weights: TernaryWeights) -> Result<Self::Ternary, KernelError>;
    /// Takes dense weights: checks byte length.
    fn dense(&self, weights: DenseWeights) -> Result<Self::Dense, KernelError>;
    /// Takes the weights of an output head, as [`dense`](Self::dense) does, and reserves what makes [`Wanted::Top`] fast:
    /// [`selection_bytes`](crate::selection_bytes).
    fn head(&self, weights: DenseWeights) -> Result<Self::Dense, KernelError> {
        self.dense(weights)
    }
    /// Takes a norm.
    fn norm_weight(&self, norm: NormWeight) -> Result<Self::Norm, KernelError>;
    /// Copies the rows to the host: `[rows, cols]`, row-major, into `out`.
    fn read(&self, rows: &Self::Rows, out: &mut [f32]);
    /// Copies page `from` to page `to` in every layer (copy-on-write of shared prefixes).
    fn copy_page(&self, kv: &mut Self::Kv, from: u32, to: u32);

    // ---- verbs ----

    /// `out[t] = table[ids[t]] * scale`.
    fn embed(&self, table: &Self::Dense, ids: &[u32], scale: f32, out: &mut Self::Rows);

    /// `out = RMSNorm(x)`. When the weight is shorter than a row, each chunk of that length is normed by itself
    /// (per-head query and key norms).
    fn norm(&self, x: &Self::Rows, norm: &Self::Norm, out: &mut Self::Rows);

    /// RMSNorm (or none), then per-token absmax int8: `s = (1 / max(max|x|, 1e-5)) · 127` in f32 with two roundings, as
    /// torch evaluates `127 / m`, and `q = round_half_even(x s)`.
    fn norm_quantize(&self, x: &Self::Rows, norm: Option<&Self::Norm>, out: &mut Self::Quantized);

    /// `outs[i] = x · weights[i]ᵀ`: exact integer sums, then `sum as f32 * (scale / s)`. Matrices that share an input
    /// go in one call.
    fn ternary_matmul(&self, x: &Self::Quantized, weights: &[&Self::Ternary], outs: &mut [&mut Self::Rows]);

    /// `out += x · weightsᵀ`; `branch`, of the shape of `out`, may be used as working space.
    fn ternary_add(&self, x: &Self::Quantized, weights: &Self::Ternary, branch: &mut Self::Rows, out: &mut Self::Rows) {
        self.ternary_matmul(x, &[weights], &mut [&mut *branch]);
        self.add(out, branch);
    }

    /// `gate = activation(x · weights[0]ᵀ) · (x · weights[1]ᵀ)`; `up`, of the shape of `gate`, may be used as working space.
    fn ternary_gated(
        &self,
        x: &Self::Quantized,
        weights: [&Self::Ternary; 2],
        activation: Activation,
        gate: &mut Self::Rows,
        up: &mut Self::Rows,
    ) {
        self.ternary_matmul(x, &weights, &mut [&mut *gate, &mut *up]);
        self.gated_activation(activation, gate, up);
    }

    /// `outs[i] = x · weights[i]ᵀ` in float.
    fn dense_matmul(&self, x: &Self::Rows, weights: &[&Self::Dense], outs: &mut [&mut Self::Rows]);

    /// Rotates `q` (in place) and `k`, and writes `k` and `v` into the batch's pages of `layer`.
    #[allow(clippy::too_many_arguments)] // the verb's operands; a struct would only rename them
    fn rope_store(
        &self,
        q: &mut Self::Rows,
        k: &Self::Rows,
        v: &Self::Rows,
        rope: &RopeTable,
        batch: &Batch,
        layer: usize,
        kv: &mut Self::Kv,
    );

    /// Causal attention: `out = softmax(q kᵀ · scale) v` over the cached positions; with `window`, over the last
    /// `window` of them. Query head `h` reads key/value head `h / (heads / kv_heads)`.
    #[allow(clippy::too_many_arguments)]
    fn attend(
        &self,
        q: &Self::Rows,
        kv: &Self::Kv,
        batch: &Batch,
        layer: usize,
        scale: f32,
        window: Option<usize>,
        out: &mut Self::Rows,
    );

    /// `gate = activation(gate) * up`, in place.
    fn gated_activation(&self, activation: Activation, gate: &mut Self::Rows, up: &Self::Rows);

    /// `x += y`.
    fn add(&self, x: &mut Self::Rows, y: &Self::Rows);

    /// Final norm and output head for the chosen rows of `x`: `out[i] = head · RMSNorm(x[rows[i]])`. What is not wanted may
    /// be negative infinity instead.
    #[allow(clippy::too_many_arguments)]
    fn logits(
        &self,
        x: &Self::Rows,
        rows: &[u32],
        norm: &Self::Norm,
        head: &Self::Dense,
        wanted: Wanted<'_>,
        out: &mut Self::Rows,
    ) -> Computed;
}
