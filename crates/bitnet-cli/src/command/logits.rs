//! `bitnet logits`: token ids in, logits out, for comparison with other engines; or how two such files differ.

use crate::console::Console;
use crate::model_args::ModelArgs;
use crate::numbers;
use crate::whole_file::whole_file;
use anyhow::{Context, bail};
use bitnet::Engine;
use bitnet::formats::{Tensor, safetensors};
use bitnet::inference::{LogitsDiff, LogitsDiffReport};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Write the logits at every position of lists of token ids, or compare two files of logits
#[derive(Args, Debug)]
pub(crate) struct LogitsArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// JSON: a list of lists of token ids
    #[arg(long, value_name = "FILE", required_unless_present = "diff")]
    ids: Option<PathBuf>,
    /// safetensors file to write: `logits.N` is f32 [tokens, vocab] of list N
    #[arg(long, value_name = "FILE", required_unless_present = "diff")]
    out: Option<PathBuf>,
    /// Compare two files that were written so: expected, found
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["ids", "out"])]
    diff: Option<Vec<PathBuf>>,
    /// Print the comparison as a JSON object
    #[arg(long, requires = "diff")]
    json: bool,
}

pub(crate) fn run(args: &LogitsArgs, console: &Console) -> anyhow::Result<()> {
    if let Some([a, b]) = args.diff.as_deref() {
        return compare(a, b, args.json);
    }
    let (Some(ids), Some(out)) = (&args.ids, &args.out) else { bail!("--ids and --out belong together") };
    let text = std::fs::read_to_string(ids).with_context(|| ids.display().to_string())?;
    let lists: Vec<Vec<u32>> = serde_json::from_str(&text)
        .with_context(|| format!("{}: expected a JSON list of lists of token ids", ids.display()))?;
    let engine = args.model.engine(console)?;
    whole_file(out, |file| write(&engine, &lists, file, console)).with_context(|| out.display().to_string())?;
    console.say(format!("{}: logits of {}", out.display(), numbers::count(lists.len(), "list")));
    Ok(())
}

/// Prints how the tensors of two files differ, one by one and together.
fn compare(a: &Path, b: &Path, json: bool) -> anyhow::Result<()> {
    let (expected, found) = (read(a)?, read(b)?);
    if !expected.keys().eq(found.keys()) {
        let names = |file: &BTreeMap<String, Tensor>| file.keys().cloned().collect::<Vec<_>>().join(", ");
        bail!(
            "the files hold other lists: {} in {}, {} in {}",
            names(&expected),
            a.display(),
            names(&found),
            b.display()
        );
    }
    let mut all = LogitsDiff::default();
    let mut reports = Vec::new();
    for (name, expected) in &expected {
        let mut diff = LogitsDiff::default();
        let found = &found[name];
        if expected.shape != found.shape {
            bail!("{name} is {:?} in {} and {:?} in {}", expected.shape, a.display(), found.shape, b.display());
        }
        let vocab = expected.shape.last().copied().unwrap_or_default().max(1);
        let rows = |tensor: &Tensor| tensor.encoding.decode(&tensor.bytes, tensor.len() / vocab, vocab);
        for (expected, found) in rows(expected)?.chunks_exact(vocab).zip(rows(found)?.chunks_exact(vocab)) {
            diff.add(expected, found);
            all.add(expected, found);
        }
        reports.push((name.as_str(), diff.report()));
    }
    reports.push(("all", all.report()));
    let mut out = io::stdout().lock();
    if json {
        let reports: serde_json::Map<_, _> = reports.iter().map(|(name, r)| ((*name).to_owned(), json!(r))).collect();
        return Ok(writeln!(out, "{}", serde_json::Value::Object(reports))?);
    }
    writeln!(
        out,
        "{:<20} {:>9} {:>9} {:>12} {:>12} {:>12} {:>12}",
        "", "positions", "argmax %", "max abs", "min cosine", "mean KL", "max KL"
    )?;
    for (name, r) in &reports {
        let LogitsDiffReport { positions, max_abs, min_cosine, mean_kl, max_kl, .. } = r;
        let same = if r.identical { "  the same bits" } else { "" };
        writeln!(
            out,
            "{name:<20} {positions:>9} {:>9.2} {max_abs:>12.3e} {min_cosine:>12.8} {mean_kl:>12.3e} {max_kl:>12.3e}{same}",
            100.0 * r.argmax_agreement
        )?;
    }
    Ok(out.flush()?)
}

/// The tensors of a file.
fn read(path: &Path) -> anyhow::Result<BTreeMap<String, Tensor>> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).with_context(|| name.clone())?;
    Ok(safetensors::parse(&name, &bytes.into())?)
}

/// One list in memory at a time: the header needs only the shapes.
fn write(engine: &Engine, lists: &[Vec<u32>], file: &mut File, console: &Console) -> anyhow::Result<()> {
    let vocab = engine.model().config().vocab;
    let mut out = BufWriter::new(file);
    out.write_all(&header(lists, vocab)?)?;
    let bar = console.step_bar("logits", lists.iter().map(|l| l.len() as u64).sum());
    for (n, ids) in lists.iter().enumerate() {
        let logits = engine.logits(ids).with_context(|| format!("list {n}"))?;
        if logits.len() != ids.len() * vocab {
            bail!("list {n}: the engine gave {} logits for {} tokens of {vocab}", logits.len(), ids.len());
        }
        for value in logits {
            out.write_all(&value.to_le_bytes())?;
        }
        bar.inc(ids.len() as u64);
    }
    bar.finish_and_clear();
    Ok(out.flush()?)
}

/// Length, then JSON, padded with blanks to eight bytes (safetensors).
fn header(lists: &[Vec<u32>], vocab: usize) -> anyhow::Result<Vec<u8>> {
    let mut tensors = serde_json::Map::new();
    let mut start = 0usize;
    for (n, ids) in lists.iter().enumerate() {
        let bytes = ids.len().checked_mul(vocab).and_then(|n| n.checked_mul(size_of::<f32>()));
        let end = bytes.and_then(|b| start.checked_add(b)).context("more logits than a file can hold")?;
        let tensor = json!({ "dtype": "F32", "shape": [ids.len(), vocab], "data_offsets": [start, end] });
        tensors.insert(format!("logits.{n}"), tensor);
        start = end;
    }
    let mut text = serde_json::to_vec(&tensors)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::header;
    use safetensors::SafeTensors;

    #[test]
    fn the_safetensors_crate_reads_the_header() {
        let lists = [vec![1, 2, 3], vec![], vec![4]];
        let mut file = header(&lists, 5).unwrap();
        file.extend((0..20u8).flat_map(|i| f32::from(i).to_le_bytes()));
        let tensors = SafeTensors::deserialize(&file).unwrap();
        assert_eq!(tensors.tensor("logits.0").unwrap().shape(), [3, 5]);
        assert_eq!(tensors.tensor("logits.1").unwrap().shape(), [0, 5]);
        let last = tensors.tensor("logits.2").unwrap();
        assert_eq!(last.data()[..4], 15f32.to_le_bytes());
    }
}
