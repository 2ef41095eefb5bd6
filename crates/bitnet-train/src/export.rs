//! A trained network as a Hugging Face directory: master weights that every loader ternarises by absmean, as training
//! did in every step.

use crate::checkpoint::{self, write_tensors};
use crate::network::Network;
use crate::ops::NORM_EPS;
use crate::optimizer::Optimizer;
use crate::tokenizer::Vocabulary;
use crate::whole_file::write_whole;
use crate::{Family, LoraRecipe, TrainError};
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;

/// Writes `model.safetensors`, `config.json`, `tokenizer.json` and `tokenizer_config.json` into `dir`, each whole; of a network with a
/// side-car this one instead, as PEFT has it: `adapter_model.safetensors` and `adapter_config.json`.
pub(crate) fn write(network: &Network, vocabulary: &Vocabulary, dir: &Path) -> Result<(), TrainError> {
    std::fs::create_dir_all(dir).map_err(TrainError::file(dir))?;
    let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let data: Vec<_> = network.trained().iter().map(|p| (p.name.clone(), p.dims.clone(), bytes(&p.values))).collect();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]); // transformers asks for it
    let end = vocabulary.end();
    let text = |value: &serde_json::Value| format!("{value:#}\n").into_bytes();
    write_whole(&dir.join("tokenizer.json"), vocabulary.to_json()?.as_bytes())?;
    let tokenizer = vocabulary.config(network.recipe.context);
    write_whole(&dir.join("tokenizer_config.json"), &text(&tokenizer))?;
    if let Some(lora) = &network.lora {
        write_tensors(&dir.join("adapter_model.safetensors"), &data, metadata)?;
        return write_whole(&dir.join("adapter_config.json"), &text(&adapter_config(&lora.recipe)));
    }
    write_tensors(&dir.join("model.safetensors"), &data, metadata)?;
    write_whole(&dir.join("config.json"), &text(&config(network, end)))
}

/// Writes the weights of a run's last checkpoint as a Hugging Face directory: their running mean, where the run has one.
///
/// # Errors
/// A directory without a checkpoint, a damaged one, that of a side-car, files that cannot be written.
pub fn export_last(run: &Path, dir: &Path) -> Result<(), TrainError> {
    let recipe = checkpoint::recipe(run)?;
    if recipe.lora.is_some() {
        let reason =
            "trained a side-car, which is no model: it runs beside the one that it was trained for, with --lora";
        return Err(TrainError::Model { path: run.to_owned(), reason: reason.into() });
    }
    let vocabulary = Vocabulary::of_run(run, &recipe)?;
    let mut network = Network::new(&recipe.model, vocabulary.len(), recipe.run.seed);
    let mut optimizer = Optimizer::new(&recipe.optimizer, network.trained());
    checkpoint::load(run, &recipe, &mut network, &mut optimizer)?;
    for (param, average) in network.params.iter_mut().zip(optimizer.average) {
        param.values = average;
    }
    write(&network, &vocabulary, dir)
}

fn adapter_config(lora: &LoraRecipe) -> serde_json::Value {
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": false,
        "use_dora": false,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    })
}

/// The head, and the projections that stay floats: all of them in the float twin of a BitNet, whose class alone would say that they are ternary.
fn unconverted(network: &Network) -> Vec<&str> {
    let stays = |index: &usize| !network.recipe.ternary || network.floats.contains(index);
    let projections = network.blocks.iter().flat_map(|block| block.by_input()).flatten().filter(stays);
    std::iter::once("lm_head").chain(projections.map(|index| network.params[index].module())).collect()
}

fn config(network: &Network, end: u32) -> serde_json::Value {
    let m = &network.recipe;
    let (class, model_type, activation) = match m.family {
        Family::Bitnet => ("BitNetForCausalLM", "bitnet", "relu2"),
        Family::Llama => ("LlamaForCausalLM", "llama", "silu"),
    };
    let mut config = json!({
        "architectures": [class],
        "model_type": model_type,
        "hidden_size": m.hidden,
        "intermediate_size": m.ffn,
        "num_hidden_layers": m.layers,
        "num_attention_heads": m.heads,
        "num_key_value_heads": m.kv_heads,
        "head_dim": m.head_dim,
        "vocab_size": network.vocab,
        "hidden_act": activation,
        "max_position_embeddings": m.context,
        "rope_theta": m.rope_theta,
        "rms_norm_eps": NORM_EPS,
        "tie_word_embeddings": true,
        "bos_token_id": end,
        "eos_token_id": end,
        "torch_dtype": "float32",
        "attention_bias": false,
    });
    if m.ternary || m.family == Family::Bitnet {
        config["quantization_config"] = json!({
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "online",
            "modules_to_not_convert": unconverted(network),
        });
    }
    config
}
