//! `bitnet perplexity`: how well a model predicts a text.

use crate::console::Console;
use crate::interrupt::Watch;
use crate::model_args::{ModelArgs, positive};
use crate::numbers;
use anyhow::Context;
use bitnet::Windows;
use bitnet::models::Encoding;
use clap::Args;
use serde_json::json;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

/// Measure how well a model predicts a text
///
/// Windows of --context tokens start every --stride tokens; each scores the tokens that no earlier window scored. With
/// a stride below the context every token but the first is scored once, with a past of at least context − stride
/// tokens. This is the usual protocol for WikiText-2.
#[derive(Args, Debug)]
pub(crate) struct PerplexityArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The text (UTF-8)
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Tokens from one window to the next [default: the context length, windows side by side]
    #[arg(long, value_name = "N", value_parser = positive)]
    stride: Option<usize>,
    /// Do not put the begin-of-sequence token in front of the text
    #[arg(long)]
    no_bos: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &PerplexityArgs, console: &Console) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&args.file).with_context(|| args.file.display().to_string())?;
    let engine = args.model.engine(console)?;
    let how = Encoding { bos: args.no_bos.then_some(false), special: false };
    let ids = engine.require_tokenizer()?.encode(&text, how)?;
    let context = engine.context();
    let windows = Windows { context, stride: args.stride.unwrap_or(context) };
    let start = Instant::now();
    let bar = console.step_bar("tokens", ids.len() as u64);
    let watch = Watch::start()?;
    let result = engine.perplexity(&ids, windows, &mut |so_far, done| {
        bar.set_position(done as u64);
        bar.set_message(format!("{:.4}", so_far.perplexity));
        !watch.asked()
    })?;
    bar.finish_and_clear();
    if watch.asked() {
        return Err(crate::failure::Interrupted.into());
    }
    let bits_per_byte = result.bits_per_byte(ids.len(), text.len());
    let mut out = io::stdout().lock();
    if args.json {
        let report = json!({
            "model": args.model.files.path.name(),
            "file": args.file.display().to_string(),
            "context": windows.context,
            "stride": windows.stride,
            "tokens": result.tokens,
            "bytes": text.len(),
            "nll": result.nll,
            "nll_error": result.nll_error,
            "perplexity": result.perplexity,
            "perplexity_error": result.error,
            "bits_per_byte": bits_per_byte,
            "seconds": start.elapsed().as_secs_f64(),
        });
        writeln!(out, "{report}")?;
    } else {
        writeln!(out, "perplexity     {:.4} ± {:.4}", result.perplexity, result.error)?;
        writeln!(out, "bits per byte  {bits_per_byte:.4}")?;
    }
    out.flush()?;
    let speed = numbers::rate(result.tokens, start.elapsed()).map(numbers::digits).unwrap_or_default();
    let scored = numbers::count(result.tokens, "token");
    console.say(format!("[{scored} scored, context {context}, stride {}; {speed} tok/s]", windows.stride));
    Ok(())
}
