//! `bitnet export`: a training run, or any model, in the form that others read.

use super::convert::{self, OutputArgs};
use crate::console::Console;
use crate::model_args::LoadArgs;
use anyhow::{Context, bail};
use clap::Args;
use std::path::PathBuf;

/// Write a trained model as GGUF or as a Hugging Face directory
///
/// As `bitnet convert`, and takes the directory of a run: its best model by validation, or with --last the weights of its last
/// checkpoint, also while it goes on.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// Directory of a run (`train`, `finetune`, `distill`), or any model
    #[arg(long, short, value_name = "PATH")]
    model: PathBuf,
    /// Of a run: the last checkpoint instead of the best model
    #[arg(long)]
    last: bool,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: &ExportArgs, console: &Console) -> anyhow::Result<()> {
    if args.last {
        let directory = tempfile::tempdir().context("no temporary directory")?;
        let model = directory.path().join("model");
        bitnet_train::export_last(&args.model, &model)?;
        return convert::write(&model, &args.load, &args.output, console);
    }
    let best = args.model.join("model");
    let side_car = args.model.join("adapter/adapter_config.json").is_file();
    if side_car && !best.exists() && !args.model.join("config.json").is_file() {
        bail!(
            "{} trained a side-car, which is no model: it runs beside the one that it was trained for, with --lora {}",
            args.model.display(),
            args.model.join("adapter").display()
        );
    }
    let model = if best.join("config.json").is_file() { &best } else { &args.model };
    convert::write(model, &args.load, &args.output, console)
}
