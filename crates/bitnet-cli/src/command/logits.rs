//! `bitnet logits`: token ids in, logits out, for comparison with other engines.

use crate::console::Console;
use crate::model_args::ModelArgs;
use crate::numbers;
use anyhow::{Context, bail};
use bitnet::Engine;
use clap::Args;
use serde_json::json;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// Write the logits at every position of lists of token ids
#[derive(Args, Debug)]
pub(crate) struct LogitsArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// JSON: a list of lists of token ids
    #[arg(long, value_name = "FILE")]
    ids: PathBuf,
    /// safetensors file to write: `logits.N` is f32 [tokens, vocab] of list N
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn run(args: &LogitsArgs, console: &Console) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&args.ids).with_context(|| args.ids.display().to_string())?;
    let lists: Vec<Vec<u32>> = serde_json::from_str(&text)
        .with_context(|| format!("{}: expected a JSON list of lists of token ids", args.ids.display()))?;
    let engine = args.model.engine(console)?;
    let mut file = File::create(&args.out).with_context(|| args.out.display().to_string())?;
    if let Err(error) = write(&engine, &lists, &mut file, console).with_context(|| args.out.display().to_string()) {
        if file.metadata().is_ok_and(|m| m.is_file()) {
            // Half a file helps nobody; the error that counts is the one being returned.
            let _ = std::fs::remove_file(&args.out);
        }
        return Err(error);
    }
    console.say(format!("{}: logits of {}", args.out.display(), numbers::count(lists.len(), "list")));
    Ok(())
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
