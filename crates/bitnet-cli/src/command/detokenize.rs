//! `bitnet detokenize`: token ids → text.

use crate::console::Console;
use crate::failure::wrong_usage;
use crate::model_args::ModelPath;
use crate::text_input;
use anyhow::bail;
use clap::Args;
use serde_json::json;
use std::io::{self, IsTerminal, Write};

/// Turn token ids into text
#[derive(Args, Debug)]
pub(crate) struct DetokenizeArgs {
    /// The ids; nothing reads standard input: numbers apart by blanks or commas, or what `tokenize --json` prints
    ids: Vec<String>,
    #[command(flatten)]
    model: ModelPath,
    /// Show special tokens as text instead of leaving them out
    #[arg(long)]
    special: bool,
    /// Print {"text": "..."}
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &DetokenizeArgs, console: &Console) -> anyhow::Result<()> {
    let given = if args.ids.is_empty() { text_input::text(None, "ids")? } else { args.ids.join(" ") };
    let ids = parse(&given).map_err(wrong_usage)?;
    let tokenizer = args.model.tokenizer(console)?;
    if let Some(id) = ids.iter().find(|&&id| tokenizer.bytes(id).is_none()) {
        bail!("token id {id} is outside the vocabulary of {} entries", tokenizer.vocab_size());
    }
    let text = tokenizer.decode(&ids, args.special);
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json!({ "text": text }))?;
    } else {
        out.write_all(text.as_bytes())?;
        if out.is_terminal() {
            writeln!(out)?;
        }
    }
    Ok(out.flush()?)
}

/// Plain numbers, a JSON list, or `{"ids": [...]}`.
fn parse(text: &str) -> Result<Vec<u32>, String> {
    #[derive(serde::Deserialize)]
    struct Ids {
        ids: Vec<u32>,
    }
    let trimmed = text.trim();
    if trimmed.starts_with('{') {
        return serde_json::from_str::<Ids>(trimmed).map(|i| i.ids).map_err(|e| format!("ids: {e}"));
    }
    if trimmed.starts_with('[') {
        return serde_json::from_str(trimmed).map_err(|e| format!("ids: {e}"));
    }
    trimmed
        .split(|c: char| c.is_whitespace() || c == ',')
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().map_err(|e| format!("token id {part:?}: {e}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn every_spelling_of_a_list() {
        let three = Ok(vec![1, 22, 333]);
        assert_eq!(parse("1 22\n333\n"), three);
        assert_eq!(parse("1,22, 333"), three);
        assert_eq!(parse("[1, 22, 333]"), three);
        assert_eq!(parse(r#"{"ids": [1, 22, 333]}"#), three);
        assert_eq!(parse("  "), Ok(vec![]));
        assert!(parse("1 x").is_err());
        assert!(parse("-1").is_err());
        assert!(parse("[1.5]").is_err());
    }
}
