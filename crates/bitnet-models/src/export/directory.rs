//! A Hugging Face directory: `config.json`, the tokenizer's files and `model.safetensors` (formats.md §3).

use super::Form;
use crate::config::{Activations, Config, ProjectionForm, RopeScaling};
use crate::{ModelError, Tokenizer};
use bitnet_formats::{Checkpoint, FormatError, Source, TensorSource, safetensors};
use bitnet_kernels::Activation;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What belongs to a tokenizer, and to how a model is talked to.
const FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
];

/// What stands beside the tensors.
pub(super) struct Directory {
    config: Value,
    files: Vec<PathBuf>,
}

impl Directory {
    pub(super) fn of(
        checkpoint: &Checkpoint,
        config: &Config,
        form: Form,
        tokenizer: Option<&Tokenizer>,
        notes: &mut Vec<String>,
    ) -> Result<Directory, ModelError> {
        if tokenizer.is_some() {
            return Err(ModelError::Config(
                "a Hugging Face directory takes the tokenizer files of its input; to use others, put them there afterwards"
                    .into(),
            ));
        }
        let files: Vec<PathBuf> = match &checkpoint.source {
            Source::HuggingFace(hf) => {
                FILES.iter().map(|name| hf.dir.join(name)).filter(|path| path.is_file()).collect()
            }
            Source::Gguf(_) | Source::Llama2c(_) => Vec::new(),
        };
        if files.is_empty() {
            notes.push(
                "the directory will have no tokenizer: a vocabulary is copied from Hugging Face files only".into(),
            );
        }
        let tokenizer = Tokenizer::from_checkpoint(checkpoint).ok();
        Ok(Directory { config: json(config, form, tokenizer.as_ref())?, files })
    }

    /// Writes everything into a directory beside `path`, lets `check` look at it and renames it.
    pub(super) fn write(
        &self,
        path: &Path,
        tensors: Vec<TensorSource<'_>>,
        progress: &mut dyn FnMut(u64, u64),
        check: &mut dyn FnMut(&Path) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        let io = |source| FormatError::Io { path: path.to_owned(), source };
        // a rename replaces an empty directory and nothing else
        if fs::metadata(path).is_ok_and(|there| !there.is_dir())
            || fs::read_dir(path).is_ok_and(|mut d| d.next().is_some())
        {
            return Err(io(std::io::Error::other("is there already; choose another output")));
        }
        let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            // for everyone whom the umask allows, not private as temporary directories are
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o777));
        }
        let temporary = builder.prefix(".bitnet-").suffix(".part").tempdir_in(parent).map_err(io)?;
        let dir = temporary.path();
        for file in &self.files {
            let name = file.file_name().unwrap_or_default();
            fs::read(file).and_then(|bytes| write_synced(&dir.join(name), &bytes)).map_err(io)?;
        }
        write_synced(&dir.join("config.json"), format!("{:#}\n", self.config).as_bytes()).map_err(io)?;
        // transformers asks for the metadata
        safetensors::write(&dir.join("model.safetensors"), &[("format", "pt")], tensors, progress)?;
        check(dir)?;
        fs::rename(dir, path).map_err(io)?;
        let _ = temporary.keep(); // its name is gone
        Ok(())
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// `config.json`, from which [`Config::read`] and transformers arrive at the same network.
fn json(config: &Config, form: Form, tokenizer: Option<&Tokenizer>) -> Result<Value, ModelError> {
    let (class, model_type) = match (config.sub_norms, config.qk_norms, config.post_norms) {
        (true, false, false) => ("BitNetForCausalLM", "bitnet"),
        (false, false, false) => ("LlamaForCausalLM", "llama"),
        (false, true, false) => ("Qwen3ForCausalLM", "qwen3"),
        _ => return Err(refuse(config, "its norms")),
    };
    let ternary = form == Form::HfPacked || config.projections == ProjectionForm::Master;
    for (holds, what) in [
        (config.in_norm_eps.is_some(), "norms inside projections"),
        (config.pooling.is_some(), "pooling"),
        (config.sliding.is_some(), "a sliding window"),
        (config.embed_scale != 1.0, "a scaled embedding"),
        (config.attention_scale != 1.0 / (config.head_dim as f32).sqrt(), "an attention scale of its own"),
        (
            ternary != (config.activations == Activations::Int8),
            "ternary weights without int8 activations, or the reverse",
        ),
    ] {
        if holds {
            return Err(refuse(config, what));
        }
    }
    let activation = match config.activation {
        Activation::Relu2 => "relu2",
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    };
    let mut json = json!({
        "architectures": [class],
        "model_type": model_type,
        "hidden_size": config.hidden,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab,
        "hidden_act": activation,
        "max_position_embeddings": config.context,
        "rope_theta": number(config.rope_theta),
        "rms_norm_eps": number(config.norm_eps),
        "tie_word_embeddings": config.tied_head,
        "attention_bias": false,
        "torch_dtype": "float32",
    });
    if config.rope_dim != config.head_dim {
        json["partial_rotary_factor"] = (config.rope_dim as f64 / config.head_dim as f64).into();
    }
    match config.rope_scaling {
        RopeScaling::None => {}
        RopeScaling::Linear(factor) => {
            json["rope_scaling"] = json!({ "rope_type": "linear", "factor": number(factor) });
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            json["rope_scaling"] = json!({
                "rope_type": "llama3",
                "factor": number(factor),
                "low_freq_factor": number(low_freq_factor),
                "high_freq_factor": number(high_freq_factor),
                "original_max_position_embeddings": original_context as u64,
            });
        }
    }
    for (key, id) in
        [("bos_token_id", tokenizer.and_then(Tokenizer::bos)), ("eos_token_id", tokenizer.and_then(Tokenizer::eos))]
    {
        json[key] = id.into(); // null where there is none: classes have defaults of their own
    }
    if ternary {
        json["quantization_config"] = json!({
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": if form == Form::HfPacked { "offline" } else { "online" },
            "modules_to_not_convert": unconverted(config),
        });
    }
    Ok(json)
}

/// The head, and the projections that stay floats.
fn unconverted(config: &Config) -> Vec<String> {
    let projections = config.float_projections.iter().map(|&(layer, projection)| projection.module(layer));
    std::iter::once("lm_head".into()).chain(projections).collect()
}

fn refuse(config: &Config, what: &str) -> ModelError {
    ModelError::Config(format!(
        "{} has {what}, which a Hugging Face directory is not written with; choose a GGUF form",
        config.architecture
    ))
}

/// The shortest decimal number that is this f32.
fn number(x: f32) -> Value {
    x.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}
