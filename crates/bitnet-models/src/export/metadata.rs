//! Key–value pairs of an exported file (formats.md §5).

use crate::config::{Activations, Config, Pooling, RopeScaling};
use crate::rope;
use crate::{ModelError, Tokenizer};
use bitnet_formats::gguf::{Array, Metadata, StringArray, Value};
use bitnet_formats::{Checkpoint, Encoding, I2sLayout, Source};
use bitnet_kernels::Activation;

/// All metadata. Keys of a GGUF source are kept unless they describe what the export changes.
pub(super) fn of(
    checkpoint: &Checkpoint,
    config: &Config,
    encoding: Encoding,
    own: Option<&Tokenizer>,
    notes: &mut Vec<String>,
) -> Result<Metadata, ModelError> {
    let mut metadata = Metadata::new();
    let architecture = architecture(checkpoint, config, encoding)?;
    if let Source::Gguf(source) = &checkpoint.source {
        let renamed = architecture != config.architecture;
        let dropped = |key: &str| {
            key.starts_with("split.")
                || (renamed && key.starts_with(&format!("{}.", config.architecture)))
                || matches!(key, "general.alignment" | "general.file_type" | "general.quantization_version")
                || (own.is_some() && key.starts_with("tokenizer."))
        };
        for (key, value) in source.entries().iter().filter(|(key, _)| !dropped(key)) {
            metadata.set(key, value.clone());
        }
    }
    let name = config.name.clone().or_else(|| name_of_path(checkpoint));
    network(&mut metadata, &architecture, name, config)?;
    if let Some(file_type) = file_type(encoding) {
        metadata.set("general.file_type", Value::U32(file_type));
    }
    metadata.set("general.quantization_version", Value::U32(2));
    tokenizer(&mut metadata, checkpoint, config, own, notes)?;
    Ok(metadata)
}

/// A model without a name takes that of its directory, where a dot belongs to the name, or of its file.
fn name_of_path(checkpoint: &Checkpoint) -> Option<String> {
    let path = std::path::absolute(&checkpoint.path).ok()?;
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    Some(name?.to_string_lossy().into_owned())
}

/// The architecture's name in GGUF.
fn architecture(checkpoint: &Checkpoint, config: &Config, encoding: Encoding) -> Result<String, ModelError> {
    let name = match (config.sub_norms, config.qk_norms, config.post_norms) {
        // I2_S is for bitnet.cpp, where `bitnet-b1.58` means relu² and `bitnet` SiLU. All other encodings are for
        // llama.cpp, which knows only `bitnet` and tells the activation by `hidden_activation`.
        (true, false, false) => match (encoding, config.activation) {
            (Encoding::I2S(_), Activation::Relu2) => "bitnet-b1.58",
            _ => "bitnet",
        },
        _ if matches!(checkpoint.source, Source::Gguf(_)) => &config.architecture,
        (false, false, false) => "llama",
        (false, true, false) => "qwen3",
        (false, true, true) => "gemma3",
        _ => {
            let reason = format!("no GGUF architecture has the norms of {}", config.architecture);
            return Err(ModelError::Config(reason));
        }
    };
    Ok(name.to_string())
}

/// What [`Config::read`] needs to arrive at the same configuration.
fn network(
    metadata: &mut Metadata,
    architecture: &str,
    name: Option<String>,
    config: &Config,
) -> Result<(), ModelError> {
    metadata.set("general.architecture", Value::String(architecture.to_string()));
    if let Some(name) = name {
        metadata.set("general.name", Value::String(name));
    }
    let mut set = |key: &str, value| metadata.set(format!("{architecture}.{key}"), value);
    let sizes = [
        ("vocab_size", config.vocab),
        ("context_length", config.context),
        ("embedding_length", config.hidden),
        ("block_count", config.layers),
        ("feed_forward_length", config.ffn),
        ("rope.dimension_count", config.rope_dim),
        ("attention.head_count", config.heads),
        ("attention.head_count_kv", config.kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
    ];
    for (key, size) in sizes {
        let size = u32::try_from(size).map_err(|_| ModelError::Config(format!("{key} {size} does not fit 32 bits")))?;
        set(key, Value::U32(size));
    }
    set("attention.layer_norm_rms_epsilon", Value::F32(config.norm_eps));
    set("rope.freq_base", Value::F32(config.rope_theta));
    if let RopeScaling::Linear(factor) = config.rope_scaling {
        set("rope.scaling.type", Value::String("linear".into()));
        set("rope.scaling.factor", Value::F32(factor));
    }
    let activation = match config.activation {
        Activation::Relu2 => "relu2",
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    };
    set("hidden_activation", Value::String(activation.into()));
    if config.attention_scale != 1.0 / (config.head_dim as f32).sqrt() {
        set("attention.scale", Value::F32(config.attention_scale));
    }
    if let Some(sliding) = &config.sliding {
        let pattern = sliding_pattern(&sliding.layers).filter(|_| architecture == "gemma3").ok_or_else(|| {
            ModelError::Config("GGUF cannot say which blocks of this model have a sliding window".into())
        })?;
        set("attention.sliding_window", Value::U32(sliding.window.try_into().unwrap_or(u32::MAX)));
        set("attention.sliding_window_pattern", Value::U32(pattern));
        set("rope.freq_base_swa", Value::F32(sliding.rope_theta));
    }
    // 0 none, 1 mean, 3 last
    match config.pooling {
        Some(Pooling::Mean) => set("pooling_type", Value::U32(1)),
        Some(Pooling::Last) => set("pooling_type", Value::U32(3)),
        None if config.in_norm_eps.is_some() => set("pooling_type", Value::U32(0)),
        None => {}
    }
    // Keys of ours: what no other key says.
    if let Some(eps) = config.in_norm_eps {
        metadata.set("bitnet.norm_in_epsilon", Value::F32(eps));
    }
    if let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } = config.rope_scaling {
        let parameters = vec![factor, low_freq_factor, high_freq_factor, original_context];
        metadata.set("bitnet.rope_scaling_llama3", Value::Array(Array::F32(parameters)));
    }
    let activations = match config.activations {
        Activations::Int8 => "int8",
        Activations::Float => "float",
    };
    metadata.set("bitnet.activations", Value::String(activations.into()));
    Ok(())
}

/// Every `n`-th block sees everything, the others slide.
fn sliding_pattern(layers: &[bool]) -> Option<u32> {
    let full = layers.iter().position(|slides| !slides).unwrap_or(layers.len()) + 1;
    let fits = layers.iter().enumerate().all(|(layer, &slides)| slides != (layer + 1).is_multiple_of(full));
    u32::try_from(full).ok().filter(|_| fits)
}

/// The hint that other readers show. bitnet.cpp and llama.cpp disagree on several numbers; those are left out.
fn file_type(encoding: Encoding) -> Option<u32> {
    match encoding {
        Encoding::F32 => Some(0),
        Encoding::F16 => Some(1),
        Encoding::Q4_0 => Some(2),
        Encoding::Q8_0 => Some(7),
        Encoding::BF16 => Some(32),
        Encoding::Tq1_0 => Some(36),
        Encoding::Tq2_0 => Some(37),
        // as in the official 2B-4T file
        Encoding::I2S(I2sLayout::X86) => Some(40),
        _ => None,
    }
}

/// Tokenizer of the caller, of the GGUF source (already copied), or beside the checkpoint.
fn tokenizer(
    metadata: &mut Metadata,
    checkpoint: &Checkpoint,
    config: &Config,
    own: Option<&Tokenizer>,
    notes: &mut Vec<String>,
) -> Result<(), ModelError> {
    let beside;
    let tokenizer = match (own, &checkpoint.source) {
        (Some(tokenizer), _) => tokenizer,
        (None, Source::Gguf(_)) => return Ok(()),
        (None, source) => match Tokenizer::from_checkpoint(checkpoint) {
            Ok(tokenizer) => {
                beside = tokenizer;
                &beside
            }
            Err(error) => {
                // one that is there and unusable is an error
                if let Source::HuggingFace(hf) = source
                    && crate::tokenizer::FILES.iter().any(|file| hf.dir.join(file).exists())
                {
                    return Err(error);
                }
                notes.push(format!("the file will have no tokenizer ({error})"));
                return Ok(());
            }
        },
    };
    for (key, value) in tokenizer.gguf_metadata()? {
        metadata.set(key, value);
    }
    pad_vocabulary(metadata, config.vocab)
}

/// Embedding tables are often padded to a round number of rows; GGUF wants a token for every row.
fn pad_vocabulary(metadata: &mut Metadata, vocab: usize) -> Result<(), ModelError> {
    let Some(tokens) = metadata.strings("tokenizer.ggml.tokens")? else { return Ok(()) };
    let known = tokens.len();
    if known > vocab {
        let reason = format!("the tokenizer has {known} tokens, but the model only {vocab}");
        return Err(ModelError::Tokenizer(reason));
    }
    if known == vocab {
        return Ok(());
    }
    let padding = (known..vocab).map(|id| format!("[PAD{id}]"));
    let padded = StringArray::new(tokens.iter().map(str::to_string).chain(padding))?;
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(padded)));
    if let Some(scores) = metadata.f32s("tokenizer.ggml.scores")? {
        let mut scores = scores.to_vec();
        scores.resize(vocab, 0.0);
        metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    }
    if let Some(types) = metadata.i32s("tokenizer.ggml.token_type")? {
        const UNUSED: i32 = 5;
        let mut types = types.to_vec();
        types.resize(vocab, UNUSED);
        metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    }
    Ok(())
}

/// Divisors of the rotary frequencies for a scaling that GGUF stores as `rope_freqs.weight`. (Our own reader takes the
/// parameters instead: quotients are rounded and do not always give the same bits back.)
pub(super) fn rope_factors(config: &Config) -> Option<Vec<f32>> {
    if !matches!(config.rope_scaling, RopeScaling::Llama3 { .. }) {
        return None;
    }
    let frequencies = |scaling| rope::table(config, config.rope_theta, scaling, None).inverse_frequencies;
    let (plain, scaled) = (frequencies(RopeScaling::None), frequencies(config.rope_scaling));
    Some(plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect())
}
