//! Chat templates: Jinja from the model, sandboxed.

use crate::ModelError;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
}

impl ChatTemplate {
    /// Compiles a Jinja template. `bos` and `eos` are the texts of those tokens.
    ///
    /// # Errors
    /// Syntax errors.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, ModelError> {
        let _ = (source, bos, eos);
        todo!()
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation; `generation_prompt` adds the assistant's opening. Loops, recursion and output are
    /// bounded.
    ///
    /// # Errors
    /// What the template raises, and exceeded bounds.
    pub fn render(&self, messages: &[Message], generation_prompt: bool) -> Result<String, ModelError> {
        let _ = (messages, generation_prompt);
        todo!()
    }
}
