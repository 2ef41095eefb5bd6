//! `bitnet embed`: texts → vectors.

use crate::console::Console;
use crate::model_args::ModelArgs;
use clap::Args;
use serde_json::json;
use std::io::{self, BufRead, IsTerminal, Write};

/// Turn texts into vectors
#[derive(Args, Debug)]
pub(crate) struct EmbedArgs {
    /// The texts; none reads standard input, one text per line
    texts: Vec<String>,
    #[command(flatten)]
    model: ModelArgs,
    /// One JSON object {"text": ..., "embedding": [...]} per text instead of plain numbers
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &EmbedArgs, console: &Console) -> anyhow::Result<()> {
    if args.texts.is_empty() && io::stdin().is_terminal() {
        return Err(crate::failure::wrong_usage("no texts: give them as arguments or pipe lines into standard input"));
    }
    let engine = args.model.engine(console)?;
    let embed = |text: &str| -> anyhow::Result<()> {
        let vector = engine.embed(text)?;
        let mut out = io::stdout().lock();
        if args.json {
            writeln!(out, "{}", json!({ "text": text, "embedding": vector }))?;
        } else {
            let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
            writeln!(out, "{}", numbers.join(" "))?;
        }
        Ok(out.flush()?)
    };
    if args.texts.is_empty() {
        io::stdin().lock().lines().try_for_each(|line| embed(&line?))
    } else {
        args.texts.iter().try_for_each(|text| embed(text))
    }
}
