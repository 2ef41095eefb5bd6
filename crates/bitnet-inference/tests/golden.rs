//! Perplexities and embeddings of `shared/crossval`, through the engine. (Logits are compared in `bitnet-models`.)

use bitnet_inference::{Engine, EngineOptions, Windows};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Folders that hold golden data.
fn folders() -> Vec<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/crossval");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&root)
        .map(|entries| entries.flatten().map(|e| e.path()).filter(|p| p.join("golden.json").exists()).collect())
        .unwrap_or_default();
    folders.sort();
    if folders.is_empty() {
        eprintln!("SKIPPED: no golden data in {}", root.display());
    }
    folders
}

fn golden(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("golden.json")).expect("readable");
    serde_json::from_str(&text).expect("valid JSON")
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("id") as u32).collect()
}

#[test]
fn perplexities() {
    let mut models = 0;
    for folder in folders() {
        let golden = golden(&folder);
        let expected = &golden["perplexity"];
        if expected.is_null() {
            continue;
        }
        models += 1;
        let name = folder.file_name().expect("name").to_string_lossy().into_owned();
        let engine = Engine::open(&folder, EngineOptions::default()).expect(&name);
        let ids = ids(&expected["ids"]);
        let whole = Windows { context: ids.len(), stride: ids.len() };
        let found = engine.perplexity(&ids, whole, &mut |_, _| true).expect(&name);
        assert_eq!(found.tokens, ids.len() - 1, "{name}");
        let wanted = expected["perplexity"].as_f64().expect("number");
        let relative = (found.perplexity / wanted - 1.0).abs();
        eprintln!("{name}: {} (relative difference {relative:e})", found.perplexity);
        assert!(relative < 1e-5, "{name}: {} instead of {wanted}", found.perplexity);
        // the standard error from the per-token losses of the golden file
        let losses: Vec<f64> =
            expected["nll"].as_array().expect("losses").iter().map(|x| x.as_f64().expect("number")).collect();
        let (n, mean) = (losses.len() as f64, losses.iter().sum::<f64>() / losses.len() as f64);
        let error = (losses.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt();
        assert!((found.nll_error / error - 1.0).abs() < 1e-4, "{name}: {} instead of {error}", found.nll_error);
    }
    if models > 0 {
        assert!(models >= 11, "only {models} models have a perplexity");
    }
}

/// The windows, against a second statement of the protocol in terms of whole-sequence logits.
#[test]
fn strided_windows() {
    let Some(folder) = folders().into_iter().find(|f| f.ends_with("bitnet-2b4t-packed")) else { return };
    let engine = Engine::open(&folder, EngineOptions::default()).expect("opens");
    let vocab = engine.model().config().vocab;
    let ids = ids(&golden(&folder)["perplexity"]["ids"]);
    for (context, stride) in [(20, 7), (20, 20), (64, 10), (1000, 1000), (2, 1)] {
        let mut losses: Vec<Option<f64>> = vec![None; ids.len()];
        let mut begin = 0;
        loop {
            let end = (begin + context).min(ids.len());
            let logits = engine.logits(&ids[begin..end]).expect("fits");
            for i in begin + 1..end {
                if losses[i].is_none() {
                    let row = &logits[(i - 1 - begin) * vocab..][..vocab];
                    let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
                    losses[i] = Some(total.ln() - f64::from(row[ids[i] as usize]));
                }
            }
            if end == ids.len() {
                break;
            }
            begin += stride;
        }
        let scored: Vec<f64> = losses.into_iter().flatten().collect();
        let mut calls = 0;
        let found = engine
            .perplexity(&ids, Windows { context, stride }, &mut |_, done| {
                calls += 1;
                done <= ids.len()
            })
            .expect("valid");
        assert_eq!(found.tokens, scored.len(), "{context} {stride}");
        let mean = scored.iter().sum::<f64>() / scored.len() as f64;
        assert!((found.nll - mean).abs() < 1e-9, "{context} {stride}: {} instead of {mean}", found.nll);
        assert!(calls > 0);
    }
    assert!(engine.perplexity(&ids[..1], Windows { context: 8, stride: 8 }, &mut |_, _| true).is_err());
    assert!(engine.perplexity(&ids, Windows { context: 8, stride: 9 }, &mut |_, _| true).is_err());
    let stopped = engine.perplexity(&ids, Windows { context: 8, stride: 8 }, &mut |_, _| false).expect("one window");
    assert_eq!(stopped.tokens, 7);
}

#[test]
fn embeddings() {
    let mut compared = 0;
    for folder in folders() {
        let name = folder.file_name().expect("name").to_string_lossy().into_owned();
        let data = std::fs::read(folder.join("golden.safetensors")).expect("readable");
        let tensors = safetensors::SafeTensors::deserialize(&data).expect("valid");
        let mean = std::fs::read_to_string(folder.join("1_Pooling/config.json"))
            .is_ok_and(|text| text.replace(' ', "").contains("\"pooling_mode_mean_tokens\":true"));
        let kind = if mean { "mean" } else { "last" };
        let mut engine = None;
        for (key, ids) in tensors.tensors() {
            let Some(sequence) = key.strip_suffix(".input_ids") else { continue };
            let Ok(expected) = tensors.tensor(&format!("{sequence}.embedding.{kind}")) else { continue };
            let ids: Vec<u32> = ids.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect();
            let expected: Vec<f32> =
                expected.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let options = EngineOptions { chunk: Some(16), ..EngineOptions::default() };
            let engine = engine.get_or_insert_with(|| Engine::open(&folder, options).expect(&name));
            let found = engine.embed_ids(&ids).expect(&name);
            let error = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(found.len() == expected.len() && error < 2e-6, "{name} {sequence} {kind}: error {error:e}");
            compared += 1;
        }
        if let Some(engine) = engine {
            assert!(engine.logits(&[1]).is_err(), "an embedding model has no logits");
            assert_eq!(engine.fingerprint().expect("finite").len(), 16);
        }
    }
    if !folders().is_empty() {
        assert!(compared >= 4, "only {compared} embeddings compared");
    }
}
