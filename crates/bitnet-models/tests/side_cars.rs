//! LoRA side-cars: nothing changes nothing, something is what merging would give, and what does not fit is refused by name.

#[path = "support/runner.rs"]
#[allow(dead_code)] // every test uses a part
mod runner;
#[path = "support/side_car.rs"]
mod side_car;
#[path = "support/synthetic.rs"]
#[allow(dead_code)]
mod synthetic;

use bitnet_formats::{Checkpoint, Encoding, I2sLayout};
use bitnet_kernels::{Cpu, CpuOptions};
use bitnet_models::{LoadOptions, Model};
use runner::Runner;
use side_car::Matrices;
use std::path::Path;
use synthetic::{ODD, SMALL, Sizes, Synthetic, prompt};

const I2S: Encoding = Encoding::I2S(I2sLayout::X86);
const CPU: CpuOptions = CpuOptions { threads: Some(2), isa: None };

fn beside(dir: &Path) -> LoadOptions {
    LoadOptions { lora: Some(dir.to_owned()), ..LoadOptions::default() }
}

fn logits(checkpoint: &Checkpoint, options: &LoadOptions, ids: &[u32]) -> Vec<f32> {
    Runner::new(checkpoint, options, CPU).logits(ids)
}

#[test]
fn a_side_car_of_zeros_changes_no_bit() {
    for (arch, sizes, encoding) in
        [("bitnet-b1.58", SMALL, I2S), ("llama", SMALL, I2S), ("qwen3", ODD, Encoding::F32), ("gemma3", SMALL, I2S)]
    {
        let dir = tempfile::tempdir().unwrap();
        side_car::write(dir.path(), &side_car::matrices(sizes, 3, 0.0, 7), &side_car::settings(3, 6.0));
        let checkpoint = Synthetic::new(arch, sizes, encoding, 1).checkpoint();
        let ids = prompt(40, sizes.vocab, 3);
        let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let base = bits(logits(&checkpoint, &LoadOptions::default(), &ids));
        assert!(bits(logits(&checkpoint, &beside(dir.path()), &ids)) == base, "{arch}");
        // the file alone does as well as its directory
        assert!(bits(logits(&checkpoint, &beside(&dir.path().join("adapter_model.safetensors")), &ids)) == base);
    }
}

/// A dense model with float activations, `W + B A alpha / r` merged here in f64.
#[test]
fn beside_the_weights_is_as_merged_into_them() {
    for (arch, alpha) in [("llama", 6.0), ("qwen3", 1.5)] {
        let (sizes, rank) = (SMALL, 3);
        let dir = tempfile::tempdir().unwrap();
        let matrices = side_car::matrices(sizes, rank, 0.05, 7);
        side_car::write(dir.path(), &matrices, &side_car::settings(rank, alpha));
        let plain = Synthetic::new(arch, sizes, Encoding::F32, 1).checkpoint();
        let mut merged = Synthetic::new(arch, sizes, Encoding::F32, 1);
        merge(&mut merged, &matrices, sizes, alpha / rank as f64);
        let ids = prompt(40, sizes.vocab, 3);
        let unmerged = logits(&plain, &beside(dir.path()), &ids);
        let merged = logits(&merged.checkpoint(), &LoadOptions::default(), &ids);
        let base = logits(&plain, &LoadOptions::default(), &ids);
        let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        let size = apart(&merged, &vec![0.0; merged.len()]);
        let (error, effect) = (apart(&unmerged, &merged), apart(&merged, &base));
        println!("{arch}: logits to {size}, moved by up to {effect}, error {error}");
        assert!(effect > 0.05 * size && error < 1e-4 * size, "{arch}: {error} {effect} {size}");
    }
}

/// Adds the products to the weights of a GGUF model, whose LLaMA has the rows of queries and keys in another order.
fn merge(model: &mut Synthetic, matrices: &Matrices, sizes: Sizes, scaling: f64) {
    for layer in 0..sizes.layers {
        for (theirs, ours) in [
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
        ] {
            let part = |part: &str| &matrices[&format!("base_model.model.model.layers.{layer}.{theirs}.{part}.weight")];
            let ((_, a), (_, b)) = (part("lora_A"), part("lora_B"));
            let name = format!("blk.{layer}.{ours}.weight");
            let (rows, cols) = model.tensors[&name].matrix();
            let rank = a.len() / cols;
            let mut values = Encoding::F32.decode(&model.tensors[&name].bytes, rows, cols).unwrap();
            for (row, out) in values.chunks_exact_mut(cols).enumerate() {
                let (head, r) = (row / sizes.head_dim, row % sizes.head_dim);
                let reordered = model.arch == "llama" && matches!(ours, "attn_q" | "attn_k");
                let from = if reordered { head * sizes.head_dim + r % 2 * sizes.head_dim / 2 + r / 2 } else { row };
                for (col, out) in out.iter_mut().enumerate() {
                    let sum: f64 =
                        (0..rank).map(|k| f64::from(b[from * rank + k]) * f64::from(a[k * cols + col])).sum();
                    *out = (f64::from(*out) + scaling * sum) as f32;
                }
            }
            let bytes = Encoding::F32.encode(&values, rows, cols).unwrap();
            model.insert(&name, &[rows, cols], Encoding::F32, bytes);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Synthetic::new("bitnet-b1.58", SMALL, I2S, 1).checkpoint();
    let refused = |change: &dyn Fn(&mut Matrices, &mut serde_json::Value), words: &[&str]| {
        let (mut matrices, mut settings) = (side_car::matrices(SMALL, 3, 1.0, 7), side_car::settings(3, 6.0));
        change(&mut matrices, &mut settings);
        side_car::write(dir.path(), &matrices, &settings);
        let error = Model::load(&checkpoint, Cpu::new(CPU).unwrap(), &beside(dir.path())).err().unwrap().to_string();
        words.iter().for_each(|word| assert!(error.contains(word), "{error:?} does not say {word:?}"));
    };
    let query = "base_model.model.model.layers.1.self_attn.q_proj";
    let (a, b) = (format!("{query}.lora_A.weight"), format!("{query}.lora_B.weight"));
    refused(&|m, _| drop(m.remove(&b)), &[&a, "other half"]);
    refused(&|m, _| drop(m.insert(a.clone(), (vec![3, 8], vec![0.0; 24]))), &[&a, "[3, 8]", "[3, 256]"]);
    refused(&|m, _| m.get_mut(&b).unwrap().1[5] = f32::NAN, &[&b, "NaN"]);
    refused(
        &|m, _| drop(m.insert("base_model.model.lm_head.lora_A.weight".into(), (vec![1], vec![0.0]))),
        &["lm_head", "no projection"],
    );
    let beyond = || a.replace("layers.1", "layers.7");
    refused(&|m, _| drop(m.insert(beyond(), (vec![1], vec![0.0]))), &["layers.7", "no projection"]);
    refused(&|m, _| m.clear(), &["no LoRA matrices"]);
    refused(&|_, s| s["r"] = 0.into(), &["r = 0"]);
    refused(&|_, s| s["r"] = 4.into(), &["[3, 256]", "r = 4"]);
    refused(&|_, s| s["peft_type"] = "IA3".into(), &["another type"]);
    refused(&|_, s| s["use_dora"] = true.into(), &["use_dora"]);
    refused(&|_, s| s["bias"] = "all".into(), &["biases"]);
    refused(&|_, s| s["modules_to_save"] = serde_json::json!(["lm_head"]), &["modules_to_save"]);
    refused(&|_, s| s["rank_pattern"] = serde_json::json!({ "q_proj": 2 }), &["by pattern"]);
    refused(&|_, s| s["lora_alpha"] = serde_json::Value::Null, &["adapter_config.json", "null"]);
    let nowhere = Model::load(&checkpoint, Cpu::new(CPU).unwrap(), &beside(&dir.path().join("none"))).err().unwrap();
    assert!(nowhere.to_string().contains("adapter_config.json"), "{nowhere}");
}
