//! `bitnet convert`: any model that runs → one GGUF file in a chosen encoding, or a Hugging Face directory.

use crate::console::Console;
use crate::failure::Interrupted;
use crate::interrupt::Watch;
use crate::model_args::{LoadArgs, ModelPath};
use crate::numbers;
use anyhow::bail;
use bitnet::formats::{Checkpoint, Encoding, FormatError, gguf};
use bitnet::kernels::{Cpu, CpuOptions};
use bitnet::models::ModelError;
use bitnet::models::export::{Export, ExportOptions, Form, Outcome, PlannedTensor, compare_logits};
use bitnet::{LoadOptions, Tokenizer};
use clap::Args;
use serde_json::json;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Convert a model; the output gets its name only after it computed what the input computes
///
/// Ternary weights are never rounded: where a form cannot hold them, nothing is written and the reason is given.
#[derive(Args, Debug)]
pub(crate) struct ConvertArgs {
    /// GGUF file, Hugging Face directory or llama2.c .bin
    #[arg(long, short, value_name = "PATH")]
    input: PathBuf,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is written, and where.
#[derive(Args, Debug)]
pub(super) struct OutputArgs {
    /// GGUF file or Hugging Face directory to write
    #[arg(long, short, value_name = "PATH")]
    output: PathBuf,
    /// GGUF with projections as i2_s, tq1_0, tq2_0, q2_0 … (ternary models), f32, f16, bf16, q8_0 … (others); hf: a Hugging Face directory
    /// with the input's float weights; hf-packed: with packed codes
    #[arg(long = "type", value_name = "TYPE")]
    form: Form,
    /// Encoding of the embedding and the head [default: in GGUF f16 where that is exact, else as in the input]
    #[arg(long, value_name = "TYPE")]
    embedding: Option<Encoding>,
    /// Tokenizer to store in a GGUF file instead of the input's
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// Print what would be written, tensor by tensor, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print what was written, tensor by tensor, as a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &ConvertArgs, console: &Console) -> anyhow::Result<()> {
    write(&args.input, &args.load, &args.output, console)
}

/// Converts the model at `input`.
pub(super) fn write(input: &Path, load: &LoadArgs, args: &OutputArgs, console: &Console) -> anyhow::Result<()> {
    refuse_same_file(input, &args.output)?;
    let path = ModelPath { model: Some(input.to_owned()), tokenizer: None };
    let checkpoint = path.checkpoint(load, console)?;
    let tokenizer = args.tokenizer.as_deref().map(Tokenizer::open).transpose()?;
    let load = load.options();
    let options =
        ExportOptions { form: args.form, embedding: args.embedding, tokenizer: tokenizer.as_ref(), load: &load };
    let export = Export::plan(&checkpoint, &options)?;
    for note in export.notes() {
        console.note(note);
    }
    if args.dry_run {
        let outcomes: Vec<_> = export.tensors().iter().map(PlannedTensor::convert).collect();
        let impossible = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        print(&export, &outcomes, args.json)?;
        if impossible > 0 {
            bail!("{} cannot be written so; choose another --type", numbers::count(impossible, "tensor"));
        }
        return Ok(());
    }
    let bar = console.byte_bar("writing", export.tensors().iter().map(PlannedTensor::bytes).sum());
    let mut verdict = None;
    let watch = Watch::start()?;
    let written = export.write(
        &args.output,
        &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
            !watch.asked()
        },
        &mut |written, exact| {
            bar.finish_and_clear();
            verdict = Some(check(&checkpoint, &load, written, exact)?);
            if watch.asked() { Err(FormatError::Cancelled) } else { Ok(()) }
        },
    );
    if watch.asked() && written.is_err() {
        return Err(Interrupted.into());
    }
    let outcomes: Vec<_> = written?.into_iter().map(Ok).collect();
    if args.json {
        print(&export, &outcomes, true)?;
    }
    let file = if args.output.is_dir() { args.output.join("model.safetensors") } else { args.output.clone() };
    let size = std::fs::metadata(file).map(|m| numbers::bytes(m.len())).unwrap_or_default();
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
    let same = |input: &PathBuf| real(input).is_some_and(|input| real(output) == Some(input));
    if gguf::parts(input).iter().any(same) {
        bail!("{} is the input, or a part of it: the output needs a name of its own", output.display());
    }
    Ok(())
}

type Outcomes = [Result<Outcome, FormatError>];

/// The tensors and what becomes of them.
fn print(export: &Export<'_>, outcomes: &Outcomes, as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let tensors = || export.tensors().iter().zip(outcomes);
    if as_json {
        let exact = outcomes.iter().all(|o| matches!(o, Ok(Outcome::Exact | Outcome::Ternarised)));
        let tensors = tensors().map(|(t, outcome)| {
            json!({
                "name": t.name,
                "source": t.source,
                "shape": t.shape,
                "from": t.from.name(),
                "to": t.to.name(),
                "bytes": t.bytes(),
                "outcome": describe(outcome),
                "possible": outcome.is_ok(),
            })
        });
        let tensors: Vec<_> = tensors.collect();
        writeln!(out, "{}", json!({ "exact": exact, "tensors": tensors, "notes": export.notes() }))?;
        return out.flush();
    }
    let width = export.tensors().iter().map(|t| t.name.len()).max().unwrap_or(0);
    for (t, outcome) in tensors() {
        let shape: Vec<String> = t.shape.iter().map(usize::to_string).collect();
        let (shape, from, to) = (shape.join(" × "), t.from.name(), t.to.name());
        writeln!(out, "{:<width$}  {shape:>14}  {from:<9} → {to:<9}  {}", t.name, describe(outcome))?;
    }
    let total = export.tensors().iter().map(PlannedTensor::bytes).sum();
    writeln!(out, "{}, {}", numbers::count(export.tensors().len(), "tensor"), numbers::bytes(total))?;
    out.flush()
}

fn describe(outcome: &Result<Outcome, FormatError>) -> String {
    match outcome {
        Ok(Outcome::Exact) => "exact".into(),
        Ok(Outcome::Ternarised) => "ternarised as at load".into(),
        Ok(Outcome::Rounded { largest_error }) => format!("rounded by at most {largest_error}"),
        Err(reason) => format!("IMPOSSIBLE: {reason}"),
    }
}
