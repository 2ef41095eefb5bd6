//! `bitnet quantize`: a dense model becomes ternary without training.

use crate::console::Console;
use crate::failure::Interrupted;
use crate::interrupt::Watch;
use crate::model_args::positive;
use crate::numbers::size;
use bitnet_train::{ModelRecipe, QuantizeOptions, Quantizer, Source, Validation};
use clap::Args;
use serde_json::json;
use std::io::{self, Write};
use std::path::PathBuf;

/// Make a dense model ternary by calibrated rounding
///
/// Projections are rounded block by block for the inputs that the calibration text gives them, and the error of every rounded column
/// is taken up by those after it. Without a calibration text nothing is written: the damage of plain rounding is measured and said.
/// Rounding alone costs much; `bitnet finetune --ternary` costs time instead.
#[derive(Args, Debug)]
pub(crate) struct QuantizeArgs {
    /// Hugging Face directory of the dense model
    #[arg(long, short, value_name = "DIR")]
    model: PathBuf,
    /// Text to measure the damage on (repeatable)
    #[arg(long, value_name = "FILE", required = true)]
    validation: Vec<PathBuf>,
    /// Text to calibrate with, like what the model will read (repeatable)
    #[arg(long, value_name = "FILE")]
    calibration: Vec<PathBuf>,
    /// Directory to write the ternary model to
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    /// Windows of the calibration text
    #[arg(long, value_name = "N", default_value = "64", value_parser = positive)]
    windows: usize,
    /// Positions of a window [default: the model's, at most 512]
    #[arg(long, value_name = "N", value_parser = positive)]
    context: Option<usize>,
    /// Rank of a side-car that takes up most of what rounding changes; it lies in DIR/adapter, for --lora
    #[arg(long, value_name = "RANK", requires = "calibration", value_parser = positive)]
    residual: Option<usize>,
    /// Bytes that all projections may take (2 bits per ternary weight, 8.5 per other one; KiB, MiB, GiB): those that rounding hurts most
    /// stay floats as far as they fit
    #[arg(long, value_name = "SIZE", requires = "calibration", value_parser = size)]
    budget: Option<u64>,
    /// Decides which windows are taken
    #[arg(long, default_value = "42")]
    seed: u64,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &QuantizeArgs, console: &Console) -> anyhow::Result<()> {
    let sources =
        |paths: &[PathBuf]| paths.iter().map(|path| Source { path: path.clone(), repeat: 1 }).collect::<Vec<_>>();
    let context = match args.context {
        Some(context) => context,
        None => ModelRecipe::of(&args.model)?.context.min(512),
    };
    let mut quantizer = Quantizer::new(QuantizeOptions {
        model: args.model.clone(),
        validation: sources(&args.validation),
        context,
        seed: args.seed,
        residual: args.residual.unwrap_or(0),
    })?;
    let bits = |validation: &Validation| format!("{:.4} bits per byte", validation.bits_per_byte);
    console.say("measuring the dense model, and plain rounding …");
    let (dense, plain) = (quantizer.measure()?, quantizer.measure_uncalibrated()?);
    if args.calibration.is_empty() {
        anyhow::bail!(
            "rounded as it is, {} falls from {} to {}: nothing was written. Give a text with --calibration, or train it with `bitnet \
             finetune --ternary`",
            args.model.display(),
            bits(&dense),
            bits(&plain),
        );
    }
    let watch = Watch::start()?;
    let calibration = sources(&args.calibration);
    let shown = |name| {
        let bar = console.step_bar(name, 0);
        let watch = &watch;
        move |done: usize, all: usize| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
            if done == all {
                bar.finish_and_clear();
            }
            !watch.asked()
        }
    };
    let mut plan = Vec::new();
    if let Some(budget) = args.budget {
        plan = quantizer.plan(&calibration, args.windows, budget, &mut shown("inputs measured"))?;
        if plan.is_empty() {
            return Err(Interrupted.into());
        }
    }
    if !quantizer.calibrate(&calibration, args.windows, &mut shown("blocks"))? {
        return Err(Interrupted.into());
    }
    let calibrated = quantizer.measure()?;
    quantizer.export(&args.output)?;
    let mut out = io::stdout().lock();
    if args.json {
        let report = json!({
            "model": args.model.display().to_string(),
            "output": args.output.display().to_string(),
            "dense": dense,
            "plain_rounding": plain,
            "calibrated": calibrated,
            "residual_rank": args.residual,
            "plan": plan,
        });
        writeln!(out, "{report}")?;
    } else {
        for unit in plan.iter().filter(|unit| unit.float) {
            writeln!(out, "stays float     {} (alone {:+.4} bits per byte)", unit.modules.join(", "), unit.damage)?;
        }
        writeln!(
            out,
            "dense           {}\nplain rounding  {}\ncalibrated      {}",
            bits(&dense),
            bits(&plain),
            bits(&calibrated)
        )?;
    }
    out.flush()?;
    Ok(())
}
