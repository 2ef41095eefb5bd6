//! The network: weights on a backend, and the forward pass.

use crate::block::{self, Block, Linear};
use crate::names::Role;
use crate::plan::MemoryPlan;
use crate::state::{Buffers, State, StateShape};
use crate::weights::{Loader, WeightBytes};
use crate::{Config, ModelError, adapter, rope};
use bitnet_formats::Checkpoint;
use bitnet_kernels::{Backend, Batch, Computed, RopeTable, Wanted};
use std::convert::Infallible;
use std::mem::swap;
use std::ops::Range;

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
    /// Reserves memory for finding the tokens that can be chosen without reading the whole output head: about a third of the
    /// head's bytes, touched with the second token that is chosen that way. By default for heads of 64 MiB or more.
    pub select_head: Option<bool>,
    /// A LoRA side-car in PEFT's form (a directory, or its safetensors file with `adapter_config.json` beside it), computed beside
    /// the weights and not merged into them.
    pub lora: Option<std::path::PathBuf>,
}

/// A loaded network on a backend.
pub struct Model<B: Backend> {
    backend: B,
    config: Config,
    notes: Vec<String>,
    bytes: WeightBytes,
    embedding: B::Dense,
    blocks: Vec<Block<B>>,
    rope: RopeTable,
    /// Of blocks with a sliding window.
    local_rope: RopeTable,
    final_norm: B::Norm,
    /// `None`: the embedding table.
    head: Option<B::Dense>,
}

/// A point of the forward pass at which the hidden state can be observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// After the embedding.
    Embedding,
    /// After a block.
    Block(usize),
}

impl<B: Backend> Model<B> {
    /// Reads the config, checks every tensor against it and hands the weights to the backend.
    ///
    /// # Errors
    /// Unknown architecture, missing, misshapen or unknown tensors, illegal codes, non-finite scales or norms.
    pub fn load(checkpoint: &Checkpoint, backend: B, options: &LoadOptions) -> Result<Self, ModelError> {
        let (config, notes) = Config::read(checkpoint, options)?;
        let mut loader = Loader::new(checkpoint, &config, options, notes);
        let embedding = loader.embedding()?;
        let is_head = config.tied_head && loader.selects(&embedding);
        let embedding = if is_head { backend.head(embedding) } else { backend.dense(embedding) };
        let embedding = embedding.map_err(|e| loader.refused(Role::Embedding, e))?;
        let head = match loader.head()? {
            Some(head) => {
                let head = if loader.selects(&head) { backend.head(head) } else { backend.dense(head) };
                Some(head.map_err(|e| loader.refused(Role::Head, e))?)
            }
            None => None,
        };
        let final_norm = block::norm(&mut loader, &backend, Role::FinalNorm, config.hidden)?;
        let factors = loader.rope_factors()?;
        let mut blocks = Block::load_all(&mut loader, &config, &backend)?;
        loader.finish()?;
        if let Some(path) = &options.lora {
            for weights in adapter::read(path, &config)? {
                loader.bytes.adapt(&weights);
                blocks[weights.layer].adapt(weights, &backend)?;
            }
        }
        let Loader { notes, bytes, .. } = loader;
        let (rope, local_rope) = rope::tables(&config, factors.as_deref());
        Ok(Model { backend, config, notes, bytes, embedding, blocks, rope, local_rope, final_norm, head })
    }

    /// Remarks worth showing to a person: catalogue entry used, metadata overridden and why.
    pub fn notes(&self) -> &[String] {
        &self.notes
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
        MemoryPlan::new(&self.config, &self.bytes, shape)
    }

    /// Bytes of weights read for one decoded token with all its logits.
    pub fn bytes_per_token(&self) -> u64 {
        self.bytes.per_token
    }

    /// The matrices that a step reads as a whole: those of all blocks, and the output head.
    pub fn matrices(&self) -> (Vec<&B::Ternary>, Vec<&B::Dense>) {
        let (mut ternary, mut dense) = (Vec::new(), vec![self.head.as_ref().unwrap_or(&self.embedding)]);
        for linear in self.blocks.iter().flat_map(Block::linears) {
            match linear {
                Linear::Ternary(weights) => ternary.extend(weights),
                Linear::Dense(weights) => dense.extend(weights),
            }
        }
        (ternary, dense)
    }

    /// Makes working memory.
    ///
    /// # Errors
    /// When it cannot be reserved.
    pub fn state(&self, shape: StateShape) -> Result<State<B>, ModelError> {
        State::new(&self.backend, &self.config, &self.bytes, shape)
            .map_err(|source| ModelError::Weights { tensor: "(working memory)".into(), source })
    }

    /// One step: runs every token of `batch` through all blocks, stores keys and values, and leaves logits of the
    /// batch's logit rows in `state`. Allocates nothing.
    pub fn forward(&self, state: &mut State<B>, batch: &Batch) {
        self.forward_observed(state, batch, &mut |_, _| {});
    }

    /// [`forward`](Self::forward) for those logits only that are wanted. The bytes are those of all weights that the step read.
    pub fn forward_wanted(&self, state: &mut State<B>, batch: &Batch, wanted: Wanted<'_>) -> Computed {
        let Ok(computed) = self.forward_from(0, state, batch, wanted, &mut |_| Ok::<_, Infallible>(()));
        computed
    }

    /// [`forward_wanted`](Self::forward_wanted) that can be left between two blocks: it asks before each but the first whether to go
    /// on. Told not to, it sets the hidden state aside, and the same batch goes on later from that block, after any number of
    /// other steps; one at a time can be left. A state with one row of logits, which has no others to leave for, never asks.
    ///
    /// # Errors
    /// What `go_on` answered to the number of the next block.
    pub fn forward_from<L>(
        &self,
        first: usize,
        state: &mut State<B>,
        batch: &Batch,
        wanted: Wanted<'_>,
        go_on: &mut impl FnMut(usize) -> Result<(), L>,
    ) -> Result<Computed, L> {
        if first > 0 {
            state.buffers.exchange_aside();
        }
        for block in first..self.blocks.len() {
            if block > first
                && state.buffers.aside.is_some()
                && let Err(left) = go_on(block)
            {
                state.buffers.exchange_aside();
                return Err(left);
            }
            self.run_blocks(block..block + 1, state, batch, &mut |_, _| {});
        }
        let computed = self.logits(state, batch, wanted);
        Ok(Computed { bytes: self.bytes.per_token - self.bytes.head + computed.bytes, ..computed })
    }

    /// [`forward`](Self::forward) that shows the hidden state `[tokens, hidden]` after the embedding and every block.
    pub fn forward_observed(&self, state: &mut State<B>, batch: &Batch, observe: &mut impl FnMut(Stage, &B::Rows)) {
        self.run_blocks(0..self.blocks.len(), state, batch, observe);
        self.logits(state, batch, Wanted::All);
    }

    fn logits(&self, state: &mut State<B>, batch: &Batch, wanted: Wanted<'_>) -> Computed {
        let Buffers { hidden, logits, .. } = &mut state.buffers;
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        self.backend.logits(hidden, batch.logit_rows(), &self.final_norm, head, wanted, logits)
    }

    /// Some of the blocks, the embedding before the first one.
    fn run_blocks(
        &self,
        layers: Range<usize>,
        state: &mut State<B>,
        batch: &Batch,
        observe: &mut impl FnMut(Stage, &B::Rows),
    ) {
        let Model { backend: b, config: c, .. } = self;
        let State { buffers, kv } = state;
        let Buffers { hidden, branch, q, k, v, attended, gate, up, lora, .. } = buffers;

        if layers.start == 0 {
            b.embed(&self.embedding, batch.tokens(), c.embed_scale, hidden);
            observe(Stage::Embedding, hidden);
        }
        for (layer, block) in self.blocks.iter().enumerate().take(layers.end).skip(layers.start) {
            // attention
            block.qkv.apply(b, hidden, Some(&block.attention_norm), &mut buffers.hidden_input, lora, [q, k, v]);
            if let Some((query_norm, key_norm)) = &block.query_key_norms {
                b.norm(q, query_norm, &mut buffers.q_normed);
                b.norm(k, key_norm, &mut buffers.k_normed);
                swap(q, &mut buffers.q_normed);
                swap(k, &mut buffers.k_normed);
            }
            let rope = if block.window.is_some() { &self.local_rope } else { &self.rope };
            b.rope_store(q, k, v, rope, batch, layer, kv);
            b.attend(q, kv, batch, layer, c.attention_scale, block.window, attended);
            let sub_norm = block.attention_sub_norm.as_ref();
            let input = &mut buffers.attended_input;
            match &block.post_attention_norm {
                None => block.output.add_to(b, attended, sub_norm, input, lora, branch, hidden),
                Some(norm) => {
                    block.output.apply(b, attended, sub_norm, input, lora, [&mut *branch]);
                    b.norm(branch, norm, &mut buffers.branch_normed);
                    b.add(hidden, &buffers.branch_normed);
                }
            }

            // feed-forward
            let input = &mut buffers.hidden_input;
            block.gate_up.gated(b, hidden, &block.ffn_norm, input, lora, c.activation, [gate, &mut *up]);
            let (sub_norm, input) = (block.ffn_sub_norm.as_ref(), &mut buffers.ffn_input);
            match &block.post_ffn_norm {
                None => block.down.add_to(b, gate, sub_norm, input, lora, branch, hidden),
                Some(norm) => {
                    block.down.apply(b, gate, sub_norm, input, lora, [&mut *branch]);
                    b.norm(branch, norm, &mut buffers.branch_normed);
                    b.add(hidden, &buffers.branch_normed);
                }
            }
            observe(Stage::Block(layer), hidden);
        }
    }

    /// Copies the logits of the last step, `[logit rows, vocab]`, into `out`.
    pub fn read_logits(&self, state: &State<B>, out: &mut [f32]) {
        self.backend.read(&state.buffers.logits, out);
    }

    /// Like [`forward`](Self::forward) without a head: copies the final-norm hidden states of all rows,
    /// `[tokens, hidden]`, into `out` (embedding models).
    pub fn hidden(&self, state: &mut State<B>, batch: &Batch, out: &mut [f32]) {
        self.run_blocks(0..self.blocks.len(), state, batch, &mut |_, _| {});
        // the branch is free again
        let Buffers { hidden, branch, .. } = &mut state.buffers;
        self.backend.norm(hidden, &self.final_norm, branch);
        self.backend.read(branch, out);
    }

    /// Copies KV page `from` to `to` in every layer.
    pub fn copy_page(&self, state: &mut State<B>, from: u32, to: u32) {
        self.backend.copy_page(&mut state.kv, from, to);
    }
}
