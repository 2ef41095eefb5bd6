//! Configuration from a Hugging Face `config.json` (formats.md §3).

use super::{Activations, Config, Pooling, ProjectionForm, RopeScaling, Sliding, activation};
use crate::ModelError;
use crate::names::Projection;
use bitnet_formats::{Checkpoint, Encoding, safetensors::HfConfig};
use bitnet_kernels::{Activation, RopeStyle};
use serde_json::Value;
use std::collections::BTreeSet;

const SUPPORTED: &str = "BitNetForCausalLM, BitnetForCausalLM (1bitLLM), LlamaForCausalLM, Qwen3ForCausalLM, \
                         Qwen3Model, Gemma3ForCausalLM, Gemma3TextModel";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    /// microsoft/bitnet-b1.58-2B-4T.
    BitNet,
    /// 1bitLLM/bitnet_b1_58-*: `model_type` says llama, the class and `weight_bits` tell the truth.
    OneBitLlm,
    Llama,
    Qwen3,
    Gemma3,
}

pub(super) fn read(hf: &HfConfig, checkpoint: &Checkpoint, notes: &mut Vec<String>) -> Result<Config, ModelError> {
    let json = Json(&hf.config);
    let (family, architecture) = family(json)?;
    if json.bool("attention_bias")? == Some(true) || json.bool("mlp_bias")? == Some(true) {
        return Err(ModelError::Config("projections with biases are not supported".into()));
    }
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if json.f32(key)?.is_some() {
            return Err(ModelError::Config(format!("{key} is not supported")));
        }
    }
    if json.bool("use_bidirectional_attention")? == Some(true) {
        return Err(ModelError::Config("bidirectional attention is not supported".into()));
    }

    let hidden = json.size("hidden_size")?;
    let layers = json.size("num_hidden_layers")?;
    let heads = json.size("num_attention_heads")?;
    let head_dim = match json.usize("head_dim")? {
        Some(n) => n,
        None if heads > 0 && hidden % heads == 0 => hidden / heads,
        None => {
            return Err(ModelError::Config(format!(
                "hidden_size {hidden} is not a multiple of {heads} heads and head_dim is absent"
            )));
        }
    };
    let act = json.string("hidden_activation")?.or(json.string("hidden_act")?);
    let activation = match (act, family) {
        (Some(name), _) => activation(name)?,
        (None, Family::BitNet) => Activation::Relu2,
        (None, Family::Gemma3) => Activation::GeluTanh,
        (None, _) => Activation::Silu,
    };
    // defaults of BitNetConfig; of LlamaConfig, Qwen3Config, Gemma3TextConfig
    let norm_eps = json.f32("rms_norm_eps")?.unwrap_or(if family == Family::BitNet { 1e-5 } else { 1e-6 });
    let (projections, in_norm_eps) = quantization(json, family, checkpoint, norm_eps, notes)?;
    let rope = rope(json, family)?;
    let gemma = family == Family::Gemma3;
    let sliding_theta = rope.local_theta.unwrap_or(if gemma { 10_000.0 } else { rope.theta }); // default of Gemma3TextConfig
    let attention_scalar = if gemma { json.f32("query_pre_attn_scalar")?.unwrap_or(256.0) } else { head_dim as f32 };
    Ok(Config {
        architecture,
        name: json.string("_name_or_path")?.filter(|name| !name.is_empty()).map(str::to_string),
        hidden,
        ffn: json.size("intermediate_size")?,
        layers,
        heads,
        kv_heads: json.usize("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        vocab: json.size("vocab_size")?,
        context: json.size("max_position_embeddings")?,
        norm_eps,
        rope_theta: rope.theta,
        rope_dim: (head_dim as f32 * rope.partial) as usize,
        rope_scaling: rope.scaling,
        rope_style: if family == Family::Llama { RopeStyle::Interleaved } else { RopeStyle::Neox },
        sliding: sliding(json, layers, gemma, sliding_theta)?,
        activation,
        activations: if projections == ProjectionForm::AsStored { Activations::Float } else { Activations::Int8 },
        projections,
        float_projections: float_projections(json)?,
        sub_norms: matches!(family, Family::BitNet | Family::OneBitLlm),
        qk_norms: matches!(family, Family::Qwen3 | Family::Gemma3),
        post_norms: gemma,
        in_norm_eps,
        offset_norms: gemma,
        embed_scale: if gemma { (hidden as f32).sqrt() } else { 1.0 },
        attention_scale: 1.0 / attention_scalar.sqrt(),
        tied_head: json.bool("tie_word_embeddings")?.unwrap_or(gemma),
        pooling: pooling(hf, json, notes)?,
    })
}

fn family(json: Json<'_>) -> Result<(Family, String), ModelError> {
    let class = json.0.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str);
    let model_type = json.string("model_type")?;
    // 1bitLLM checkpoints say model_type llama; a loader that believes it drops the sub-norms and does not quantise
    let family = if class == Some("BitnetForCausalLM") || json.usize("weight_bits")? == Some(1) {
        if let Some(bits) = json.usize("input_bits")?
            && bits != 8
        {
            return Err(ModelError::Config(format!("input_bits is {bits}: only 8-bit activations are supported")));
        }
        Family::OneBitLlm
    } else {
        match class {
            Some("BitNetForCausalLM") => Family::BitNet,
            Some("LlamaForCausalLM") => Family::Llama,
            Some("Qwen3ForCausalLM" | "Qwen3Model") => Family::Qwen3,
            Some("Gemma3ForCausalLM" | "Gemma3TextModel") => Family::Gemma3,
            Some(other) => {
                return Err(ModelError::Config(format!(
                    "model class {other} is not supported (supported: {SUPPORTED})"
                )));
            }
            None => match model_type {
                Some("bitnet") => Family::BitNet,
                Some("llama") => Family::Llama,
                Some("qwen3") => Family::Qwen3,
                Some("gemma3_text") => Family::Gemma3,
                other => {
                    let other = other.unwrap_or("(none)");
                    return Err(ModelError::Config(format!(
                        "config.json names no class, and model_type {other} is not supported (supported: {SUPPORTED})"
                    )));
                }
            },
        }
    };
    let name = class.or(model_type).unwrap_or("unnamed");
    Ok((family, name.to_string()))
}

/// The projections that `modules_to_not_convert` names.
fn float_projections(json: Json<'_>) -> Result<BTreeSet<(usize, Projection)>, ModelError> {
    let mut floats = BTreeSet::new();
    let config = json.0.get("quantization_config");
    let modules = config.and_then(|config| config.get("modules_to_not_convert")).and_then(Value::as_array);
    for module in modules.into_iter().flatten() {
        let module = module.as_str().unwrap_or_default();
        // heads and embeddings are never ternary here
        if matches!(module, "lm_head" | "embed_tokens" | "model.embed_tokens") {
            continue;
        }
        // transformers takes a name as a pattern: only the whole name of a projection cannot mean more than it says
        floats.insert(Projection::of_module(module).ok_or_else(|| {
            ModelError::Config(format!(
                "modules_to_not_convert names {module:?}: only lm_head, embed_tokens and projections by their whole name \
                 (model.layers.0.self_attn.q_proj) may stay unconverted"
            ))
        })?);
    }
    Ok(floats)
}

/// What the projections hold, and the epsilon of the norms inside them.
fn quantization(
    json: Json<'_>,
    family: Family,
    checkpoint: &Checkpoint,
    norm_eps: f32,
    notes: &mut Vec<String>,
) -> Result<(ProjectionForm, Option<f32>), ModelError> {
    // the embedding models carry `X_proj.norm.weight` without a key that announces it
    let embedding_norm = checkpoint.tensors.keys().any(|name| name.ends_with("_proj.norm.weight"));
    let in_norm = embedding_norm.then_some(norm_eps);
    let packed = checkpoint.tensors.values().any(|t| t.encoding == Encoding::U8 && t.name.ends_with("_proj.weight"));

    let Some(config) = json.0.get("quantization_config").filter(|v| !v.is_null()) else {
        return match family {
            _ if packed => Err(ModelError::Config(
                "projections are packed codes (uint8), but config.json has no quantization_config that says how".into(),
            )),
            Family::BitNet => {
                notes.push(
                    "config.json has no quantization_config; a BitNet class is ternary, so the weights are ternarised \
                     by absmean (transformers would run them as floats)"
                        .into(),
                );
                Ok((ProjectionForm::Master, in_norm))
            }
            Family::OneBitLlm => Ok((ProjectionForm::Master, in_norm)),
            _ if embedding_norm => {
                notes.push(
                    "config.json has no quantization_config; norms inside projections are those of BitNet embedding \
                     models, so the weights are ternarised by absmean"
                        .into(),
                );
                Ok((ProjectionForm::Master, in_norm))
            }
            _ => Ok((ProjectionForm::AsStored, in_norm)),
        };
    };

    let config = Json(config);
    match config.string("quant_method")? {
        Some("bitnet") => {}
        other => {
            let other = other.unwrap_or("(none)");
            return Err(ModelError::Config(format!("quant_method {other} is not supported (supported: bitnet)")));
        }
    }
    let auto = match config.string("linear_class")? {
        Some("autobitlinear") => true,
        None | Some("bitlinear") => false,
        Some(other) => {
            return Err(ModelError::Config(format!(
                "linear_class {other:?} is not supported (supported: bitlinear, autobitlinear)"
            )));
        }
    };
    let online = match config.string("quantization_mode")? {
        Some("online") => true,
        None | Some("offline") => false,
        Some(other) => {
            return Err(ModelError::Config(format!(
                "quantization_mode {other:?} is not supported (supported: online, offline)"
            )));
        }
    };
    let in_norm = match config.bool("use_rms_norm")? {
        Some(true) => Some(config.f32("rms_norm_eps")?.unwrap_or(1e-6)),
        _ => in_norm,
    };
    let form = match (online, packed) {
        (_, true) => ProjectionForm::HfPacked { inverse_scale: !auto },
        (true, false) => ProjectionForm::Master,
        (false, false) => {
            notes.push(
                "config.json announces packed weights, but they are floats: taken as master weights and ternarised \
                 by absmean"
                    .into(),
            );
            ProjectionForm::Master
        }
    };
    Ok((form, in_norm))
}

struct Rope {
    theta: f32,
    /// Base of sliding blocks.
    local_theta: Option<f32>,
    scaling: RopeScaling,
    /// Rotated share of a head.
    partial: f32,
}

/// transformers v4 spells `rope_theta` and `rope_scaling`, v5 `rope_parameters` (per layer type for Gemma3).
fn rope(json: Json<'_>, family: Family) -> Result<Rope, ModelError> {
    let default_theta = match family {
        Family::BitNet => 500_000.0,
        Family::Gemma3 => 1_000_000.0,
        Family::OneBitLlm | Family::Llama | Family::Qwen3 => 10_000.0,
    };
    let present = |key: &str| json.0.get(key).filter(|v| !v.is_null());
    let parameters = present("rope_parameters").or(present("rope_scaling")).map(Json);
    let full = match parameters {
        Some(p) => p.0.get("full_attention").map(Json).or(Some(p)),
        None => None,
    };
    let local = parameters.and_then(|p| p.0.get("sliding_attention")).map(Json);
    let pick = |inner: Option<Json<'_>>, key: &str| -> Result<Option<f32>, ModelError> {
        match inner {
            Some(inner) => inner.f32(key),
            None => Ok(None),
        }
    };
    let scaling = match full {
        None => RopeScaling::None,
        Some(p) => match p.string("rope_type")?.or(p.string("type")?) {
            None | Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear(p.require_f32("factor")?),
            Some("llama3") => RopeScaling::Llama3 {
                factor: p.require_f32("factor")?,
                low_freq_factor: p.require_f32("low_freq_factor")?,
                high_freq_factor: p.require_f32("high_freq_factor")?,
                original_context: p.require_f32("original_max_position_embeddings")?,
            },
            Some(other) => {
                return Err(ModelError::Config(format!(
                    "rotary scaling {other:?} is not supported (supported: default, linear, llama3)"
                )));
            }
        },
    };
    if let Some(local) = local
        && !matches!(local.string("rope_type")?, None | Some("default"))
    {
        return Err(ModelError::Config("rotary scaling of sliding blocks is not supported".into()));
    }
    Ok(Rope {
        theta: pick(full, "rope_theta")?.or(json.f32("rope_theta")?).unwrap_or(default_theta),
        local_theta: pick(local, "rope_theta")?.or(json.f32("rope_local_base_freq")?),
        scaling,
        partial: pick(full, "partial_rotary_factor")?.or(json.f32("partial_rotary_factor")?).unwrap_or(1.0),
    })
}

/// `layer_types` says which blocks slide; older Gemma3 configs give a pattern instead.
fn sliding(json: Json<'_>, layers: usize, gemma: bool, rope_theta: f32) -> Result<Option<Sliding>, ModelError> {
    let Some(window) = json.usize("sliding_window")? else { return Ok(None) };
    let slides: Vec<bool> = match json.0.get("layer_types").and_then(Value::as_array) {
        Some(types) => {
            let slide = |t: &Value| match t.as_str() {
                Some("full_attention") => Ok(false),
                Some("sliding_attention") => Ok(true),
                _ => Err(ModelError::Config(format!("layer type {t} is not supported"))),
            };
            types.iter().map(slide).collect::<Result<_, _>>()?
        }
        None if gemma => {
            let pattern = json.usize("sliding_window_pattern")?.unwrap_or(6).max(1);
            (0..layers.min(super::MAX_LAYERS)).map(|layer| (layer + 1) % pattern != 0).collect()
        }
        None if json.bool("use_sliding_window")? == Some(true) => {
            return Err(ModelError::Config("use_sliding_window without layer_types is not supported".into()));
        }
        None => return Ok(None),
    };
    if !slides.contains(&true) {
        return Ok(None);
    }
    Ok(Some(Sliding { window, rope_theta, layers: slides }))
}

/// `1_Pooling/config.json` of sentence-transformers; a class without a head is an embedding model.
fn pooling(hf: &HfConfig, json: Json<'_>, notes: &mut Vec<String>) -> Result<Option<Pooling>, ModelError> {
    if let Some(pooling) = &hf.pooling {
        let pooling = Json(pooling);
        let last = pooling.bool("pooling_mode_lasttoken")? == Some(true);
        let mean = pooling.bool("pooling_mode_mean_tokens")? == Some(true);
        return match (last, mean) {
            (true, false) => Ok(Some(Pooling::Last)),
            (false, true) => Ok(Some(Pooling::Mean)),
            _ => Err(ModelError::Config(
                "1_Pooling/config.json must choose exactly one of last-token and mean pooling".into(),
            )),
        };
    }
    let class = json.0.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str).unwrap_or_default();
    if class.ends_with("ForCausalLM") || class.is_empty() {
        return Ok(None);
    }
    notes.push(format!("{class} without 1_Pooling/config.json: last-token pooling"));
    Ok(Some(Pooling::Last))
}

/// Typed access to a JSON object; `null` counts as absent.
#[derive(Clone, Copy)]
struct Json<'a>(&'a Value);

impl<'a> Json<'a> {
    fn get<T>(self, key: &str, wanted: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, ModelError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(ModelError::Config(format!("config.json: {key} is {value}, expected {wanted}"))),
            },
        }
    }
    fn usize(self, key: &str) -> Result<Option<usize>, ModelError> {
        self.get(key, "a whole number", |v| v.as_u64().and_then(|n| usize::try_from(n).ok()))
    }
    fn size(self, key: &str) -> Result<usize, ModelError> {
        self.usize(key)?.ok_or_else(|| ModelError::Config(format!("config.json lacks {key}")))
    }
    fn f32(self, key: &str) -> Result<Option<f32>, ModelError> {
        self.get(key, "a number", |v| v.as_f64().map(|x| x as f32))
    }
    fn require_f32(self, key: &str) -> Result<f32, ModelError> {
        self.f32(key)?.ok_or_else(|| ModelError::Config(format!("config.json lacks {key}")))
    }
    fn bool(self, key: &str) -> Result<Option<bool>, ModelError> {
        self.get(key, "true or false", Value::as_bool)
    }
    fn string(self, key: &str) -> Result<Option<&'a str>, ModelError> {
        self.get(key, "a string", Value::as_str)
    }
}
