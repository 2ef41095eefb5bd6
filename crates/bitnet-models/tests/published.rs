//! Published files, by the metadata they are known to have (formats.md §5, §6): no file of theirs is here, but what
//! their gaps would do to a network, a prompt and a conversation shows without the weights.

use bitnet_formats::gguf::{Array, Metadata, StringArray, Value};
use bitnet_formats::safetensors::HfConfig;
use bitnet_formats::{Checkpoint, Encoding as Stored, I2sLayout, Source, Tensor};
use bitnet_kernels::{Activation, RopeStyle};
use bitnet_models::catalogue::BITNET_2B4T_TEMPLATE;
use bitnet_models::{Activations, Config, Encoding, LoadOptions, Message, Tokenizer};
use std::path::{Path, PathBuf};

/// A GGUF file with a table `[vocab, hidden]` and one projection. No value of them is looked at.
fn checkpoint(metadata: Metadata, vocab: usize, hidden: usize, projections: Stored) -> Checkpoint {
    let tensor = |name: &str, rows, encoding| {
        (name.to_string(), Tensor { name: name.into(), shape: vec![rows, hidden], encoding, bytes: Default::default() })
    };
    let tensors =
        [tensor("token_embd.weight", vocab, Stored::F16), tensor("blk.0.attn_q.weight", hidden, projections)].into();
    Checkpoint { path: PathBuf::new(), tensors, source: Source::Gguf(metadata) }
}

fn network(arch: &str, sizes: &[(&str, u32)]) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String(arch.into()));
    for (key, size) in sizes {
        metadata.set(format!("{arch}.{key}"), Value::U32(*size));
    }
    metadata
}

/// `ggml-model-i2_s.gguf` of microsoft/bitnet-b1.58-2B-4T-gguf: its complete list of keys (formats.md §5.2).
#[test]
fn the_official_2b4t_file() {
    let mut metadata = network(
        "bitnet-b1.58",
        &[
            ("vocab_size", 128_256),
            ("context_length", 4096),
            ("embedding_length", 2560),
            ("block_count", 30),
            ("feed_forward_length", 6912),
            ("rope.dimension_count", 128),
            ("attention.head_count", 20),
            ("attention.head_count_kv", 5),
        ],
    );
    metadata.set("bitnet-b1.58.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    metadata.set("bitnet-b1.58.rope.freq_base", Value::F32(500_000.0));
    metadata.set("general.name", Value::String("bitnet2b".into()));
    metadata.set("general.file_type", Value::U32(40));
    metadata.set("general.quantization_version", Value::U32(2));
    let i2s = Stored::I2S(I2sLayout::X86);

    let (config, notes) =
        Config::read(&checkpoint(metadata.clone(), 128_256, 2560, i2s), &LoadOptions::default()).unwrap();
    assert_eq!((config.activation, config.activations), (Activation::Relu2, Activations::Int8));
    assert_eq!((config.head_dim, config.rope_dim, config.rope_style), (128, 128, RopeStyle::Neox));
    assert!(config.sub_norms && config.tied_head && !config.qk_norms && config.in_norm_eps.is_none());
    assert_eq!((config.rope_theta, config.norm_eps, config.context), (500_000.0, 1e-5, 4096));
    assert_eq!(config.name.as_deref(), Some("bitnet2b"));
    assert_eq!(notes, ["shape of the published model bitnet-b1.58-2B-4T"]);

    let ranks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/tokenizers/llama3/tokenizer.model");
    if !ranks.exists() {
        eprintln!("SKIPPED: {} does not exist", ranks.display());
        return;
    }
    for (key, value) in Tokenizer::open(&ranks).unwrap().gguf_metadata().unwrap() {
        if !matches!(key.as_str(), "tokenizer.ggml.pre" | "tokenizer.ggml.eot_token_id") {
            metadata.set(key, value);
        }
    }
    metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0; 128_256])));
    metadata.set("tokenizer.ggml.padding_token_id", Value::U32(128_001));
    let placeholder = "{% for m in messages %}Human: {{ m }}\n\nBITNETAssistant: {{ eos_token }}{% endfor %}";
    metadata.set("tokenizer.chat_template", Value::String(placeholder.into()));
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint(metadata, 128_256, 2560, i2s)).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(128_000), Some(128_001)));
    assert_eq!(tokenizer.stop_ids(), [128_001, 128_009]);
    let notes = tokenizer.notes();
    assert!(notes.len() == 2 && notes[0].contains("llama-bpe") && notes[1].contains("placeholder"), "{notes:?}");

    let follow = Encoding { bos: None, special: false };
    assert_eq!(tokenizer.encode("The capital of France is", follow).unwrap(), [128_000, 791, 6864, 315, 9822, 374]);
    let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let messages = [message("user", " Hello\n"), message("assistant", "Hello"), message("user", "Hello")];
    let text = tokenizer.chat_template().unwrap().render(&messages, true).unwrap();
    // User: Hello<eot>Assistant: Hello<eot>User: Hello<eot>Assistant:<space>, with one begin-of-text
    let (user, assistant) = ([1502, 25, 22_691, 128_009], [72_803, 25, 22_691, 128_009]);
    let expected = [&[128_000][..], &user, &assistant, &user, &[72_803, 25, 220]].concat();
    for bos in [None, Some(false)] {
        assert_eq!(tokenizer.encode(&text, Encoding { bos, special: true }).unwrap(), expected);
    }
}

/// A Hugging Face directory without a chat template gets the published one, as a GGUF file does; its own comes first.
#[test]
fn directories_without_a_chat_template() {
    let ranks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/tokenizers/llama3/tokenizer.model");
    if !ranks.exists() {
        eprintln!("SKIPPED: {} does not exist", ranks.display());
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(&ranks, directory.path().join("tokenizer.model")).unwrap();
    let open = |hidden: usize| {
        let config = serde_json::json!({
            "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "vocab_size": 128_256, "hidden_act": "relu2",
            "hidden_size": hidden, "intermediate_size": 6912, "num_hidden_layers": 30, "num_attention_heads": 20,
            "num_key_value_heads": 5, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
            "tie_word_embeddings": true,
        });
        let source = Source::HuggingFace(HfConfig { config, dir: directory.path().into(), pooling: None });
        Tokenizer::from_checkpoint(&Checkpoint { path: directory.path().into(), tensors: Default::default(), source })
            .unwrap()
    };
    let known = open(2560);
    assert_eq!(known.chat_template().unwrap().source(), BITNET_2B4T_TEMPLATE);
    assert!(known.notes()[0].contains("took the one of bitnet-b1.58-2B-4T"), "{:?}", known.notes());
    assert!(open(2580).chat_template().is_none(), "no published model has this shape");
    std::fs::write(directory.path().join("chat_template.jinja"), "its own").unwrap();
    assert_eq!(open(2560).chat_template().unwrap().source(), "its own");
}

/// Falcon-E-1B, which shares its architecture string with dense models and models trained on floats.
#[test]
fn models_trained_with_int8_are_known_in_every_ternary_encoding() {
    let read = |projections, key: Option<&str>| {
        let mut metadata = network(
            "llama",
            &[
                ("context_length", 32_768),
                ("embedding_length", 2048),
                ("block_count", 24),
                ("feed_forward_length", 9216),
                ("attention.head_count", 16),
                ("attention.head_count_kv", 2),
            ],
        );
        metadata.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        if let Some(key) = key {
            metadata.set("bitnet.activations", Value::String(key.into()));
        }
        let checkpoint = checkpoint(metadata, 32_768, 2048, projections);
        let (config, notes) = Config::read(&checkpoint, &LoadOptions::default()).unwrap();
        (config.activations, config.name, notes.iter().any(|note| note.contains("int8")))
    };
    let name = Some("Falcon-E-1B".to_string());
    assert_eq!(read(Stored::I2S(I2sLayout::X86), None), (Activations::Int8, name.clone(), false));
    assert_eq!(read(Stored::Tq2_0, None), (Activations::Int8, name.clone(), true));
    assert_eq!(read(Stored::Tq2_0, Some("float")), (Activations::Float, name, false));
    // a dense model of the same shape is another model
    assert_eq!(read(Stored::Q8_0, None), (Activations::Float, None, false));
}

/// A catalogue entry that has no chat template says nothing about one.
#[test]
fn a_1bit_llm_file_has_no_chat_template() {
    let mut metadata = network(
        "bitnet",
        &[
            ("context_length", 2048),
            ("embedding_length", 1536),
            ("block_count", 24),
            ("feed_forward_length", 4096),
            ("attention.head_count", 16),
            ("attention.head_count_kv", 16),
        ],
    );
    metadata.set("bitnet.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    let tokens = ["<unk>", "<s>", "</s>"].into_iter().map(String::from).chain((3..32_002).map(|i| format!("t{i}")));
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(StringArray::new(tokens).unwrap())));
    metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0; 32_002])));
    metadata.set("tokenizer.ggml.model", Value::String("llama".into()));
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint(metadata, 32_002, 1536, Stored::Tq1_0)).unwrap();
    assert!(tokenizer.chat_template().is_none() && tokenizer.notes().is_empty(), "{:?}", tokenizer.notes());
    assert_eq!((tokenizer.bos(), tokenizer.stop_ids()), (Some(1), &[2][..]));
}
