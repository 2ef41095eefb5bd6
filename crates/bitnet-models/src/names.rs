//! What the tensors of a network are called: one table for GGUF and Hugging Face checkpoints (formats.md §5.3).

use crate::Config;
use bitnet_formats::{Checkpoint, Source};
use std::fmt;

/// A linear layer of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Projection {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

impl Projection {
    /// All seven, in the order of the forward pass.
    pub const ALL: [Projection; 7] = [
        Projection::Query,
        Projection::Key,
        Projection::Value,
        Projection::Output,
        Projection::Gate,
        Projection::Up,
        Projection::Down,
    ];

    fn gguf(self) -> &'static str {
        match self {
            Projection::Query => "attn_q",
            Projection::Key => "attn_k",
            Projection::Value => "attn_v",
            Projection::Output => "attn_output",
            Projection::Gate => "ffn_gate",
            Projection::Up => "ffn_up",
            Projection::Down => "ffn_down",
        }
    }

    /// The projection that a Hugging Face module name stands for, and its block: `model.layers.0.self_attn.q_proj`.
    pub(crate) fn of_module(module: &str) -> Option<(usize, Projection)> {
        let name = module.strip_prefix("model.").unwrap_or(module);
        let (layer, name) = name.strip_prefix("layers.")?.split_once('.')?;
        let projection = Projection::ALL.into_iter().find(|projection| projection.hugging_face() == name)?;
        Some((layer.parse().ok()?, projection))
    }

    /// Its Hugging Face module name in a block.
    pub(crate) fn module(self, layer: usize) -> String {
        format!("model.layers.{layer}.{}", self.hugging_face())
    }

    fn hugging_face(self) -> &'static str {
        match self {
            Projection::Query => "self_attn.q_proj",
            Projection::Key => "self_attn.k_proj",
            Projection::Value => "self_attn.v_proj",
            Projection::Output => "self_attn.o_proj",
            Projection::Gate => "mlp.gate_proj",
            Projection::Up => "mlp.up_proj",
            Projection::Down => "mlp.down_proj",
        }
    }
}

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Embedding table `[vocab, hidden]`.
    Embedding,
    /// Norm in front of the head `[hidden]`.
    FinalNorm,
    /// Output head `[vocab, hidden]`.
    Head,
    /// Divisors of the rotary frequencies `[rope_dim / 2]` (GGUF only).
    RopeFactors,
    /// A tensor of block `.0`.
    Block(usize, BlockRole),
}

/// What a tensor of a block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockRole {
    /// Norm in front of attention `[hidden]`.
    AttentionNorm,
    /// Per-head query norm `[head_dim]`.
    QueryNorm,
    /// Per-head key norm `[head_dim]`.
    KeyNorm,
    /// Norm in front of the output projection `[heads * head_dim]`.
    AttentionSubNorm,
    /// Norm on the attention branch `[hidden]` (Gemma3).
    PostAttentionNorm,
    /// Norm in front of the feed-forward branch `[hidden]`.
    FfnNorm,
    /// Norm in front of the down projection `[ffn]`.
    FfnSubNorm,
    /// Norm on the feed-forward branch `[hidden]` (Gemma3).
    PostFfnNorm,
    /// Weights of a projection.
    Weight(Projection),
    /// The scale beside a projection, `[1]`.
    Scale(Projection),
    /// Norm inside a projection `[in features]`.
    InNorm(Projection),
}

impl BlockRole {
    /// The norms of a block outside of its projections.
    pub(crate) const NORMS: [BlockRole; 8] = [
        BlockRole::AttentionNorm,
        BlockRole::FfnNorm,
        BlockRole::AttentionSubNorm,
        BlockRole::FfnSubNorm,
        BlockRole::QueryNorm,
        BlockRole::KeyNorm,
        BlockRole::PostAttentionNorm,
        BlockRole::PostFfnNorm,
    ];

    /// Channels of a norm; `None` when this network has none there.
    pub(crate) fn norm_width(self, config: &Config) -> Option<usize> {
        let (present, width) = match self {
            BlockRole::AttentionNorm | BlockRole::FfnNorm => (true, config.hidden),
            BlockRole::AttentionSubNorm => (config.sub_norms, config.query_width()),
            BlockRole::FfnSubNorm => (config.sub_norms, config.ffn),
            BlockRole::QueryNorm | BlockRole::KeyNorm => (config.qk_norms, config.head_dim),
            BlockRole::PostAttentionNorm | BlockRole::PostFfnNorm => (config.post_norms, config.hidden),
            BlockRole::InNorm(projection) => (config.in_norm_eps.is_some(), config.projection_shape(projection).1),
            BlockRole::Weight(_) | BlockRole::Scale(_) => (false, 0),
        };
        present.then_some(width)
    }
}

/// How a checkpoint names its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `blk.0.attn_q.weight`.
    Gguf,
    /// `model.layers.0.self_attn.q_proj.weight`.
    HuggingFace {
        /// Everything but the head stands under `model.` (not so in checkpoints of bare backbones).
        model_prefix: bool,
        /// Gemma3 has four norms per block, and `post_attention_layernorm` is another one than LLaMA's.
        gemma: bool,
    },
}

impl Naming {
    /// The naming of a checkpoint.
    pub fn of(checkpoint: &Checkpoint, post_norms: bool) -> Naming {
        match checkpoint.source {
            Source::Gguf(_) => Naming::Gguf,
            Source::HuggingFace(_) | Source::Llama2c(_) => Naming::HuggingFace {
                model_prefix: !checkpoint.tensors.contains_key("embed_tokens.weight"),
                gemma: post_norms,
            },
        }
    }

    /// Names under which a tensor may stand, the usual one first. Empty when this naming has no such tensor.
    pub fn candidates(self, role: Role) -> Vec<String> {
        match self {
            Naming::Gguf => match role {
                Role::Embedding => vec!["token_embd.weight".into()],
                Role::FinalNorm => vec!["output_norm.weight".into()],
                Role::Head => vec!["output.weight".into()],
                Role::RopeFactors => vec!["rope_freqs.weight".into()],
                Role::Block(layer, role) => vec![format!("blk.{layer}.{}", GgufBlock(role))],
            },
            Naming::HuggingFace { model_prefix, gemma } => {
                let prefix = if model_prefix { "model." } else { "" };
                match role {
                    Role::Embedding => vec![format!("{prefix}embed_tokens.weight")],
                    Role::FinalNorm => vec![format!("{prefix}norm.weight")],
                    Role::Head => vec!["lm_head.weight".into()],
                    Role::RopeFactors => vec![],
                    Role::Block(layer, role) => hugging_face_block(role, gemma)
                        .into_iter()
                        .map(|name| format!("{prefix}layers.{layer}.{name}"))
                        .collect(),
                }
            }
        }
    }

    /// The usual name of a tensor.
    pub fn name(self, role: Role) -> Option<String> {
        self.candidates(role).into_iter().next()
    }
}

struct GgufBlock(BlockRole);

impl fmt::Display for GgufBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let norm = match self.0 {
            BlockRole::Weight(p) => return write!(f, "{}.weight", p.gguf()),
            BlockRole::Scale(p) => return write!(f, "{}.scale", p.gguf()),
            BlockRole::InNorm(p) => return write!(f, "{}_norm_in.weight", p.gguf()),
            BlockRole::AttentionNorm => "attn_norm",
            BlockRole::QueryNorm => "attn_q_norm",
            BlockRole::KeyNorm => "attn_k_norm",
            BlockRole::AttentionSubNorm => "attn_sub_norm",
            BlockRole::PostAttentionNorm => "post_attention_norm",
            BlockRole::FfnNorm => "ffn_norm",
            BlockRole::FfnSubNorm => "ffn_sub_norm",
            BlockRole::PostFfnNorm => "post_ffw_norm",
        };
        write!(f, "{norm}.weight")
    }
}

fn hugging_face_block(role: BlockRole, gemma: bool) -> Vec<String> {
    let norms: &[&str] = match role {
        BlockRole::Weight(p) => return vec![format!("{}.weight", p.hugging_face())],
        BlockRole::Scale(p) => return vec![format!("{}.weight_scale", p.hugging_face())],
        // BitNet-embedding, and `use_rms_norm` of transformers
        BlockRole::InNorm(p) => {
            return vec![format!("{}.norm.weight", p.hugging_face()), format!("{}.rms_norm.weight", p.hugging_face())];
        }
        BlockRole::AttentionNorm => &["input_layernorm"],
        BlockRole::QueryNorm => &["self_attn.q_norm"],
        BlockRole::KeyNorm => &["self_attn.k_norm"],
        // 2B-4T, 1bitLLM
        BlockRole::AttentionSubNorm => &["self_attn.attn_sub_norm", "self_attn.inner_attn_ln"],
        BlockRole::FfnSubNorm => &["mlp.ffn_sub_norm", "mlp.ffn_layernorm"],
        BlockRole::PostAttentionNorm if gemma => &["post_attention_layernorm"],
        BlockRole::PostFfnNorm if gemma => &["post_feedforward_layernorm"],
        BlockRole::FfnNorm if gemma => &["pre_feedforward_layernorm"],
        BlockRole::FfnNorm => &["post_attention_layernorm"],
        BlockRole::PostAttentionNorm | BlockRole::PostFfnNorm => &[],
    };
    norms.iter().map(|name| format!("{name}.weight")).collect()
}
