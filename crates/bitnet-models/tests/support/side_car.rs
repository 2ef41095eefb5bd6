//! LoRA side-cars, made in memory and written as PEFT does.

use super::synthetic::{Random, Sizes};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::path::Path;

/// Matrices by their names in the file: shape and values.
pub(crate) type Matrices = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Random matrices beside every projection (`B` times `strength`).
pub(crate) fn matrices(sizes: Sizes, rank: usize, strength: f32, seed: u64) -> Matrices {
    let Sizes { hidden, ffn, layers, heads, kv_heads, head_dim, .. } = sizes;
    let (query, kv) = (heads * head_dim, kv_heads * head_dim);
    let mut random = Random(seed);
    let mut all = Matrices::new();
    for layer in 0..layers {
        for (name, rows, cols) in [
            ("self_attn.q_proj", query, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, query),
            ("mlp.gate_proj", ffn, hidden),
            ("mlp.up_proj", ffn, hidden),
            ("mlp.down_proj", hidden, ffn),
        ] {
            let stem = format!("base_model.model.model.layers.{layer}.{name}");
            let mut values = |len: usize, factor: f32| (0..len).map(|_| factor * random.signed()).collect();
            all.insert(format!("{stem}.lora_A.weight"), (vec![rank, cols], values(rank * cols, 1.0)));
            all.insert(format!("{stem}.lora_B.weight"), (vec![rows, rank], values(rows * rank, strength)));
        }
    }
    all
}

/// The settings that PEFT writes.
pub(crate) fn settings(rank: usize, alpha: f64) -> serde_json::Value {
    serde_json::json!({
        "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "bias": "none", "use_rslora": false, "use_dora": false,
        "fan_in_fan_out": false, "modules_to_save": null, "rank_pattern": {}, "alpha_pattern": {},
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    })
}

pub(crate) fn write(dir: &Path, matrices: &Matrices, settings: &serde_json::Value) {
    let bytes: BTreeMap<&String, Vec<u8>> = matrices
        .iter()
        .map(|(name, (_, values))| (name, values.iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let views = matrices
        .iter()
        .map(|(name, (shape, _))| (name, TensorView::new(Dtype::F32, shape.clone(), &bytes[name]).unwrap()));
    safetensors::serialize_to_file(views, None, &dir.join("adapter_model.safetensors")).unwrap();
    std::fs::write(dir.join("adapter_config.json"), settings.to_string()).unwrap();
}
