//! The CPU backend: instruction-set tier, threads, buffers, and the verbs' entry points.

mod buffers;
mod kv;
pub(crate) mod self_test;

use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    all(target_arch = "wasm32", target_feature = "simd128")
))]
pub(crate) use buffers::UNIT;
pub use buffers::{Quantized, Rows};
pub(crate) use buffers::{QuantizedRow, RowScale, SUM_LEN, position};
pub use kv::Kv;
pub(crate) use kv::{ROUND, quantize as quantize_head};
pub use self_test::self_test;

use crate::attend::Attention;
use crate::rope_store::Rotations;
use crate::threads::Pool;
use crate::{
    Activation, Backend, Batch, Computed, Cores, Dense, DenseWeights, Isa, KernelError, KvShape, NormWeight, RopeTable,
    Ternary, TernaryWeights, Wanted,
};
use crate::{add, attend, dense_matmul, embed, gated_activation, logits, norm, quantize, rope_store, ternary_matmul};

/// How to set up a [`Cpu`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Worker threads, the calling thread included; by default those of [`Cores`].
    pub threads: Option<usize>,
    /// Instruction-set tier; by default the best that the processor has.
    pub isa: Option<Isa>,
}

impl CpuOptions {
    /// Reads `RAYON_NUM_THREADS` (ignored, as Rayon does, when it is zero or no number) and `BITNET_ISA`.
    pub fn from_env() -> Result<CpuOptions, KernelError> {
        let threads = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.trim().parse().ok()).filter(|&n| n > 0);
        let isa = match std::env::var("BITNET_ISA") {
            Ok(name) if !name.is_empty() => Some(name.parse()?),
            _ => None,
        };
        Ok(CpuOptions { threads, isa })
    }
}

/// The CPU backend.
pub struct Cpu {
    isa: Isa,
    pool: Pool,
    /// Rows gathered by `logits`. Grows when weights are loaded, so that no verb allocates.
    scratch: Mutex<Vec<f32>>,
    /// Rotations that all layers of a step share. Grows when a KV cache is made.
    rotations: Mutex<Rotations>,
    /// What attention keeps between its steps when it is split along the context. Grows as `rotations` does.
    attention: Mutex<Attention>,
}

impl Cpu {
    /// Starts the worker threads and chooses the tier. A tier that fails [`self_test`] is not used: without a wish the
    /// next one is taken, with a warning.
    pub fn new(options: CpuOptions) -> Result<Cpu, KernelError> {
        let threads = match options.threads {
            Some(threads) => threads.max(1),
            None => Cores::detect().threads(),
        };
        let isa = match options.isa {
            Some(isa) => self_test(isa).map(|()| isa)?,
            None => best_sound_tier(),
        };
        let pool = Pool::new(threads).map_err(|source| KernelError::Threads { threads, source })?;
        Ok(Cpu { isa, pool, scratch: Mutex::default(), rotations: Mutex::default(), attention: Mutex::default() })
    }

    /// The instruction-set tier in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads that work on a verb, the calling thread included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    pub(crate) fn scratch(&self) -> MutexGuard<'_, Vec<f32>> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn reserve_scratch(&self, len: usize) -> Result<(), KernelError> {
        let mut scratch = self.scratch();
        let len = len.max(scratch.len());
        let more = len - scratch.len();
        scratch
            .try_reserve_exact(more)
            .map_err(|_| KernelError::Memory { what: "normed rows", bytes: len.saturating_mul(size_of::<f32>()) })?;
        scratch.resize(len, 0.0);
        Ok(())
    }

    pub(crate) fn rotations(&self) -> MutexGuard<'_, Rotations> {
        self.rotations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn attention(&self) -> MutexGuard<'_, Attention> {
        self.attention.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }
}

/// The best tier that computes what the scalar oracle computes.
fn best_sound_tier() -> Isa {
    for isa in Isa::available() {
        match self_test(isa) {
            Ok(()) => return isa,
            Err(error) => tracing::warn!("{error}; trying the next tier"),
        }
    }
    Isa::Scalar
}

impl Backend for Cpu {
    type Rows = Rows;
    type Quantized = Quantized;
    type Ternary = Ternary;
    type Dense = Dense;
    type Norm = NormWeight;
    type Kv = Kv;

    fn rows(&self, capacity: usize, cols: usize) -> Result<Rows, KernelError> {
        Rows::new(capacity, cols)
    }

    fn quantized(&self, capacity: usize, cols: usize) -> Result<Quantized, KernelError> {
        Quantized::new(capacity, cols)
    }

    fn kv(&self, shape: KvShape) -> Result<Kv, KernelError> {
        self.rotations().reserve(shape)?;
        self.attention().reserve(shape)?;
        Kv::new(shape)
    }

    fn ternary(&self, weights: TernaryWeights) -> Result<Ternary, KernelError> {
        ternary_matmul::load(self, weights)
    }

    fn dense(&self, weights: DenseWeights) -> Result<Dense, KernelError> {
        dense_matmul::load(self, weights)
    }

    fn head(&self, weights: DenseWeights) -> Result<Dense, KernelError> {
        dense_matmul::load_head(self, weights)
    }

    fn norm_weight(&self, norm: NormWeight) -> Result<NormWeight, KernelError> {
        Ok(norm)
    }

    fn read(&self, rows: &Rows, out: &mut [f32]) {
        out.copy_from_slice(rows.data());
    }

    fn copy_page(&self, kv: &mut Kv, from: u32, to: u32) {
        kv.copy_page(from, to);
    }

    fn embed(&self, table: &Dense, ids: &[u32], scale: f32, out: &mut Rows) {
        embed::run(self, table, ids, scale, out);
    }

    fn norm(&self, x: &Rows, norm: &NormWeight, out: &mut Rows) {
        norm::run(self, x, norm, out);
    }

    fn norm_quantize(&self, x: &Rows, norm: Option<&NormWeight>, out: &mut Quantized) {
        quantize::run(self, x, norm, out);
    }

    fn ternary_matmul(&self, x: &Quantized, weights: &[&Ternary], outs: &mut [&mut Rows]) {
        ternary_matmul::run(self, x, weights, outs);
    }

    fn ternary_add(&self, x: &Quantized, weights: &Ternary, branch: &mut Rows, out: &mut Rows) {
        ternary_matmul::run_add(self, x, weights, branch, out);
    }

    fn ternary_gated(
        &self,
        x: &Quantized,
        weights: [&Ternary; 2],
        activation: Activation,
        gate: &mut Rows,
        up: &mut Rows,
    ) {
        ternary_matmul::run_gated(self, x, weights, activation, gate, up);
    }

    fn dense_matmul(&self, x: &Rows, weights: &[&Dense], outs: &mut [&mut Rows]) {
        dense_matmul::run(self, x, weights, outs);
    }

    fn rope_store(&self, q: &mut Rows, k: &Rows, v: &Rows, rope: &RopeTable, batch: &Batch, layer: usize, kv: &mut Kv) {
        rope_store::run(self, q, k, v, rope, batch, layer, kv);
    }

    fn attend(
        &self,
        q: &Rows,
        kv: &Kv,
        batch: &Batch,
        layer: usize,
        scale: f32,
        window: Option<usize>,
        out: &mut Rows,
    ) {
        attend::run(self, q, kv, batch, layer, scale, window, out);
    }

    fn gated_activation(&self, activation: Activation, gate: &mut Rows, up: &Rows) {
        gated_activation::run(self, activation, gate, up);
    }

    fn add(&self, x: &mut Rows, y: &Rows) {
        add::run(self, x, y);
    }

    fn logits(
        &self,
        x: &Rows,
        rows: &[u32],
        norm: &NormWeight,
        head: &Dense,
        wanted: Wanted<'_>,
        out: &mut Rows,
    ) -> Computed {
        logits::run(self, x, rows, norm, head, wanted, out)
    }
}
