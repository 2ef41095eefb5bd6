//! Configuration from GGUF metadata (formats.md §5).

use super::{Activations, Config, Pooling, ProjectionForm, RopeScaling, Sliding, activation, holds_i2s};
use crate::ModelError;
use bitnet_formats::{Checkpoint, gguf::Metadata};
use bitnet_kernels::{Activation, RopeStyle};
use std::collections::BTreeSet;

const SUPPORTED: &str = "bitnet, bitnet-25, bitnet-b1.58, llama, qwen3, gemma3";

pub(super) fn read(
    metadata: &Metadata,
    checkpoint: &Checkpoint,
    notes: &mut Vec<String>,
) -> Result<Config, ModelError> {
    let Some(arch) = metadata.string("general.architecture")? else {
        return Err(ModelError::Config(
            "metadata has no general.architecture, so nothing says what this model is".into(),
        ));
    };
    let family = match arch {
        "bitnet" | "bitnet-25" | "bitnet-b1.58" | "bitnet-1.58" => Family::BitNet,
        "llama" => Family::Llama,
        "qwen3" => Family::Qwen3,
        "gemma3" => Family::Gemma3,
        _ => {
            return Err(ModelError::Config(format!("architecture {arch:?} is not supported (supported: {SUPPORTED})")));
        }
    };
    let keys = Keys { metadata, arch };
    if keys.u64("expert_count")?.is_some_and(|experts| experts > 0) {
        return Err(ModelError::Config(format!("{arch} with experts (mixture of experts) is not supported")));
    }

    let hidden = keys.size("embedding_length")?;
    let layers = keys.size("block_count")?;
    let heads = keys.size("attention.head_count")?;
    let kv_heads = match keys.u64("attention.head_count_kv")? {
        Some(n) => to_usize(n),
        None => heads,
    };
    let head_dim = match keys.u64("attention.key_length")? {
        Some(n) => to_usize(n),
        None if heads > 0 && hidden % heads == 0 => hidden / heads,
        None => {
            return Err(ModelError::Config(format!(
                "embedding length {hidden} is not a multiple of {heads} heads and {arch}.attention.key_length is absent"
            )));
        }
    };
    if let Some(values) = keys.u64("attention.value_length")?
        && values != head_dim as u64
    {
        return Err(ModelError::Config(format!(
            "keys of {head_dim} and values of {values} channels per head: different sizes are not supported"
        )));
    }

    let vocab = vocabulary(&keys, checkpoint)?;
    let activation = match keys.string("hidden_activation")? {
        Some(name) => activation(name)?,
        None => match (arch, family) {
            ("bitnet-25" | "bitnet-b1.58" | "bitnet-1.58", _) => Activation::Relu2,
            (_, Family::Gemma3) => Activation::GeluTanh,
            _ => Activation::Silu,
        },
    };

    let rope_theta = keys.f32("rope.freq_base")?.unwrap_or(10000.0);
    let in_norms = checkpoint.tensors.keys().any(|name| name.ends_with("_norm_in.weight"));
    let norm_eps = keys.require_f32("attention.layer_norm_rms_epsilon")?;
    let in_norm_eps = match metadata.f32("bitnet.norm_in_epsilon")? {
        _ if !in_norms => None,
        Some(eps) => Some(eps),
        None => Some(norm_eps),
    };
    let gemma = family == Family::Gemma3;
    Ok(Config {
        architecture: arch.to_string(),
        name: metadata.string("general.name")?.map(str::to_string),
        hidden,
        ffn: keys.size("feed_forward_length")?,
        layers,
        heads,
        kv_heads,
        head_dim,
        vocab,
        context: keys.size("context_length")?,
        norm_eps,
        rope_theta,
        rope_dim: keys.u64("rope.dimension_count")?.map_or(head_dim, to_usize),
        rope_scaling: rope_scaling(&keys)?,
        rope_style: if family == Family::Llama { RopeStyle::Interleaved } else { RopeStyle::Neox },
        sliding: if gemma { sliding(&keys, layers)? } else { None },
        activation,
        activations: activations(metadata, in_norms || family == Family::BitNet || holds_i2s(checkpoint))?,
        projections: ProjectionForm::AsStored,
        float_projections: BTreeSet::new(),
        sub_norms: family == Family::BitNet,
        qk_norms: matches!(family, Family::Qwen3 | Family::Gemma3),
        post_norms: gemma,
        in_norm_eps,
        // the converter adds the 1
        offset_norms: false,
        embed_scale: if gemma { (hidden as f32).sqrt() } else { 1.0 },
        attention_scale: keys.f32("attention.scale")?.unwrap_or(1.0 / (head_dim as f32).sqrt()),
        tied_head: !checkpoint.tensors.contains_key("output.weight"),
        pooling: pooling(&keys, in_norms, notes)?,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    BitNet,
    Llama,
    Qwen3,
    Gemma3,
}

/// Metadata under the architecture's prefix.
struct Keys<'a> {
    metadata: &'a Metadata,
    arch: &'a str,
}

impl<'a> Keys<'a> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }
    fn u64(&self, name: &str) -> Result<Option<u64>, ModelError> {
        Ok(self.metadata.u64(&self.key(name))?)
    }
    fn f32(&self, name: &str) -> Result<Option<f32>, ModelError> {
        Ok(self.metadata.f32(&self.key(name))?)
    }
    fn string(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        Ok(self.metadata.string(&self.key(name))?)
    }
    fn size(&self, name: &str) -> Result<usize, ModelError> {
        self.u64(name)?.map(to_usize).ok_or_else(|| self.missing(name))
    }
    fn require_f32(&self, name: &str) -> Result<f32, ModelError> {
        self.f32(name)?.ok_or_else(|| self.missing(name))
    }
    fn missing(&self, name: &str) -> ModelError {
        ModelError::Config(format!("metadata lacks {}", self.key(name)))
    }
}

/// Saturates: [`Config::check`] refuses absurd sizes by value.
fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Embedding rows; the declared vocabulary size and the token list must agree with them.
fn vocabulary(keys: &Keys<'_>, checkpoint: &Checkpoint) -> Result<usize, ModelError> {
    let Some(table) = checkpoint.tensors.get("token_embd.weight") else {
        return Err(ModelError::Config(
            "tensor token_embd.weight is missing: this file holds a vocabulary or a part of a model, not a model"
                .into(),
        ));
    };
    let (rows, _) = table.matrix();
    let declared = keys.u64("vocab_size")?.map(|n| ("vocab_size", n));
    let tokens = keys.metadata.strings("tokenizer.ggml.tokens")?.map(|t| ("tokenizer.ggml.tokens", t.len() as u64));
    for (what, n) in [declared, tokens].into_iter().flatten() {
        if n != rows as u64 {
            return Err(ModelError::Config(format!("{what} gives {n} tokens, but token_embd.weight has {rows} rows")));
        }
    }
    Ok(rows)
}

/// The key written by our own `convert` wins; otherwise BitNet architectures, norms inside projections and I2_S mean
/// int8.
fn activations(metadata: &Metadata, trained_with_int8: bool) -> Result<Activations, ModelError> {
    match metadata.string("bitnet.activations")? {
        Some("int8") => Ok(Activations::Int8),
        Some("float") => Ok(Activations::Float),
        Some(other) => {
            Err(ModelError::Config(format!("bitnet.activations is {other:?}, expected \"int8\" or \"float\"")))
        }
        None if trained_with_int8 => Ok(Activations::Int8),
        None => Ok(Activations::Float),
    }
}

fn rope_scaling(keys: &Keys<'_>) -> Result<RopeScaling, ModelError> {
    // a key written by our own `convert`
    if let Some(parameters) = keys.metadata.f32s("bitnet.rope_scaling_llama3")? {
        let &[factor, low_freq_factor, high_freq_factor, original_context] = parameters else {
            let found = parameters.len();
            return Err(ModelError::Config(format!("bitnet.rope_scaling_llama3 has {found} numbers, expected 4")));
        };
        return Ok(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context });
    }
    match keys.string("rope.scaling.type")? {
        Some("none") => Ok(RopeScaling::None),
        // as llama.cpp: a factor alone is linear, and older files have another key for it
        None => match keys.f32("rope.scaling.factor")?.or(keys.f32("rope.scale_linear")?) {
            None | Some(0.0 | 1.0) => Ok(RopeScaling::None),
            Some(factor) => Ok(RopeScaling::Linear(factor)),
        },
        Some("linear") => Ok(RopeScaling::Linear(keys.require_f32("rope.scaling.factor")?)),
        Some(other) => Err(ModelError::Config(format!(
            "rotary scaling {other:?} is not supported (supported: none, linear, and llama3 as tensor rope_freqs.weight)"
        ))),
    }
}

/// Gemma3 interleaves sliding and full attention; without a window every block sees everything.
fn sliding(keys: &Keys<'_>, layers: usize) -> Result<Option<Sliding>, ModelError> {
    let Some(window) = keys.u64("attention.sliding_window")?.filter(|&w| w > 0) else { return Ok(None) };
    let pattern = keys.u64("attention.sliding_window_pattern")?.unwrap_or(6).max(1);
    Ok(Some(Sliding {
        window: to_usize(window),
        rope_theta: keys.f32("rope.freq_base_swa")?.unwrap_or(10000.0),
        // a bound before the count is checked: more entries than this are refused
        layers: (0..layers.min(super::MAX_LAYERS) as u64).map(|layer| (layer + 1) % pattern != 0).collect(),
    }))
}

fn pooling(keys: &Keys<'_>, in_norms: bool, notes: &mut Vec<String>) -> Result<Option<Pooling>, ModelError> {
    match keys.u64("pooling_type")? {
        Some(1) => {
            if in_norms {
                notes.push(
                    "pooling_type says mean and is followed; the model card of BitNet-embedding says last token: \
                     files converted without the pooling file carry mean by accident"
                        .into(),
                );
            }
            Ok(Some(Pooling::Mean))
        }
        Some(3) => Ok(Some(Pooling::Last)),
        None if in_norms => {
            notes.push("embedding model without pooling_type: last token, as the model card says".into());
            Ok(Some(Pooling::Last))
        }
        // 0 says that this is no embedding model, even with norms inside projections (`use_rms_norm`)
        Some(0) | None => Ok(None),
        Some(other) => {
            Err(ModelError::Config(format!("pooling_type {other} is not supported (supported: 1 mean, 3 last)")))
        }
    }
}
