//! `inspect`: what the file says, what the network is, what it will take.

use crate::program::{Outcome, json, output, shared, text};

#[test]
fn the_embedded_model_is_described() {
    let report = json(&output(["inspect", "--json"]).succeeds());
    assert_eq!(report["network"]["hidden"], 256);
    assert_eq!(report["network"]["layers"], 8);
    assert_eq!(report["network"]["activation"], "relu2");
    assert_eq!(report["network"]["activations"], "int8");
    let tensors = report["tensors"].as_array().expect("tensors");
    let ternary: Vec<_> = tensors.iter().filter(|t| t["encoding"] == "I2_S").collect();
    assert_eq!(ternary.len(), 7 * 8, "seven projections in eight blocks");
    let bytes: u64 = tensors.iter().filter_map(|t| t["bytes"].as_u64()).sum();
    assert_eq!(report["tensor_bytes"], bytes);
    let text = output(["inspect"]).succeeds();
    assert!(text.contains("blk.0.attn_q.weight") && text.contains("256 × 256"), "{text}");
}

#[test]
fn more_context_takes_more_memory_and_the_sum_is_right() {
    let plan = |context: &str| json(&output(["inspect", "--json", "--context", context]).succeeds())["memory"].clone();
    let (small, large) = (plan("64"), plan("128"));
    let bytes = |plan: &serde_json::Value, key: &str| plan[key].as_u64().expect("bytes");
    // f32 keys and values: 2 × 4 bytes × 8 blocks × 2 heads × 64 channels for every position.
    assert_eq!(bytes(&large, "kv_bytes") - bytes(&small, "kv_bytes"), 64 * 2 * 4 * 8 * 2 * 64);
    for plan in [small, large] {
        let parts = ["mapped_weight_bytes", "owned_weight_bytes", "kv_bytes", "activation_bytes"];
        assert_eq!(bytes(&plan, "total_bytes"), parts.iter().map(|part| bytes(&plan, part)).sum::<u64>());
    }
}

#[test]
fn every_container_is_described() {
    for (path, container, tensors) in [
        ("data/models/stories260K/stories260K.bin", "llama2.c version 0", 47),
        ("data/models/stories260K/stories260K-v1.bin", "llama2.c version 1", 47),
        ("data/models/empty.gguf", "GGUF version 3", 0),
        ("data/odd-files/vocab-falcon-v2.gguf", "GGUF version 2", 0),
        ("crossval/bitnet-2b4t-packed", "Hugging Face directory", 0),
        ("crossval/gguf/bitnet-tq2_0.gguf", "GGUF version 3", 24),
    ] {
        let Some(model) = shared(path) else { return };
        let report = json(&output(["inspect", "--json", "--model", text(&model)]).succeeds());
        assert_eq!(report["container"], container, "{path}");
        let found = report["tensors"].as_array().expect("tensors").len();
        // 2B-4T directories: more than a handful; the exact numbers are the file's business.
        if path.ends_with("packed") {
            assert!(found > 20)
        } else {
            assert_eq!(found, tensors, "{path}")
        }
        output(["inspect", "--model", text(&model)]).succeeds();
    }
}

#[test]
fn files_without_a_network_say_so_and_are_shown_all_the_same() {
    let Some(model) = shared("data/tokenizers/ggml-vocab/gpt-2.gguf") else { return };
    let report = json(&output(["inspect", "--json", "--model", text(&model)]).succeeds());
    assert!(report["network"].is_null() && report["no_network"].is_string(), "{report}");
    assert_eq!(report["metadata"]["tokenizer.ggml.tokens"]["length"], 50257);
}
