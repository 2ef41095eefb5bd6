//! Published ternary models, recognised by their shape, and what their files are known to get wrong (formats.md §5, §6).
//!
//! The catalogue speaks only where metadata is silent or known to be wrong, and says so in a note.

use crate::config::{Activations, ProjectionForm};
use crate::{Config, LoadOptions};
use bitnet_formats::{Checkpoint, Source};
use bitnet_kernels::Activation;

/// What identifies a published network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
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
    /// Vocabulary entries.
    pub vocab: usize,
}

/// A published model and its known quirks.
#[derive(Debug)]
pub struct Entry {
    /// Name under which it is published.
    pub name: &'static str,
    /// Its shape.
    pub shape: Shape,
    /// The activation it was trained with, where GGUF files omit or misstate it.
    pub activation: Option<Activation>,
    /// Trained with int8 activations, for files whose architecture and encoding (TQ1_0, TQ2_0) do not say so.
    pub int8: bool,
    /// Pre-tokenizer, for files that lack `tokenizer.ggml.pre`.
    pub pre_tokenizer: Option<&'static str>,
    /// Tokens that end an answer, by literal text.
    pub stop: &'static [&'static str],
    /// The real chat template, for files that carry a placeholder or none.
    pub chat_template: Option<&'static str>,
    /// SHA-256 of published files, as file name and lower-case hex digest.
    pub sha256: &'static [(&'static str, &'static str)],
}

/// Template of microsoft/bitnet-b1.58-2B-4T (formats.md §5.5): no newline between turns, one BOS.
pub const BITNET_2B4T_TEMPLATE: &str = "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}\
     {{ message['role'] | capitalize }}: {{ message['content'] | trim }}<|eot_id|>{% endfor %}\
     {% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";

/// Template of tiiuae/Falcon3-*-Instruct for conversations without functions: what the assistant said ends in its token.
const FALCON3_TEMPLATE: &str = "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}\
     {% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\
     {% if message['role'] != 'assistant' or not loop.last %}{{ '\n' }}{% endif %}{% endfor %}\
     {% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}";

const CHATML_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' \
     + message['content'] + '<|im_end|>\n' }}{% endfor %}\
     {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const fn shape(hidden: usize, ffn: usize, layers: usize, heads: usize, kv_heads: usize, vocab: usize) -> Shape {
    Shape { hidden, ffn, layers, heads, kv_heads, vocab }
}

const fn entry(name: &'static str, shape: Shape) -> Entry {
    Entry {
        name,
        shape,
        activation: None,
        int8: false,
        pre_tokenizer: None,
        stop: &[],
        chat_template: None,
        sha256: &[],
    }
}

const fn one_bit_llm(name: &'static str, shape: Shape) -> Entry {
    Entry { activation: Some(Activation::Silu), stop: &["</s>"], ..entry(name, shape) }
}

const fn falcon3(name: &'static str, shape: Shape) -> Entry {
    Entry {
        int8: true,
        pre_tokenizer: Some("falcon3"),
        stop: &["<|endoftext|>"],
        chat_template: Some(FALCON3_TEMPLATE),
        ..entry(name, shape)
    }
}

const fn falcon_e(name: &'static str, shape: Shape) -> Entry {
    Entry {
        int8: true,
        pre_tokenizer: Some("falcon_e"),
        stop: &["<|im_end|>", "<|endoftext|>"],
        chat_template: Some(CHATML_TEMPLATE),
        ..entry(name, shape)
    }
}

/// GPT-NeoX's vocabulary, which llama.cpp calls by the name of another model that has it.
const fn trilm(name: &'static str, shape: Shape) -> Entry {
    Entry { pre_tokenizer: Some("olmo"), ..entry(name, shape) }
}

const fn qwen3(name: &'static str, shape: Shape) -> Entry {
    Entry { pre_tokenizer: Some("qwen2"), stop: &["<|im_end|>", "<|endoftext|>"], ..entry(name, shape) }
}

/// All known models.
pub static ENTRIES: &[Entry] = &[
    Entry {
        activation: Some(Activation::Relu2),
        pre_tokenizer: Some("llama-bpe"),
        stop: &["<|end_of_text|>", "<|eot_id|>"],
        chat_template: Some(BITNET_2B4T_TEMPLATE),
        sha256: &[("ggml-model-i2_s.gguf", "4221b252fdd5fd25e15847adfeb5ee88886506ba50b8a34548374492884c2162")],
        ..entry("bitnet-b1.58-2B-4T", shape(2560, 6912, 30, 20, 5, 128256))
    },
    one_bit_llm("bitnet_b1_58-large", shape(1536, 4096, 24, 16, 16, 32002)),
    one_bit_llm("bitnet_b1_58-xl", shape(2048, 5460, 24, 32, 32, 32002)),
    one_bit_llm("bitnet_b1_58-3B", shape(3200, 8640, 26, 32, 32, 32002)),
    Entry {
        int8: true,
        pre_tokenizer: Some("llama-bpe"),
        stop: &["<|end_of_text|>", "<|eot_id|>"],
        ..entry("Llama3-8B-1.58-100B-tokens", shape(4096, 14336, 32, 32, 8, 128256))
    },
    falcon3("Falcon3-1B-1.58bit", shape(2048, 8192, 18, 8, 4, 131072)),
    falcon3("Falcon3-3B-1.58bit", shape(3072, 9216, 22, 12, 4, 131072)),
    falcon3("Falcon3-7B-1.58bit", shape(3072, 23040, 28, 12, 4, 131072)),
    falcon3("Falcon3-10B-1.58bit", shape(3072, 23040, 40, 12, 4, 131072)),
    falcon_e("Falcon-E-1B", shape(2048, 9216, 24, 16, 2, 32768)),
    falcon_e("Falcon-E-3B", shape(2048, 13312, 32, 16, 2, 32768)),
    qwen3("BitNet-embedding-0.6B", shape(1024, 3072, 28, 16, 8, 151936)),
    entry("BitNet-embedding-270M", shape(640, 2048, 18, 4, 1, 262144)),
    trilm("TriLM-99M", shape(512, 1280, 16, 8, 8, 50304)),
    trilm("TriLM-3.9B", shape(3072, 9216, 30, 24, 24, 50688)),
    qwen3("Ternary-Bonsai-1.7B", shape(2048, 6144, 28, 16, 8, 151936)),
    qwen3("Ternary-Bonsai-4B", shape(2560, 9728, 36, 32, 8, 151936)),
    qwen3("Ternary-Bonsai-8B", shape(4096, 12288, 36, 32, 8, 151936)),
];

/// The published model of this shape.
pub fn find(shape: Shape) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.shape == shape)
}

/// The published model that a checkpoint has the shape of; `None` also for files that hold no network.
pub fn of(checkpoint: &Checkpoint) -> Option<&'static Entry> {
    let (config, _) = Config::read(checkpoint, &LoadOptions::default()).ok()?;
    find(Shape::of(&config))
}

impl Shape {
    /// The shape of a configured network.
    pub fn of(config: &Config) -> Shape {
        let &Config { hidden, ffn, layers, heads, kv_heads, vocab, .. } = config;
        Shape { hidden, ffn, layers, heads, kv_heads, vocab }
    }
}

/// Overrides metadata that published files are known to have wrong.
pub(crate) fn correct(config: &mut Config, checkpoint: &Checkpoint, notes: &mut Vec<String>) {
    let entry = find(Shape::of(config));
    // Many ternary models have the shape of a dense one (Qwen3, Falcon3, Llama 3), which is not theirs to name.
    let encoded = checkpoint.tensors.values().any(|t| t.encoding.is_ternary());
    let ternary = encoded || config.projections != ProjectionForm::AsStored;
    if let Some(entry) = entry {
        notes.push(format!("shape of the published model {}", entry.name));
        if ternary {
            config.name.get_or_insert_with(|| entry.name.to_string());
        }
    }
    match &checkpoint.source {
        Source::Gguf(metadata) => {
            // no key: the converter for 2B-4T writes its architecture for 1bitLLM models too, which are SiLU
            let arch = config.architecture.as_str();
            let explicit = metadata.get(&format!("{arch}.hidden_activation")).is_some();
            let old_1bit_llm = config.vocab == 32002 && matches!(config.layers, 24 | 26);
            let known = entry.and_then(|e| e.activation).or(old_1bit_llm.then_some(Activation::Silu));
            if let Some(known) = known
                && arch.starts_with("bitnet")
                && !explicit
                && known != config.activation
            {
                notes.push(format!(
                    "architecture {arch} means {:?}, catalogue says {known:?}: this shape is {}",
                    config.activation,
                    entry.map_or("a 1bitLLM model", |e| e.name),
                ));
                config.activation = known;
            }
            if let Some(entry) = entry.filter(|e| e.int8 && encoded)
                && config.activations == Activations::Float
                && metadata.get("bitnet.activations").is_none()
            {
                notes.push(format!("{} is trained with int8 activations: used so", entry.name));
                config.activations = Activations::Int8;
            }
        }
        Source::HuggingFace(hf) => {
            // the first revision of 2B-4T had no linear_class, which would mean inverse scales
            if entry.is_some_and(|e| e.name == "bitnet-b1.58-2B-4T")
                && hf.config["quantization_config"]["linear_class"].is_null()
                && let ProjectionForm::HfPacked { inverse_scale: inverse @ true } = &mut config.projections
            {
                notes.push("no linear_class means inverse scales, but 2B-4T stores direct ones: read as direct".into());
                *inverse = false;
            }
        }
        Source::Llama2c(_) => {}
    }
}
