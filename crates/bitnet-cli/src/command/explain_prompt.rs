//! `bitnet explain-prompt`: the exact tokens that a chat turn becomes.

use crate::chat_prompt::{ChatPrompt, TemplateArgs, message};
use crate::console::Console;
use crate::model_args::ModelPath;
use crate::numbers;
use crate::text_input;
use anyhow::Context;
use bitnet::{Message, Tokenizer};
use clap::Args;
use serde_json::json;
use std::io::{self, Write};
use std::path::PathBuf;

/// Show the exact tokens that a chat turn becomes
#[derive(Args, Debug)]
pub(crate) struct ExplainPromptArgs {
    /// What the user says; `-` or nothing reads standard input (less its final newline)
    #[arg(conflicts_with = "messages")]
    text: Option<String>,
    #[command(flatten)]
    model: ModelPath,
    #[command(flatten)]
    template: TemplateArgs,
    /// A whole conversation instead: a JSON list of {"role": ..., "content": ...}, as `/save` of chat writes it
    #[arg(long, value_name = "FILE")]
    messages: Option<PathBuf>,
    /// Print {"text": ..., "ids": [...], "tokens": [...]}
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &ExplainPromptArgs, console: &Console) -> anyhow::Result<()> {
    let mut messages = match &args.messages {
        Some(path) => read_messages(path)?,
        None => {
            let text = text_input::text(args.text.as_deref(), "text")?;
            let from_argument = args.text.as_deref().is_some_and(|t| t != "-");
            vec![message("user", if from_argument { text } else { text_input::without_final_newline(text) })]
        }
    };
    if let Some(system) = &args.template.system {
        messages.insert(0, message("system", system));
    }
    let tokenizer = args.model.tokenizer(console)?;
    let prompt = ChatPrompt::new(&tokenizer, &args.template)?;
    let (text, ids) = (prompt.render(&messages)?, prompt.ids(&messages)?);
    let pieces: Vec<String> = ids.iter().map(|&id| piece(&tokenizer, id)).collect();
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json!({ "text": text, "ids": ids, "tokens": pieces }))?;
    } else {
        writeln!(out, "{text}\n\n{}:", numbers::count(ids.len(), "token"))?;
        for (id, piece) in ids.iter().zip(&pieces) {
            writeln!(out, "{id:>8}  {piece:?}")?;
        }
    }
    Ok(out.flush()?)
}

/// Reads a conversation.
pub(crate) fn read_messages(path: &std::path::Path) -> anyhow::Result<Vec<Message>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| format!("{}: not a list of messages", path.display()))
}

/// What a token stands for, or the name of a special one.
fn piece(tokenizer: &Tokenizer, id: u32) -> String {
    match tokenizer.bytes(id) {
        Some(bytes) if !bytes.is_empty() => String::from_utf8_lossy(bytes).into_owned(),
        _ => tokenizer.text(id).unwrap_or_default().to_owned(),
    }
}
