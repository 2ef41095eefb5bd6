//! A conversation as the exact tokens the model sees.

use anyhow::{Context, bail};
use bitnet::{ChatTemplate, Message, Tokenizer};
use clap::Args;
use std::path::{Path, PathBuf};

/// Which chat template, and what the model is told first.
#[derive(Args, Debug)]
#[command(next_help_heading = "Conversation")]
pub(crate) struct TemplateArgs {
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Jinja chat template to use instead of the model's
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
}

impl TemplateArgs {
    /// The template given, or the model's own. `None` when it has none.
    fn given(&self, tokenizer: &Tokenizer) -> anyhow::Result<Option<ChatTemplate>> {
        self.template.as_deref().map(|path| template_file(path, tokenizer)).transpose()
    }
}

/// Reads a template for a model.
pub(crate) fn template_file(path: &Path, tokenizer: &Tokenizer) -> anyhow::Result<ChatTemplate> {
    let source = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    template(&source, tokenizer).with_context(|| path.display().to_string())
}

/// Compiles a template for a model.
pub(crate) fn template(source: &str, tokenizer: &Tokenizer) -> anyhow::Result<ChatTemplate> {
    let literal = |id: Option<u32>| id.and_then(|id| tokenizer.text(id)).unwrap_or_default();
    Ok(ChatTemplate::new(source, literal(tokenizer.bos()), literal(tokenizer.eos()))?)
}

/// Renders and tokenises conversations for one model.
pub(crate) struct ChatPrompt<'m> {
    tokenizer: &'m Tokenizer,
    given: Option<ChatTemplate>,
}

impl<'m> ChatPrompt<'m> {
    pub(crate) fn new(tokenizer: &'m Tokenizer, args: &TemplateArgs) -> anyhow::Result<Self> {
        let given = args.given(tokenizer)?;
        if given.is_none() && tokenizer.chat_template().is_none() {
            bail!(
                "the model has no chat template: it was not trained to chat. Give one with --template FILE, or use `bitnet run`"
            );
        }
        Ok(ChatPrompt { tokenizer, given })
    }

    /// The text of a conversation, up to where the assistant's answer begins.
    pub(crate) fn render(&self, messages: &[Message]) -> anyhow::Result<String> {
        Ok(self.template()?.render(messages, true)?)
    }

    /// Its tokens. The template itself writes the begin-of-sequence token where the model wants one; what the messages
    /// say is plain text.
    pub(crate) fn ids(&self, messages: &[Message]) -> anyhow::Result<Vec<u32>> {
        Ok(self.tokenizer.encode_chat(self.template()?, messages, true)?)
    }

    fn template(&self) -> anyhow::Result<&ChatTemplate> {
        self.given.as_ref().or(self.tokenizer.chat_template()).context("no chat template")
    }
}

/// A message.
pub(crate) fn message(role: &str, content: impl Into<String>) -> Message {
    Message { role: role.into(), content: content.into() }
}
