//! Messages of a chat request.

use crate::api_error::ApiError;
use crate::calling::earlier_call;
use crate::fields::{Fields, string, wrong};
use bitnet_models::{ToolCall, Turn};
use serde_json::Value;

/// Reads `messages`.
pub(crate) fn read(messages: Value) -> Result<Vec<Turn>, ApiError> {
    match messages {
        Value::Array(list) if !list.is_empty() => list.into_iter().enumerate().map(|(i, m)| message(m, i)).collect(),
        Value::Array(_) => Err(ApiError::invalid("messages", "messages must have at least one entry")),
        other => Err(wrong("messages", "a list of messages", &other)),
    }
}

fn message(value: Value, index: usize) -> Result<Turn, ApiError> {
    let mut message = Fields::at(&format!("messages[{index}]"), value)?;
    let role = message.text("role")?;
    for field in ["function_call", "audio"] {
        message.refuse(field, |_| false)?;
    }
    let calls = message.list("tool_calls")?;
    match role.as_str() {
        "assistant" => {
            let calls = calls.into_iter().map(|(path, call)| tool_call(&path, call)).collect::<Result<Vec<_>, _>>()?;
            let content = match message.take("content") {
                None if !calls.is_empty() => Value::String(String::new()),
                other => other.unwrap_or_default(),
            };
            Ok(Turn::Assistant { text: text(content, &message.path("content"))?, calls })
        }
        _ if !calls.is_empty() => Err(message.unsupported("tool_calls")),
        "system" | "developer" => content(&mut message).map(Turn::System),
        "user" => content(&mut message).map(Turn::User),
        "tool" => Ok(Turn::Tool { id: message.text("tool_call_id")?, text: content(&mut message)? }),
        "function" => Err(message.unsupported("role")),
        other => {
            let path = message.path("role");
            let message = format!("{path} must be system, developer, user, assistant or tool, not {other:?}");
            Err(ApiError::invalid(path, message))
        }
    }
}

fn tool_call(path: &str, call: Value) -> Result<ToolCall, ApiError> {
    let mut call = Fields::at(path, call)?;
    call.refuse("type", |kind| kind == "function")?;
    let id = call.text("id")?;
    let function = call.required("function")?;
    earlier_call(id, Fields::at(&call.path("function"), function)?)
}

fn content(message: &mut Fields) -> Result<String, ApiError> {
    text(message.take("content").unwrap_or_default(), &message.path("content"))
}

/// Text, or a list of parts that are text.
pub(crate) fn text(content: Value, path: &str) -> Result<String, ApiError> {
    let Value::Array(parts) = content else { return string(content, path) };
    let text = |(i, part): (usize, Value)| {
        let mut part = Fields::at(&format!("{path}[{i}]"), part)?;
        match part.text("type")?.as_str() {
            "text" | "input_text" | "output_text" => part.text("text"),
            kind => {
                let path = part.path("type");
                let message = format!("{path}: {kind:?} is not supported: the model reads text only");
                Err(ApiError::unsupported(path, message))
            }
        }
    };
    parts.into_iter().enumerate().map(text).collect()
}
