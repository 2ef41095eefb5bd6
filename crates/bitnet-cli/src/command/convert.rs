//! `bitnet convert`: any model that runs → one GGUF file in a chosen encoding.

use crate::console::Console;
use crate::failure::Interrupted;
use crate::interrupt::Watch;
use crate::model_args::{LoadArgs, ModelPath};
use crate::numbers;
use anyhow::bail;
use bitnet::formats::{Checkpoint, Encoding, FormatError};
use bitnet::kernels::{Cpu, CpuOptions};
use bitnet::models::ModelError;
use bitnet::models::export::{Export, ExportOptions, Outcome, compare_logits};
use bitnet::{LoadOptions, Tokenizer};
use clap::Args;
use serde_json::json;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Convert a model to GGUF; the output gets its name only after it computed what the input computes
///
/// Ternary weights are never rounded: where an encoding cannot hold them, nothing is written and the reason is given.
#[derive(Args, Debug)]
pub(crate) struct ConvertArgs {
    /// GGUF file, Hugging Face directory or llama2.c .bin
    #[arg(long, short, value_name = "PATH")]
    input: PathBuf,
    /// GGUF file to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Encoding of the projections: i2_s, tq1_0, tq2_0, q2_0 … for ternary models; f32, f16, bf16, q8_0 … for others
    #[arg(long = "type", value_name = "TYPE")]
    encoding: Encoding,
    /// Encoding of the embedding and the head [default: f16 where that is exact, else as in the input]
    #[arg(long, value_name = "TYPE")]
    embedding: Option<Encoding>,
    /// Tokenizer to store instead of the input's
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    #[command(flatten)]
    load: LoadArgs,
    /// Print what would be written, tensor by tensor, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the plan as a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &ConvertArgs, console: &Console) -> anyhow::Result<()> {
    refuse_same_file(&args.input, &args.output)?;
    let path = ModelPath { model: Some(args.input.clone()), tokenizer: args.tokenizer.clone() };
    let checkpoint = path.checkpoint(&args.load, console)?;
    let tokenizer = args.tokenizer.as_deref().map(Tokenizer::open).transpose()?;
    let load = args.load.options();
    let options = ExportOptions {
        encoding: args.encoding,
        embedding: args.embedding,
        tokenizer: tokenizer.as_ref(),
        load: &load,
    };
    let export = Export::plan(&checkpoint, &options)?;
    for note in export.notes() {
        console.note(note);
    }
    if args.dry_run || args.json {
        let mut out = io::stdout().lock();
        if args.json {
            writeln!(out, "{}", plan_json(&export))?
        } else {
            plan_text(&export, &mut out)?
        }
        out.flush()?;
    }
    if args.dry_run {
        let impossible = export.tensors().iter().filter(|t| matches!(t.outcome, Outcome::Impossible { .. })).count();
        if impossible > 0 {
            bail!("{} cannot be written so; choose another --type", numbers::count(impossible, "tensor"));
        }
        return Ok(());
    }
    let bar = console.byte_bar("writing", export.tensors().iter().map(|t| t.bytes).sum());
    let mut verdict = None;
    let watch = Watch::start()?;
    let written = export.write(
        &args.output,
        &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
            !watch.asked()
        },
        &mut |written| {
            bar.finish_and_clear();
            verdict = Some(check(&checkpoint, &load, written, export.is_exact())?);
            if watch.asked() { Err(FormatError::Cancelled) } else { Ok(()) }
        },
    );
    if watch.asked() && written.is_err() {
        return Err(Interrupted.into());
    }
    written?;
    let size = std::fs::metadata(&args.output).map(|m| numbers::bytes(m.len())).unwrap_or_default();
    console.say(format!("{}: {size}, {}", args.output.display(), verdict.unwrap_or_default()));
    Ok(())
}

/// The output must compute what the input computes: the same bits if no value was rounded.
fn check(input: &Checkpoint, load: &LoadOptions, written: &Path, exact: bool) -> Result<String, FormatError> {
    let output = Checkpoint::open(written)?;
    let backend = || CpuOptions::from_env().and_then(Cpu::new).map_err(|e| ModelError::Config(e.to_string()));
    let refuse = |reason: String| FormatError::Container { file: written.display().to_string(), reason };
    let likeness = compare_logits(input, load, &output, backend).map_err(|error| refuse(error.to_string()))?;
    if exact && !likeness.identical {
        let difference = likeness.largest_difference;
        return Err(refuse(format!(
            "computes other logits than the input (largest difference {difference}); not kept"
        )));
    }
    Ok(match likeness.identical {
        true => "computes the same bits as the input".into(),
        false => format!(
            "rounded as asked: logits differ by at most {} (cosine {:.6})",
            likeness.largest_difference, likeness.cosine
        ),
    })
}

/// Reading from the map of a file while its name goes to another one works, but surprises: the input would be gone.
fn refuse_same_file(input: &Path, output: &Path) -> anyhow::Result<()> {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    if real(input).is_some_and(|input| real(output) == Some(input)) {
        bail!("{} is the input: the output needs a name of its own", output.display());
    }
    Ok(())
}

fn plan_text(export: &Export<'_>, out: &mut impl Write) -> io::Result<()> {
    let width = export.tensors().iter().map(|t| t.name.len()).max().unwrap_or(0);
    for t in export.tensors() {
        let shape: Vec<String> = t.shape.iter().map(usize::to_string).collect();
        let (shape, from, to) = (shape.join(" × "), t.from.name(), t.to.name());
        writeln!(out, "{:<width$}  {shape:>14}  {from:<9} → {to:<6}  {}", t.name, outcome(&t.outcome))?;
    }
    let total = export.tensors().iter().map(|t| t.bytes).sum();
    writeln!(out, "{}, {}", numbers::count(export.tensors().len(), "tensor"), numbers::bytes(total))
}

fn plan_json(export: &Export<'_>) -> serde_json::Value {
    let tensors = export.tensors().iter().map(|t| {
        json!({
            "name": t.name,
            "source": t.source,
            "shape": t.shape,
            "from": t.from.name(),
            "to": t.to.name(),
            "bytes": t.bytes,
            "outcome": outcome(&t.outcome),
            "possible": !matches!(t.outcome, Outcome::Impossible { .. }),
        })
    });
    json!({ "exact": export.is_exact(), "tensors": tensors.collect::<Vec<_>>(), "notes": export.notes() })
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Exact => "exact".into(),
        Outcome::Ternarised => "ternarised as at load".into(),
        Outcome::Rounded { largest_error } => format!("rounded by at most {largest_error}"),
        Outcome::Impossible { reason } => format!("IMPOSSIBLE: {reason}"),
    }
}
