//! `bitnet tokenize`: text → token ids.

use crate::console::Console;
use crate::model_args::ModelPath;
use crate::text_input;
use bitnet::models::Encoding;
use clap::Args;
use serde_json::json;
use std::io::{self, Write};

/// Turn text into token ids
#[derive(Args, Debug)]
pub(crate) struct TokenizeArgs {
    /// The text; `-` or nothing reads standard input byte for byte
    text: Option<String>,
    #[command(flatten)]
    model: ModelPath,
    /// Do not add the begin-of-sequence (or end-of-sequence) token of the model
    #[arg(long)]
    no_bos: bool,
    /// Recognise special tokens such as <|eot_id|> in the text
    #[arg(long)]
    special: bool,
    /// Print {"ids": [...]}
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &TokenizeArgs, console: &Console) -> anyhow::Result<()> {
    let text = text_input::text(args.text.as_deref(), "text")?;
    let tokenizer = args.model.tokenizer(console)?;
    let how = Encoding { bos: args.no_bos.then_some(false), special: args.special };
    let ids = tokenizer.encode(&text, how)?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json!({ "ids": ids }))?;
    } else {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        writeln!(out, "{}", ids.join(" "))?;
    }
    Ok(out.flush()?)
}
