//! Results of other engines that lie in files.

use super::{Allowed, Row};
use anyhow::Context;
use bitnet::kernels::Activation;
use bitnet::models::{Activations, Pooling};
use bitnet::{Engine, EngineOptions, LoadOptions};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Of llama.cpp on the same weights as floats, when ours takes floats too.
const FLOAT_TOLERANCE: f64 = 1e-4;

/// The folders of `crossval/golden`: a model, `ids.json`, `logits.safetensors`, `expected.json`.
pub(super) fn dumps(folder: &Path) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for folder in folders(folder)? {
        let expected = json(&folder.join("expected.json"))?;
        let ids: Vec<Vec<u32>> = serde_json::from_value(json(&folder.join("ids.json"))?)?;
        let bytes = read(&folder.join("logits.safetensors"))?;
        let tensors = SafeTensors::deserialize(&bytes)?;
        let engine = Engine::new(&folder)?;
        let lists = ids
            .iter()
            .enumerate()
            .map(|(n, ids)| Ok((floats(&tensors, &format!("logits.{n}"))?, engine.logits(ids)?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let tolerance = expected["tolerance_abs"].as_f64().context("expected.json: tolerance_abs")?;
        let vocab = engine.model().config().vocab;
        let family = format!("golden/{}", name(&folder));
        rows.push(Row::new(family, oracle(&expected), vocab, &lists, Some(&ids), Allowed::Rounding(tolerance))?);
    }
    Ok(rows)
}

/// The folders of the golden data beside the checkout: Hugging Face models with `golden.safetensors`, and `gguf/`.
pub(super) fn folder(folder: &Path) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for folder in folders(folder)? {
        if folder.join("golden.safetensors").exists() {
            rows.push(huggingface(&folder).with_context(|| folder.display().to_string())?);
        } else if folder.join("logits.safetensors").exists() {
            rows.extend(gguf(&folder).with_context(|| folder.display().to_string())?);
        }
    }
    Ok(rows)
}

fn huggingface(folder: &Path) -> anyhow::Result<Row> {
    let golden = json(&folder.join("golden.json"))?;
    let bytes = read(&folder.join("golden.safetensors"))?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let engine = Engine::new(folder)?;
    let config = engine.model().config();
    let tolerance = Allowed::Rounding(golden["tolerance"]["abs"].as_f64().context("golden.json: tolerance")?);
    let mut ids = Vec::new();
    while let Ok(list) = integers(&tensors, &format!("seq{}.input_ids", ids.len())) {
        ids.push(list);
    }
    let (width, logits) = match config.pooling {
        None => (config.vocab, true),
        Some(_) => (config.hidden, false),
    };
    let pooled = if config.pooling == Some(Pooling::Last) { "last" } else { "mean" };
    let lists = ids
        .iter()
        .enumerate()
        .map(|(n, ids)| {
            Ok(match logits {
                true => (floats(&tensors, &format!("seq{n}.logits"))?, engine.logits(ids)?),
                false => (floats(&tensors, &format!("seq{n}.embedding.{pooled}"))?, engine.embed_ids(ids)?),
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    Row::new(name(folder), oracle(&golden), width, &lists, logits.then_some(&ids), tolerance)
}

/// GGUF files with the logits of llama.cpp on a copy of them in F32: ours takes floats and, as its `bitnet` graph, SiLU.
fn gguf(folder: &Path) -> anyhow::Result<Vec<Row>> {
    let bytes = read(&folder.join("logits.safetensors"))?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let about = json(&folder.join("logits.json"))?;
    let version = about["versions"]["llama_cpp_python"].as_str().unwrap_or("?");
    let mut names: Vec<_> = tensors.names().into_iter().filter_map(|name| name.strip_suffix(".input_ids")).collect();
    names.sort_unstable();
    let mut rows = Vec::new();
    for name in names {
        let ids = vec![integers(&tensors, &format!("{name}.input_ids"))?];
        let load = LoadOptions {
            activations: Some(Activations::Float),
            activation: name.starts_with("bitnet").then_some(Activation::Silu),
            ..LoadOptions::default()
        };
        let options = EngineOptions { load, ..EngineOptions::default() };
        let engine = Engine::open(folder.join(format!("{name}.gguf")), options)?;
        let theirs = floats(&tensors, &format!("{name}.llama_cpp_weights_as_f32.logits"))?;
        let lists = [(theirs, engine.logits(&ids[0])?)];
        let vocab = engine.model().config().vocab;
        let peer = format!("llama.cpp ({version}), F32 copy");
        let allowed = Allowed::Rounding(FLOAT_TOLERANCE);
        rows.push(Row::new(format!("gguf/{name}"), peer, vocab, &lists, Some(&ids), allowed)?);
    }
    Ok(rows)
}

/// The folders in a folder, by name.
fn folders(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut folders = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    folders.retain(|path| path.is_dir());
    folders.sort();
    Ok(folders)
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// `transformers 5.23.0 BitNetForCausalLM on CPU` without its ending.
fn oracle(golden: &Value) -> String {
    let text = golden["oracle"].as_str().unwrap_or("?");
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

fn json(path: &Path) -> anyhow::Result<Value> {
    serde_json::from_slice(&read(path)?).with_context(|| path.display().to_string())
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> anyhow::Result<Vec<f32>> {
    let tensor = tensors.tensor(name).with_context(|| name.to_owned())?;
    Ok(tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

fn integers(tensors: &SafeTensors<'_>, name: &str) -> anyhow::Result<Vec<u32>> {
    let tensor = tensors.tensor(name).with_context(|| name.to_owned())?;
    let values = tensor.data().as_chunks::<8>().0.iter().map(|bytes| u32::try_from(i64::from_le_bytes(*bytes)));
    values.collect::<Result<_, _>>().with_context(|| name.to_owned())
}
