//! Bad models are refused by name: what was found, what was expected. And metadata is followed as documented.

#[path = "support/synthetic.rs"]
#[allow(dead_code)] // every test uses a part
mod synthetic;

use bitnet_formats::gguf::{Array, StringArray, Value};
use bitnet_formats::{Checkpoint, Encoding, I2sLayout, Source, Tensor, safetensors::HfConfig};
use bitnet_kernels::{Activation, Cpu, CpuOptions, RopeStyle};
use bitnet_models::{Activations, Config, LoadOptions, Model, Pooling, ProjectionForm, catalogue};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use synthetic::{SMALL, Sizes, Synthetic};

const I2S: Encoding = Encoding::I2S(I2sLayout::X86);

fn bitnet() -> Synthetic {
    Synthetic::new("bitnet-b1.58", SMALL, I2S, 1)
}

fn load(model: Synthetic) -> Result<Model<Cpu>, String> {
    let cpu = Cpu::new(CpuOptions { threads: Some(1), isa: None }).unwrap();
    Model::load(&model.checkpoint(), cpu, &LoadOptions::default()).map_err(|e| e.to_string())
}

/// Changes a good model and expects an error that holds all of `words`.
#[track_caller]
fn refused(change: impl FnOnce(&mut Synthetic), words: &[&str]) {
    let mut model = bitnet();
    change(&mut model);
    let error = load(model).err().expect("the model was accepted");
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

#[test]
fn the_unchanged_model_loads() {
    assert_eq!(load(bitnet()).err(), None);
}

#[test]
fn unknown_architecture() {
    let arch = |name: &'static str| {
        move |m: &mut Synthetic| m.metadata.set("general.architecture", Value::String(name.into()))
    };
    refused(arch("mamba"), &["mamba", "supported", "bitnet-b1.58", "gemma3"]);
}

#[test]
fn missing_and_surplus_tensors() {
    let remove = |name: &'static str| move |m: &mut Synthetic| drop(m.tensors.remove(name));
    refused(remove("blk.1.attn_k.weight"), &["blk.1.attn_k.weight", "missing"]);
    refused(remove("blk.0.ffn_sub_norm.weight"), &["blk.0.ffn_sub_norm.weight", "missing"]);
    refused(remove("output_norm.weight"), &["output_norm.weight", "missing"]);
    refused(remove("token_embd.weight"), &["token_embd.weight", "missing"]);
    // a bias or a norm that this architecture does not have would be missing from the results
    refused(|m| m.floats("blk.0.attn_q.bias", &[0.0; 256]), &["blk.0.attn_q.bias", "not part of"]);
    refused(|m| m.norm("blk.0.attn_q_norm.weight", 64), &["blk.0.attn_q_norm.weight", "not part of"]);
}

#[test]
fn shapes_follow_from_metadata() {
    refused(|m| m.set("feed_forward_length", Value::U32(384)), &["blk.0.ffn", "[384, 256]", "[512, 256]"]);
    refused(|m| m.set("attention.head_count_kv", Value::U32(4)), &["blk.0.attn_k.weight", "[256, 256]"]);
    refused(|m| m.norm("blk.1.attn_norm.weight", 255), &["blk.1.attn_norm.weight", "255", "256"]);
    refused(|m| m.set("vocab_size", Value::U32(97)), &["97", "96 rows"]);
    let tokens = StringArray::new(["a", "b"]).unwrap();
    refused(
        |m| m.metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens))),
        &["tokenizer.ggml.tokens", "2 tokens", "96 rows"],
    );
}

#[test]
fn absurd_metadata() {
    refused(|m| m.set("attention.head_count", Value::U32(0)), &["heads is 0"]);
    refused(|m| m.set("attention.head_count_kv", Value::U32(3)), &["4 heads", "3 key/value heads"]);
    refused(|m| m.set("block_count", Value::U32(513)), &["513", "512"]);
    refused(|m| m.set("block_count", Value::U64(u64::MAX)), &["number of blocks", "512"]);
    refused(|m| m.set("embedding_length", Value::U64(1 << 62)), &["hidden size", "1048576"]);
    refused(|m| m.set("attention.layer_norm_rms_epsilon", Value::F32(0.0)), &["epsilon", "above zero"]);
    refused(|m| m.set("attention.layer_norm_rms_epsilon", Value::F32(f32::NAN)), &["epsilon"]);
    refused(|m| m.set("rope.freq_base", Value::F32(-1.0)), &["rotary base", "-1"]);
    refused(|m| m.set("rope.dimension_count", Value::U32(65)), &["65 rotary channels"]);
    refused(|m| m.set("rope.scaling.type", Value::String("yarn".into())), &["yarn", "supported"]);
    refused(|m| m.set("hidden_activation", Value::String("mish".into())), &["mish", "relu2"]);
    refused(|m| m.set("expert_count", Value::U32(8)), &["experts"]);
    refused(|m| m.set("attention.value_length", Value::U32(32)), &["64", "32"]);
    refused(|m| m.metadata.set("bitnet.activations", Value::String("int4".into())), &["int4", "int8"]);
}

#[test]
fn damaged_numbers() {
    let mut nan = vec![1.0; 256];
    nan[17] = f32::NAN;
    refused(|m| m.floats("blk.0.attn_norm.weight", &nan), &["blk.0.attn_norm.weight", "17", "NaN"]);
    refused(
        |m| {
            let table = m.tensors.get_mut("token_embd.weight").unwrap();
            let mut bytes = table.bytes.to_vec();
            bytes[1001] = 0x7c; // an f16 infinity or NaN
            table.bytes = bytes.into();
        },
        &["token_embd.weight", "NaN or infinity"],
    );
    let code = |m: &mut Synthetic, at: usize, byte: u8| {
        let tensor = m.tensors.get_mut("blk.1.ffn_up.weight").unwrap();
        let mut bytes = tensor.bytes.to_vec();
        bytes[at] = byte;
        tensor.bytes = bytes.into();
    };
    refused(|m| code(m, 100, 0xff), &["blk.1.ffn_up.weight", "code 3", "100"]);
    // sign bit of the scale behind 512 × 256 codes
    refused(|m| code(m, 512 * 256 / 4 + 3, 0xbf), &["blk.1.ffn_up.weight", "scale"]);
    refused(
        |m| {
            let mut table = m.tensors["blk.0.attn_q.weight"].clone();
            table.name = "token_embd.weight".into();
            table.shape = vec![256, 256];
            m.tensors.insert(table.name.clone(), table);
        },
        &["token_embd.weight", "I2_S"],
    );
}

/// transformers saves packed checkpoints it has unpacked as codes in floats, with the scale still beside them.
#[test]
fn a_scale_beside_master_weights() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/crossval/bitnet-2b4t-online");
    if !dir.exists() {
        eprintln!("SKIPPED: {} does not exist", dir.display());
        return;
    }
    let mut checkpoint = Checkpoint::open(&dir).unwrap();
    let error = |checkpoint: &Checkpoint| {
        let cpu = Cpu::new(CpuOptions { threads: Some(1), isa: None }).unwrap();
        Model::load(checkpoint, cpu, &LoadOptions::default()).err().map(|e| e.to_string())
    };
    assert_eq!(error(&checkpoint), None);
    let name = "model.layers.0.mlp.up_proj.weight_scale".to_string();
    let bytes = 0.5f32.to_le_bytes().to_vec().into();
    let scale = Tensor { name: name.clone(), shape: vec![1], encoding: Encoding::F32, bytes };
    checkpoint.tensors.insert(name.clone(), scale);
    let error = error(&checkpoint).expect("the scale was ignored");
    assert!(error.contains(&name) && error.contains("not packed"), "{error}");
}

#[test]
fn architectures_choose_activations() {
    for (arch, activation, activations, style) in [
        ("bitnet", Activation::Silu, Activations::Int8, RopeStyle::Neox),
        ("bitnet-25", Activation::Relu2, Activations::Int8, RopeStyle::Neox),
        ("bitnet-b1.58", Activation::Relu2, Activations::Int8, RopeStyle::Neox),
        ("bitnet-1.58", Activation::Relu2, Activations::Int8, RopeStyle::Neox),
        ("llama", Activation::Silu, Activations::Float, RopeStyle::Interleaved),
        ("qwen3", Activation::Silu, Activations::Float, RopeStyle::Neox),
        ("gemma3", Activation::GeluTanh, Activations::Float, RopeStyle::Neox),
    ] {
        let config = load(Synthetic::new(arch, SMALL, Encoding::Tq2_0, 2)).unwrap().config().clone();
        assert_eq!(
            (config.activation, config.activations, config.rope_style),
            (activation, activations, style),
            "{arch}"
        );
    }
    // I2_S files are made for int8 whatever the architecture; a key says otherwise
    let mut model = Synthetic::new("llama", SMALL, I2S, 2);
    assert_eq!(load(Synthetic::new("llama", SMALL, I2S, 2)).unwrap().config().activations, Activations::Int8);
    model.metadata.set("bitnet.activations", Value::String("float".into()));
    model.set("hidden_activation", Value::String("relu2".into()));
    let config = load(model).unwrap().config().clone();
    assert_eq!((config.activations, config.activation), (Activations::Float, Activation::Relu2));
}

#[test]
fn the_catalogue_corrects_and_says_so() {
    // a 1bitLLM model under the architecture of 2B-4T: its blocks and vocabulary give it away
    let sizes = Sizes { layers: 24, vocab: 32002, hidden: 64, ffn: 64, heads: 1, kv_heads: 1, head_dim: 64 };
    let model = load(Synthetic::new("bitnet-b1.58", sizes, Encoding::F32, 3)).unwrap();
    assert_eq!(model.config().activation, Activation::Silu);
    assert!(model.notes().iter().any(|n| n.contains("Relu2") && n.contains("Silu")), "{:?}", model.notes());
    // unless the file says it itself
    let mut explicit = Synthetic::new("bitnet-b1.58", sizes, Encoding::F32, 3);
    explicit.set("hidden_activation", Value::String("relu2".into()));
    assert_eq!(load(explicit).unwrap().config().activation, Activation::Relu2);

    let shapes: Vec<_> = catalogue::ENTRIES.iter().map(|entry| entry.shape).collect();
    for (i, shape) in shapes.iter().enumerate() {
        assert!(!shapes[..i].contains(shape), "two entries have one shape: {shape:?}");
    }
    let official = catalogue::Shape { hidden: 2560, ffn: 6912, layers: 30, heads: 20, kv_heads: 5, vocab: 128256 };
    assert_eq!(catalogue::find(official).unwrap().name, "bitnet-b1.58-2B-4T");
}

fn hugging_face(config: serde_json::Value) -> Result<(Config, Vec<String>), String> {
    let source = Source::HuggingFace(HfConfig { dir: PathBuf::new(), config, pooling: None });
    let checkpoint = Checkpoint { path: PathBuf::new(), tensors: BTreeMap::new(), source };
    Config::read(&checkpoint, &LoadOptions::default()).map_err(|e| e.to_string())
}

fn llama() -> serde_json::Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "intermediate_size": 256,
        "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0
    })
}

fn with(key: &str, value: serde_json::Value) -> serde_json::Value {
    let mut config = llama();
    config[key] = value;
    config
}

#[test]
fn hugging_face_configs() {
    let (config, _) = hugging_face(llama()).unwrap();
    assert_eq!((config.kv_heads, config.head_dim, config.rope_style), (4, 32, RopeStyle::Interleaved));
    assert_eq!((config.projections, config.activations), (ProjectionForm::AsStored, Activations::Float));
    assert_eq!((config.tied_head, config.pooling), (false, None));

    let (config, _) = hugging_face(with("quantization_config", json!({"quant_method": "bitnet"}))).unwrap();
    assert_eq!((config.projections, config.activations), (ProjectionForm::Master, Activations::Int8));

    // the class tells what model_type hides
    let mut one_bit = with("weight_bits", json!(1));
    one_bit["architectures"] = json!(["BitnetForCausalLM"]);
    let (config, _) = hugging_face(one_bit).unwrap();
    assert!(config.sub_norms && config.activation == Activation::Silu && config.projections == ProjectionForm::Master);

    let (config, notes) = hugging_face(with("architectures", json!(["Qwen3Model"]))).unwrap();
    assert_eq!(config.pooling, Some(Pooling::Last));
    assert!(notes.iter().any(|n| n.contains("last-token")), "{notes:?}");
}

/// Defaults of BitNetConfig, LlamaConfig, Qwen3Config and Gemma3TextConfig in transformers.
#[test]
fn what_a_config_does_not_say() {
    for (class, norm_eps, theta, tied, activation) in [
        ("BitNetForCausalLM", 1e-5, 5e5, false, Activation::Relu2),
        ("LlamaForCausalLM", 1e-6, 1e4, false, Activation::Silu),
        ("Qwen3ForCausalLM", 1e-6, 1e4, false, Activation::Silu),
        ("Gemma3ForCausalLM", 1e-6, 1e6, true, Activation::GeluTanh),
    ] {
        let mut config = with("architectures", json!([class]));
        for key in ["rms_norm_eps", "rope_theta", "model_type"] {
            config.as_object_mut().unwrap().remove(key);
        }
        let (config, _) = hugging_face(config).unwrap();
        let found = (config.norm_eps, config.rope_theta, config.tied_head, config.activation);
        assert_eq!(found, (norm_eps, theta, tied, activation), "{class}");
    }
}

#[test]
fn hugging_face_configs_that_are_refused() {
    for (key, value, word) in [
        ("architectures", json!(["MambaForCausalLM"]), "MambaForCausalLM"),
        ("quantization_config", json!({"quant_method": "gptq"}), "gptq"),
        ("quantization_config", json!({"quant_method": "bitnet", "linear_class": "new"}), "linear_class"),
        ("quantization_config", json!({"quant_method": "bitnet", "quantization_mode": "new"}), "quantization_mode"),
        (
            "quantization_config",
            json!({"quant_method": "bitnet", "modules_to_not_convert": ["layers.0"]}),
            "modules_to_not_convert",
        ),
        (
            "quantization_config",
            json!({"quant_method": "bitnet", "modules_to_not_convert": ["model.layers.0.self_attn"]}),
            "whole name",
        ),
        ("attention_bias", json!(true), "bias"),
        ("rope_scaling", json!({"rope_type": "longrope"}), "longrope"),
        ("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0}), "low_freq_factor"),
        ("final_logit_softcapping", json!(30.0), "softcapping"),
        ("hidden_size", json!("128"), "hidden_size"),
        ("hidden_size", json!(-1), "hidden_size"),
        ("num_attention_heads", json!(3), "head_dim"),
        ("num_hidden_layers", json!(100000), "512"),
        ("hidden_act", json!("mish"), "mish"),
        ("rope_theta", json!(1e300), "rotary base"),
        ("vocab_size", serde_json::Value::Null, "vocab_size"),
    ] {
        let error =
            hugging_face(with(key, value.clone())).err().unwrap_or_else(|| panic!("{key} {value} was accepted"));
        assert!(error.contains(word), "{key} {value}: {error:?} does not say {word:?}");
    }
}
