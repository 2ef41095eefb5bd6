//! `bitnet verify`: is the file what it should be, and does this machine compute it right?

mod receipt;

use crate::console::Console;
use crate::model_args::{ModelArgs, ModelFiles, engine_of};
use crate::numbers;
use anyhow::{Context, bail};
use bitnet::formats::gguf;
use bitnet::kernels::{Isa, self_test};
use bitnet::models::{catalogue, side_car_files};
use clap::Args;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Check a model: file hashes, every ternary code, every dense value, the kernels, and a fingerprint of its output
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Write what was checked and computed, for --check on any machine
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    receipt: Option<PathBuf>,
    /// Compute again what a receipt says, and compare; without --model the model that it names
    #[arg(long, value_name = "RECEIPT")]
    check: Option<PathBuf>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// A file of the model and its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hashed {
    name: String,
    bytes: u64,
    sha256: String,
}

pub(crate) fn run(args: &VerifyArgs, console: &Console) -> anyhow::Result<()> {
    if let Some(path) = &args.check {
        return receipt::check(path, &args.model, args.json, console);
    }
    let checkpoint = args.model.files.checkpoint(console)?;
    let files = hash_files(&args.model.files, console)?;
    let known = catalogue::of(&checkpoint);
    let published = known.and_then(|entry| {
        entry.sha256.iter().find(|(_, digest)| files.iter().any(|f| f.sha256 == *digest)).map(|(name, _)| *name)
    });
    let bar = console.byte_bar("scanning", checkpoint.tensors.values().map(|t| t.bytes.len() as u64).sum());
    let scan = checkpoint.scan(&mut |bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let kernels: Vec<_> = Isa::available().into_iter().map(|isa| (isa, self_test(isa).err())).collect();
    let receipt = match (&args.receipt, scan.failures.is_empty()) {
        (Some(_), true) => Some(receipt::make(&checkpoint, &args.model, files.clone(), console)?),
        _ => None,
    };
    let fingerprint = match &receipt {
        Some(receipt) => Some(receipt.fingerprint.clone()),
        None if scan.failures.is_empty() => {
            Some(engine_of(&checkpoint, &args.model.files.path, args.model.options(), console)?.fingerprint()?)
        }
        None => None,
    };
    let ok = scan.failures.is_empty() && kernels.iter().all(|(_, error)| error.is_none());

    let mut out = io::stdout().lock();
    if args.json {
        let report = json!({
            "model": args.model.files.path.name(),
            "ok": ok,
            "files": files,
            "shape_of": known.map(|entry| entry.name),
            "published_file": published,
            "ternary_tensors": scan.ternary,
            "dense_tensors": scan.dense,
            "codes": { "minus": scan.codes[0], "zero": scan.codes[1], "plus": scan.codes[2] },
            "failures": scan.failures.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "kernels": kernels
                .iter()
                .map(|(isa, error)| json!({ "isa": isa.name(), "error": error.as_ref().map(ToString::to_string) }))
                .collect::<Vec<_>>(),
            "fingerprint": fingerprint,
        });
        writeln!(out, "{report}")?;
    } else {
        for f in &files {
            writeln!(out, "sha256       {}  {} ({})", f.sha256, f.name, numbers::bytes(f.bytes))?;
        }
        match (known, published) {
            (Some(entry), Some(file)) => writeln!(out, "known        {}, published file {file}", entry.name)?,
            (Some(entry), None) => writeln!(out, "known        shape of {}; not a file in the catalogue", entry.name)?,
            (None, _) => writeln!(out, "known        no: not in the catalogue of published models")?,
        }
        let total = scan.codes.iter().sum::<u64>().max(1) as f64;
        let share = scan.codes.map(|n| numbers::digits(n as f64 / total * 100.0));
        writeln!(out, "tensors      {} ternary, {} dense", scan.ternary, scan.dense)?;
        if scan.ternary > 0 {
            writeln!(out, "codes        −1 {} %, 0 {} %, +1 {} %", share[0], share[1], share[2])?;
        }
        for (isa, error) in &kernels {
            match error {
                None => writeln!(out, "kernels      {isa}: agree with the scalar oracle")?,
                Some(error) => writeln!(out, "kernels      {isa}: FAILED: {error}")?,
            }
        }
        if let Some(fingerprint) = &fingerprint {
            writeln!(out, "fingerprint  {fingerprint} (the same on every machine)")?;
        }
        for failure in &scan.failures {
            writeln!(out, "FAILED       {failure}")?;
        }
    }
    out.flush()?;
    if !ok {
        bail!("{} did not pass", args.model.files.path.name());
    }
    if let (Some(path), Some(receipt)) = (&args.receipt, &receipt) {
        receipt.write(path)?;
        console.say(format!("{}: receipt; bitnet verify --check computes it again", path.display()));
    }
    Ok(())
}

/// The model's files: all parts of a GGUF, the weights of a directory, or the embedded model; then those of the side-car.
fn hash_files(files: &ModelFiles, console: &Console) -> anyhow::Result<Vec<Hashed>> {
    let mut paths = match &files.path.model {
        None => Vec::new(),
        Some(path) if path.is_dir() => weights_in(path)?,
        Some(path) => gguf::parts(path),
    };
    paths.extend(files.lora.iter().flat_map(|path| side_car_files(path)));
    let size = |path: &PathBuf| Ok(std::fs::metadata(path).with_context(|| path.display().to_string())?.len());
    let bar = console.byte_bar("hashing", paths.iter().map(size).sum::<anyhow::Result<u64>>()?);
    let hashed = paths.iter().map(|path| hash_file(path, &bar).with_context(|| path.display().to_string()));
    let embedded = files.path.model.is_none().then(embedded).flatten();
    let hashed = embedded.into_iter().map(Ok).chain(hashed).collect();
    bar.finish_and_clear();
    hashed
}

fn weights_in(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|e| e == "safetensors"));
    files.sort();
    Ok(files)
}

fn hash_file(path: &Path, bar: &ProgressBar) -> io::Result<Hashed> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        digest.update(&buffer[..n]);
        bytes += n as u64;
        bar.inc(n as u64);
    }
    Ok(Hashed { name: path.display().to_string(), bytes, sha256: hex(&digest.finalize()) })
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(feature = "default-model")]
fn embedded() -> Option<Hashed> {
    let bytes = bitnet::default_model();
    Some(Hashed { name: "embedded model".into(), bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(bytes)) })
}

#[cfg(not(feature = "default-model"))]
fn embedded() -> Option<Hashed> {
    None
}
