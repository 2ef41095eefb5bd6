//! The shape and the choices of a network, read from metadata and never guessed from tensors.

use bitnet_kernels::{Activation, RopeStyle};

/// What a linear layer is fed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// Per-token absmax int8: what BitNet models are trained with.
    Int8,
    /// Floats, as trained without activation quantisation (TriLM, dense models).
    Float,
}

/// How an embedding model makes one vector of many hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The last token's state.
    Last,
    /// The mean over all tokens.
    Mean,
}

/// A decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Architecture as the file spells it (`bitnet-b1.58`, `llama`, `qwen3`, `gemma3` …).
    pub architecture: String,
    /// Name of the model, if the file or the catalogue gives one.
    pub name: Option<String>,
    /// Hidden width.
    pub hidden: usize,
    /// Feed-forward width.
    pub ffn: usize,
    /// Decoder blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Channels per head.
    pub head_dim: usize,
    /// Vocabulary entries.
    pub vocab: usize,
    /// Positions the model was trained for.
    pub context: usize,
    /// RMSNorm epsilon.
    pub norm_eps: f32,
    /// Rotary base frequency.
    pub rope_theta: f32,
    /// Rotary pairing of the weights as they lie in the file.
    pub rope_style: RopeStyle,
    /// Gate non-linearity.
    pub activation: Activation,
    /// What ternary layers are fed with.
    pub activations: Activations,
    /// Factor on embeddings (Gemma: `sqrt(hidden)`).
    pub embed_scale: f32,
    /// Factor on attention scores (`1 / sqrt(head_dim)` unless the model says otherwise).
    pub attention_scale: f32,
    /// The output head is the embedding table.
    pub tied_head: bool,
    /// Set for embedding models, which have no use for logits.
    pub pooling: Option<Pooling>,
}
