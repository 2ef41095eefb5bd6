//! Messages of a chat request.

use crate::api_error::ApiError;
use crate::fields::{string, wrong};
use bitnet_models::Message;
use serde_json::{Map, Value};

/// Reads `messages`.
pub(crate) fn read(messages: Value) -> Result<Vec<Message>, ApiError> {
    match messages {
        Value::Array(list) if !list.is_empty() => list.into_iter().enumerate().map(|(i, m)| message(m, i)).collect(),
        Value::Array(_) => Err(ApiError::invalid("messages", "messages must have at least one entry")),
        other => Err(wrong("messages", "a list of messages", &other)),
    }
}

fn message(value: Value, index: usize) -> Result<Message, ApiError> {
    let name = format!("messages[{index}]");
    let mut message = match value {
        Value::Object(fields) => fields,
        other => return Err(wrong(&name, "an object with role and content", &other)),
    };
    let role = role(&mut message, &name)?;
    for field in ["tool_calls", "function_call", "audio"] {
        if message.get(field).is_some_and(|value| !value.is_null()) {
            return Err(ApiError::unsupported(format!("{name}.{field}"), format!("{name}.{field} is not supported")));
        }
    }
    let content = content(message.remove("content").unwrap_or_default(), &format!("{name}.content"))?;
    Ok(Message { role: role.into(), content })
}

fn role(message: &mut Map<String, Value>, name: &str) -> Result<&'static str, ApiError> {
    let name = format!("{name}.role");
    match string(message.remove("role").unwrap_or_default(), &name)?.as_str() {
        "system" | "developer" => Ok("system"),
        "user" => Ok("user"),
        "assistant" => Ok("assistant"),
        role @ ("tool" | "function") => {
            Err(ApiError::unsupported(&name, format!("{name}: {role:?} is not supported: this server calls no tools")))
        }
        other => {
            let message = format!("{name} must be system, developer, user or assistant, not {other:?}");
            Err(ApiError::invalid(&name, message))
        }
    }
}

/// Text, or a list of parts that are text.
fn content(content: Value, name: &str) -> Result<String, ApiError> {
    let Value::Array(parts) = content else { return string(content, name) };
    let text = |(i, part): (usize, Value)| {
        let name = format!("{name}[{i}]");
        let Value::Object(mut part) = part else { return Err(wrong(&name, "an object", &part)) };
        match part.get("type").and_then(Value::as_str) {
            Some("text") => string(part.remove("text").unwrap_or_default(), &format!("{name}.text")),
            Some(kind) => {
                let message = format!("{name}.type: {kind:?} is not supported: the model reads text only");
                Err(ApiError::unsupported(format!("{name}.type"), message))
            }
            None => Err(ApiError::invalid(format!("{name}.type"), format!("{name}.type must be \"text\""))),
        }
    };
    parts.into_iter().enumerate().map(text).collect()
}
