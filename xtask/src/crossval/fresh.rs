//! Random models that are made now: agreement on them cannot have been fitted.

use super::{Allowed, Row};
use crate::fixture::{self, Size};
use crate::peer::{Engine as PeerEngine, Peer, script};
use anyhow::{Context, ensure};
use bitnet::kernels::Activation;
use bitnet::models::Activations;
use bitnet::{Engine, EngineOptions, LoadOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lengths of the lists of ids.
const LENGTHS: [usize; 3] = [1, 17, 48];
/// Dense models in float32 on both sides.
const DENSE: Allowed = Allowed::Rounding(1e-3);
const TERNARY: Allowed = Allowed::Cosine(0.99, "a code at a rounding tie moves all later positions");
const BLOCKS: Allowed = Allowed::Cosine(0.99, "llama.cpp rounds activations in blocks of 256");

/// A folder that is gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("bitnet-crossval-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// BitNet models in the encodings that llama.cpp reads. Its graph has SiLU and it keeps activations in float, but for rounding.
pub(super) fn llama_cpp(python: &Path, seed: u32) -> anyhow::Result<Vec<Row>> {
    let folder = Folder::new("llama-cpp")?;
    let mut rows = Vec::new();
    for encoding in ["tq1_0", "tq2_0"] {
        fixture::write(Size::Tiny, &folder.0, encoding.parse()?, seed)?;
        let model = folder.0.join(format!("bitnet-tiny-{encoding}.gguf"));
        let load = LoadOptions {
            activations: Some(Activations::Float),
            activation: Some(Activation::Silu),
            ..LoadOptions::default()
        };
        rows.push(compare(PeerEngine::LlamaCpp, python, &model, load, seed, format!("random/{encoding}"), BLOCKS)?);
    }
    Ok(rows)
}

/// Checkpoints that transformers itself has made.
pub(super) fn transformers(python: &Path, seed: u32) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (family, allowed) in [("bitnet", TERNARY), ("llama", DENSE), ("qwen3", DENSE), ("qwen3-ternary", TERNARY)] {
        let folder = Folder::new(family)?;
        let made = Command::new(python)
            .arg(script("random_checkpoint.py"))
            .args([family, &seed.to_string()])
            .arg(&folder.0)
            .output()
            .with_context(|| format!("{} does not start", python.display()))?;
        ensure!(made.status.success(), "{family}: {}", String::from_utf8_lossy(&made.stderr));
        let (peer, load) = (PeerEngine::Transformers, LoadOptions::default());
        rows.push(compare(peer, python, &folder.0, load, seed, format!("random/{family}"), allowed)?);
    }
    Ok(rows)
}

fn compare(
    peer: PeerEngine,
    python: &Path,
    model: &Path,
    load: LoadOptions,
    seed: u32,
    family: String,
    allowed: Allowed,
) -> anyhow::Result<Row> {
    let engine = Engine::open(model, EngineOptions { load, ..EngineOptions::default() })?;
    let vocab = engine.model().config().vocab;
    let mut random = fixture::Random::of("ids", seed);
    let ids = LENGTHS.map(|length| (0..length).map(|_| (random.next() % vocab as u64) as u32).collect::<Vec<_>>());
    let mut peer = Peer::start(peer, python, model, &["--logits".to_owned()])?;
    let theirs = peer.logits(&ids)?;
    let lists = theirs
        .into_iter()
        .zip(&ids)
        .map(|(theirs, ids)| Ok((theirs, engine.logits(ids)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let name = peer.name.split(',').next().unwrap_or_default().replace(" in llama-cpp-python", "");
    Row::new(family, name, vocab, &lists, Some(&ids), allowed)
}
