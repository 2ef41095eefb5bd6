//! Weights and the forward pass.

use crate::{Config, ModelError};
use bitnet_formats::Checkpoint;
use bitnet_kernels::{Backend, Batch};
use std::marker::PhantomData;

/// Choices at load; the defaults follow the file and the catalogue.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Reads I2_S in another layout than the published one.
    pub i2s_layout: Option<bitnet_formats::I2sLayout>,
    /// Overrides what ternary layers are fed with.
    pub activations: Option<crate::Activations>,
    /// Overrides the gate non-linearity.
    pub activation: Option<bitnet_kernels::Activation>,
    /// Overrides the direction of HF weight scales: true = `weight = code / scale`.
    pub inverse_scale: Option<bool>,
}

/// A loaded network on a backend.
pub struct Model<B: Backend> {
    backend: B,
    config: Config,
}

/// How much working memory a [`State`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateShape {
    /// Tokens per forward step (prompts are cut into chunks of this).
    pub max_tokens: usize,
    /// Rows of logits per step.
    pub max_logits: usize,
    /// KV pages of [`bitnet_kernels::PAGE_LEN`] positions.
    pub kv_pages: usize,
}

/// Bytes a model needs, as computed before anything is allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights used in place from the memory map.
    pub mapped_weights: u64,
    /// Weights that are converted or copied at load.
    pub owned_weights: u64,
    /// KV cache.
    pub kv: u64,
    /// Activation buffers.
    pub activations: u64,
}

/// Activation buffers and KV cache: all memory a forward step touches besides weights.
pub struct State<B: Backend> {
    _backend: PhantomData<B>,
}

impl<B: Backend> Model<B> {
    /// Reads the config, checks every tensor against it and hands the weights to the backend.
    ///
    /// # Errors
    /// Unknown architecture, missing or misshapen tensors, illegal codes, non-finite scales or norms.
    pub fn load(checkpoint: &Checkpoint, backend: B, options: &LoadOptions) -> Result<Self, ModelError> {
        let _ = (checkpoint, backend, options);
        todo!()
    }

    /// Remarks worth showing to a person: catalogue entry used, metadata overridden and why.
    pub fn notes(&self) -> &[String] {
        todo!()
    }

    /// The network's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it runs.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Bytes for weights and for a state of the given shape.
    pub fn plan(&self, shape: StateShape) -> MemoryPlan {
        let _ = shape;
        todo!()
    }

    /// Bytes of weights read for one decoded token (the decode bound is this over the memory bandwidth).
    pub fn bytes_per_token(&self) -> u64 {
        todo!()
    }

    /// Makes working memory.
    ///
    /// # Errors
    /// When it cannot be reserved.
    pub fn state(&self, shape: StateShape) -> Result<State<B>, ModelError> {
        let _ = shape;
        todo!()
    }

    /// One step: runs every token of `batch` through all blocks, stores keys and values, and leaves logits of the
    /// batch's logit rows in `state`. Allocates nothing.
    pub fn forward(&self, state: &mut State<B>, batch: &Batch) {
        let _ = (state, batch);
        todo!()
    }

    /// Copies the logits of the last step, `[logit rows, vocab]`, into `out`.
    pub fn read_logits(&self, state: &State<B>, out: &mut [f32]) {
        let _ = (state, out);
        todo!()
    }

    /// Like [`forward`](Self::forward) without a head: copies the final-norm hidden states of all rows,
    /// `[tokens, hidden]`, into `out` (embedding models).
    pub fn hidden(&self, state: &mut State<B>, batch: &Batch, out: &mut [f32]) {
        let _ = (state, batch, out);
        todo!()
    }

    /// Copies KV page `from` to `to` in every layer.
    pub fn copy_page(&self, state: &mut State<B>, from: u32, to: u32) {
        let _ = (state, from, to);
        todo!()
    }
}
