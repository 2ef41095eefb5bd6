//! Chat templates: Jinja from the model, sandboxed.

mod conversation;
mod sandbox;

pub use conversation::{CALL_BEGIN, CALL_END, Conversation, Tool, ToolCall, Turn};

use crate::ModelError;
use fancy_regex::Regex;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde_json::{Map, Value as Json};
use std::fmt;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// A template that compiles.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    /// What is compiled of it.
    code: String,
    bos: String,
    eos: String,
}

/// No published template is near this size.
const MAX_SOURCE: usize = 1 << 20;

impl ChatTemplate {
    /// Compiles a Jinja template. `bos` and `eos` are the texts of those tokens.
    ///
    /// # Errors
    /// Syntax errors.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, ModelError> {
        if source.len() > MAX_SOURCE {
            let len = source.len();
            return Err(ModelError::Template(format!("{len} bytes of source; the limit is {MAX_SOURCE}")));
        }
        let mut environment = Environment::new();
        // The settings of transformers.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(error)?;
        environment.set_syntax(syntax);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
        sandbox::fence(&mut environment);
        let code = as_transformers_reads(source);
        sandbox::compile(&code, environment.syntax().clone()).map_err(error)?;
        Ok(Self { environment, source: source.to_owned(), code, bos: bos.to_owned(), eos: eos.to_owned() })
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
        self.render_with(&serde_json::json!(messages), generation_prompt, Map::new())
    }

    /// As [`render`](Self::render) for messages with further fields (`tool_calls` and the like), and with further
    /// variables (`tools`, `enable_thinking` and the like).
    ///
    /// # Errors
    /// What the template raises, and exceeded bounds.
    pub fn render_with(
        &self,
        messages: &Json,
        generation_prompt: bool,
        extra: Map<String, Json>,
    ) -> Result<String, ModelError> {
        let own = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => generation_prompt,
            bos_token => &self.bos,
            eos_token => &self.eos,
        };
        // transformers gives these as `None`, and templates ask for that.
        let none = context! { tools => (), documents => () };
        let context = context! { ..own, ..Value::from(Serde(&extra)), ..none };
        sandbox::render(&self.environment, &self.code, context).map_err(error)
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("source", &self.source).finish_non_exhaustive()
    }
}

/// The source with the line ends that Jinja makes of all kinds, and without the tags by which transformers marks what the assistant
/// said, for training: `with` renders its body as well.
fn as_transformers_reads(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mark = Regex::new(r"\{%([-+]?)(\s*)(end)?generation(\s*)([-+]?)%\}").expect("a valid expression");
    mark.replace_all(&source, "{%$1$2${3}with$4$5%}").into_owned()
}

/// The whole chain of reasons: the template engine puts the useful one last.
fn error(error: impl std::error::Error) -> ModelError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    ModelError::Template(text)
}

/// How a template refuses a conversation.
fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The local time in a format of strftime.
fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}")))
}

/// JSON as Python writes it and transformers configures it: `", "` and `": "`, no escaping for HTML, optional indent.
fn tojson(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = indent.or(options.get("indent")?);
    for ignored in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = options.get(ignored)?;
    }
    options.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent {
        Some(indent) => {
            let indent = " ".repeat(indent.min(16));
            let pretty = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            serde::Serialize::serialize(value, &mut serde_json::Serializer::with_formatter(&mut out, pretty))
        }
        None => serde::Serialize::serialize(value, &mut serde_json::Serializer::with_formatter(&mut out, Spaced)),
    };
    let failed = |e: String| Error::new(ErrorKind::InvalidOperation, format!("tojson: {e}"));
    written.map_err(|e| failed(e.to_string()))?;
    String::from_utf8(out).map_err(|e| failed(e.to_string()))
}

/// A space after every comma and colon.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}
