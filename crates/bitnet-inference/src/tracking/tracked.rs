//! A backend that is watched.

use crate::tracking::tracker::{Step, Work};
use crate::tracking::{Phase, Tracker, Verb};
use bitnet_kernels::{
    Activation, Backend, Batch, Computed, Cpu, DenseWeights, KernelError, KvShape, NormWeight, PAGE_LEN, RopeTable,
    TernaryWeights, Wanted,
};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

/// The sizes of what a backend holds.
pub trait Measurable: Backend {
    /// `(rows, cols)` in use.
    fn rows_size(rows: &Self::Rows) -> (usize, usize);
    /// `(rows, cols)` in use.
    fn quantized_size(rows: &Self::Quantized) -> (usize, usize);
    /// `(rows, cols, bytes)`.
    fn ternary_size(weights: &Self::Ternary) -> (usize, usize, usize);
    /// `(rows, cols, bytes)`.
    fn dense_size(weights: &Self::Dense) -> (usize, usize, usize);
    /// As it was asked for.
    fn kv_shape(kv: &Self::Kv) -> KvShape;
}

impl Measurable for Cpu {
    fn rows_size(rows: &Self::Rows) -> (usize, usize) {
        (rows.len(), rows.cols())
    }

    fn quantized_size(rows: &Self::Quantized) -> (usize, usize) {
        (rows.len(), rows.cols())
    }

    fn ternary_size(weights: &Self::Ternary) -> (usize, usize, usize) {
        (weights.rows(), weights.cols(), weights.bytes())
    }

    fn dense_size(weights: &Self::Dense) -> (usize, usize, usize) {
        (weights.rows(), weights.cols(), weights.bytes())
    }

    fn kv_shape(kv: &Self::Kv) -> KvShape {
        kv.shape()
    }
}

/// A backend whose verbs are timed when there is a tracker, and only passed on when there is none.
pub struct Tracked<B> {
    backend: B,
    tracker: Option<Arc<Tracker>>,
}

impl Tracked<Cpu> {
    /// Decided once, for all that is computed with it.
    pub(crate) fn new(cpu: Cpu, track: bool) -> Self {
        let tracker = track.then(|| Arc::new(Tracker::new(cpu.isa(), cpu.threads())));
        Tracked { backend: cpu, tracker }
    }
}

impl<B> Tracked<B> {
    /// What was measured, if anything is.
    pub fn tracker(&self) -> Option<&Arc<Tracker>> {
        self.tracker.as_ref()
    }

    /// Begins a step, which ends when the result is dropped.
    pub(crate) fn step(&self, phase: Phase, tokens: usize) -> Option<Step<'_>> {
        self.tracker.as_ref().map(|tracker| tracker.step(phase, tokens))
    }

    #[inline]
    fn begin(&self, work: impl FnOnce() -> Work) -> Option<(&Tracker, Instant, Work)> {
        self.tracker.as_deref().map(|tracker| (tracker, tracker.verb_begin(), work()))
    }
}

#[inline]
fn end(begun: Option<(&Tracker, Instant, Work)>) {
    if let Some((tracker, begin, work)) = begun {
        tracker.verb_end(begin, work);
    }
}

impl<B> Deref for Tracked<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.backend
    }
}

const FLOAT: usize = size_of::<f32>();

/// A verb that reads and writes activations only.
fn plain(verb: Verb, (rows, cols): (usize, usize), bytes_per_value: usize) -> Work {
    Work { verb, cols, rows: cols, bytes: (rows * cols * bytes_per_value) as u64, operations: 0 }
}

/// Weights read once, inputs of `width` bytes, results of 4 bytes.
fn product(
    verb: Verb,
    (tokens, cols): (usize, usize),
    width: usize,
    weights: impl Iterator<Item = (usize, usize, usize)>,
) -> Work {
    let (rows, bytes) = weights.fold((0, 0), |(rows, bytes), w| (rows + w.0, bytes + w.2));
    Work {
        verb,
        cols,
        rows,
        bytes: (bytes + tokens * cols * width + tokens * rows * FLOAT) as u64,
        operations: 2 * (tokens * rows * cols) as u64,
    }
}

/// Bytes of the keys and values of one position in one layer.
fn position_bytes(kv: KvShape) -> u64 {
    kv.bytes() as u64 / (kv.layers * kv.pages * PAGE_LEN).max(1) as u64
}

/// Every token of a run sees the positions up to its own, or the last `window` of them; they are read once per run.
fn attention(kv: KvShape, batch: &Batch, window: Option<usize>) -> Work {
    let window = window.unwrap_or(usize::MAX);
    let (mut read, mut seen) = (0u64, 0u64);
    for run in batch.runs() {
        let end = run.start + run.len;
        read += (end - run.start.saturating_sub(window.saturating_sub(1)).min(end)) as u64;
        seen += (run.start..end).map(|position| (position + 1).min(window) as u64).sum::<u64>();
    }
    let channels = kv.heads * kv.head_dim;
    Work {
        verb: Verb::Attend,
        cols: channels,
        rows: channels,
        bytes: read * position_bytes(kv) + (2 * batch.tokens().len() * channels * FLOAT) as u64,
        operations: 4 * seen * channels as u64, // two products per channel and position
    }
}

impl<B: Measurable> Backend for Tracked<B> {
    type Rows = B::Rows;
    type Quantized = B::Quantized;
    type Ternary = B::Ternary;
    type Dense = B::Dense;
    type Norm = B::Norm;
    type Kv = B::Kv;

    fn rows(&self, capacity: usize, cols: usize) -> Result<B::Rows, KernelError> {
        self.backend.rows(capacity, cols)
    }

    fn quantized(&self, capacity: usize, cols: usize) -> Result<B::Quantized, KernelError> {
        self.backend.quantized(capacity, cols)
    }

    fn kv(&self, shape: KvShape) -> Result<B::Kv, KernelError> {
        self.backend.kv(shape)
    }

    fn ternary(&self, weights: TernaryWeights) -> Result<B::Ternary, KernelError> {
        self.backend.ternary(weights)
    }

    fn dense(&self, weights: DenseWeights) -> Result<B::Dense, KernelError> {
        self.backend.dense(weights)
    }

    fn head(&self, weights: DenseWeights) -> Result<B::Dense, KernelError> {
        self.backend.head(weights)
    }

    fn norm_weight(&self, norm: NormWeight) -> Result<B::Norm, KernelError> {
        self.backend.norm_weight(norm)
    }

    fn read(&self, rows: &B::Rows, out: &mut [f32]) {
        let begun = self.begin(|| plain(Verb::Read, B::rows_size(rows), 2 * FLOAT));
        self.backend.read(rows, out);
        end(begun);
    }

    fn copy_page(&self, kv: &mut B::Kv, from: u32, to: u32) {
        self.backend.copy_page(kv, from, to);
    }

    fn embed(&self, table: &B::Dense, ids: &[u32], scale: f32, out: &mut B::Rows) {
        let begun = self.begin(|| {
            let (rows, cols, bytes) = B::dense_size(table);
            let bytes = (ids.len() * (bytes / rows.max(1) + cols * FLOAT)) as u64;
            Work { verb: Verb::Embed, cols, rows: cols, bytes, operations: 0 }
        });
        self.backend.embed(table, ids, scale, out);
        end(begun);
    }

    fn norm(&self, x: &B::Rows, norm: &B::Norm, out: &mut B::Rows) {
        let begun = self.begin(|| plain(Verb::Norm, B::rows_size(x), 2 * FLOAT));
        self.backend.norm(x, norm, out);
        end(begun);
    }

    fn norm_quantize(&self, x: &B::Rows, norm: Option<&B::Norm>, out: &mut B::Quantized) {
        let begun = self.begin(|| plain(Verb::NormQuantize, B::rows_size(x), FLOAT + 1));
        self.backend.norm_quantize(x, norm, out);
        end(begun);
    }

    fn ternary_matmul(&self, x: &B::Quantized, weights: &[&B::Ternary], outs: &mut [&mut B::Rows]) {
        let sizes = || weights.iter().map(|w| B::ternary_size(w));
        let begun = self.begin(|| product(Verb::TernaryMatmul, B::quantized_size(x), 1, sizes()));
        self.backend.ternary_matmul(x, weights, outs);
        end(begun);
    }

    fn ternary_add(&self, x: &B::Quantized, weights: &B::Ternary, branch: &mut B::Rows, out: &mut B::Rows) {
        let begun =
            self.begin(|| product(Verb::TernaryAdd, B::quantized_size(x), 1, [B::ternary_size(weights)].into_iter()));
        self.backend.ternary_add(x, weights, branch, out);
        end(begun);
    }

    fn ternary_gated(
        &self,
        x: &B::Quantized,
        weights: [&B::Ternary; 2],
        activation: Activation,
        gate: &mut B::Rows,
        up: &mut B::Rows,
    ) {
        let begun = self
            .begin(|| product(Verb::TernaryGated, B::quantized_size(x), 1, weights.into_iter().map(B::ternary_size)));
        self.backend.ternary_gated(x, weights, activation, gate, up);
        end(begun);
    }

    fn dense_matmul(&self, x: &B::Rows, weights: &[&B::Dense], outs: &mut [&mut B::Rows]) {
        let sizes = || weights.iter().map(|w| B::dense_size(w));
        let begun = self.begin(|| product(Verb::DenseMatmul, B::rows_size(x), FLOAT, sizes()));
        self.backend.dense_matmul(x, weights, outs);
        end(begun);
    }

    fn rope_store(
        &self,
        q: &mut B::Rows,
        k: &B::Rows,
        v: &B::Rows,
        rope: &RopeTable,
        batch: &Batch,
        layer: usize,
        kv: &mut B::Kv,
    ) {
        let begun = self.begin(|| {
            let shape = B::kv_shape(kv);
            let (heads, kv_heads) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
            let floats = (2 * heads + 2 * kv_heads) * FLOAT; // q there and back, k and v
            let bytes = batch.tokens().len() as u64 * (floats as u64 + position_bytes(shape));
            Work { verb: Verb::RopeStore, cols: heads + 2 * kv_heads, rows: 2 * kv_heads, bytes, operations: 0 }
        });
        self.backend.rope_store(q, k, v, rope, batch, layer, kv);
        end(begun);
    }

    fn attend(
        &self,
        q: &B::Rows,
        kv: &B::Kv,
        batch: &Batch,
        layer: usize,
        scale: f32,
        window: Option<usize>,
        out: &mut B::Rows,
    ) {
        let begun = self.begin(|| attention(B::kv_shape(kv), batch, window));
        self.backend.attend(q, kv, batch, layer, scale, window, out);
        end(begun);
    }

    fn gated_activation(&self, activation: Activation, gate: &mut B::Rows, up: &B::Rows) {
        let begun = self.begin(|| plain(Verb::GatedActivation, B::rows_size(up), 3 * FLOAT));
        self.backend.gated_activation(activation, gate, up);
        end(begun);
    }

    fn add(&self, x: &mut B::Rows, y: &B::Rows) {
        let begun = self.begin(|| plain(Verb::Add, B::rows_size(y), 3 * FLOAT));
        self.backend.add(x, y);
        end(begun);
    }

    fn logits(
        &self,
        x: &B::Rows,
        rows: &[u32],
        norm: &B::Norm,
        head: &B::Dense,
        wanted: Wanted<'_>,
        out: &mut B::Rows,
    ) -> Computed {
        let begun = self.begin(|| {
            let cols = B::dense_size(head).1;
            product(Verb::Logits, (rows.len(), cols), FLOAT, [B::dense_size(head)].into_iter())
        });
        let computed = self.backend.logits(x, rows, norm, head, wanted, out);
        end(begun.map(|(tracker, begin, work)| {
            let bytes = work.bytes - B::dense_size(head).2 as u64 + computed.bytes;
            // how many products a selection takes is not known
            let operations = if computed.complete { work.operations } else { 0 };
            (tracker, begin, Work { bytes, operations, ..work })
        }));
        computed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitnet_kernels::{CpuOptions, KvFormat, TernaryScales};

    #[test]
    fn attention_by_hand() {
        let kv = KvShape { layers: 3, heads: 4, kv_heads: 2, head_dim: 16, pages: 2, format: KvFormat::F32 };
        // keys and values: 2 heads of 16 channels of 4 bytes each
        assert_eq!(position_bytes(kv), 2 * 2 * 16 * 4);
        let mut batch = Batch::default();
        batch.push(9, &[1], &[0], 1);
        let one = attention(kv, &batch, None);
        assert_eq!((one.bytes, one.operations), (10 * 256 + 2 * 64 * 4, 4 * 10 * 64));
        let windowed = attention(kv, &batch, Some(4));
        assert_eq!((windowed.bytes, windowed.operations), (4 * 256 + 2 * 64 * 4, 4 * 4 * 64));
        batch.clear();
        batch.push(0, &[1, 2, 3], &[0], 1); // they see 1, 2 and 3 positions
        let three = attention(kv, &batch, None);
        assert_eq!((three.bytes, three.operations), (3 * 256 + 3 * 2 * 64 * 4, 4 * 6 * 64));
        // the first token of a run with a window of 2 sees one position before it
        batch.clear();
        batch.push(5, &[1, 2, 3], &[0], 1);
        assert_eq!(attention(kv, &batch, Some(2)).bytes, 4 * 256 + 3 * 2 * 64 * 4);
    }

    fn ternary_product(track: bool) -> (Tracked<Cpu>, Vec<f32>) {
        let cpu = Cpu::new(CpuOptions { threads: Some(1), isa: None }).expect("a processor");
        let tracked = Tracked::new(cpu, track);
        let weights: Vec<i8> = (0..64 * 128).map(|i| (i % 3) as i8 - 1).collect();
        let weights = TernaryWeights::pack(&weights, 64, 128, TernaryScales::Tensor(1.0)).expect("codes");
        let matrix = tracked.ternary(weights).expect("valid");
        let mut x = tracked.rows(2, 128).expect("memory");
        x.set_len(2);
        x.data_mut().iter_mut().enumerate().for_each(|(i, x)| *x = i as f32);
        let (mut int8, mut out) = (tracked.quantized(2, 128).expect("memory"), tracked.rows(2, 64).expect("memory"));
        let step = tracked.step(Phase::Prompt, 2);
        tracked.norm_quantize(&x, None, &mut int8);
        tracked.ternary_matmul(&int8, &[&matrix, &matrix], &mut [&mut out, &mut tracked.rows(2, 64).expect("memory")]);
        drop(step);
        let data = out.data().to_vec();
        (tracked, data)
    }

    #[test]
    fn a_product_is_counted_and_computed() {
        let (tracked, data) = ternary_product(true);
        assert_eq!(data, ternary_product(false).1, "the same bits");
        let report = tracked.tracker().expect("tracked").report(std::time::Duration::ZERO);
        let product = report.operations.iter().find(|o| o.verb == Verb::TernaryMatmul).expect("counted");
        assert_eq!((product.calls, product.cols, product.rows), (1, 128, 128));
        // two matrices of 64 × 128 at 2 bits, two tokens of 128 bytes, results of 4 bytes
        assert_eq!(product.bytes, 2 * 64 * 128 / 4 + 2 * 128 + 2 * 128 * 4);
        assert_eq!(product.operations, 2 * 2 * 128 * 128);
        let quantize = report.operations.iter().find(|o| o.verb == Verb::NormQuantize).expect("counted");
        assert_eq!((quantize.bytes, quantize.operations), (2 * 128 * 5, 0));
    }

    #[test]
    fn nothing_is_kept_when_it_is_off() {
        let (tracked, _) = ternary_product(false);
        assert!(tracked.tracker().is_none());
        assert!(tracked.step(Phase::Decode, 1).is_none());
    }
}
