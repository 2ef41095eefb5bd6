//! The functions that a model may call.

use crate::api_error::ApiError;
use crate::fields::{Fields, wrong};
use bitnet_inference::{GenerateRequest, Grammar, ToolChoice};
use bitnet_models::{Tool, ToolCall};
use serde_json::{Map, Value, json};

const MAX_TOOLS: usize = 128;
const MAX_NAME: usize = 128;

/// Where the parts of a function's description stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// `{"type": "function", "function": {"name", "description", "parameters"}}`
    Chat,
    /// `{"type": "function", "name", "description", "parameters"}`
    Responses,
    /// `{"name", "description", "input_schema"}`
    Messages,
}

/// What the model may call, and how.
pub(crate) struct Calling {
    tools: Vec<Tool>,
    /// `None`: it must not.
    choice: Option<ToolChoice>,
    parallel: bool,
}

impl Calling {
    /// Takes `tools`, `tool_choice` and `parallel_tool_calls`.
    pub(crate) fn take(fields: &mut Fields, spelling: Spelling) -> Result<Self, ApiError> {
        let list = fields.list("tools")?;
        if list.len() > MAX_TOOLS {
            return Err(ApiError::invalid("tools", format!("tools has {} entries; at most {MAX_TOOLS}", list.len())));
        }
        let tools =
            list.into_iter().map(|(path, entry)| tool(&path, entry, spelling)).collect::<Result<Vec<_>, _>>()?;
        let mut parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
        let choice = choice(fields.take("tool_choice"), spelling, &mut parallel)?;
        match &choice {
            Some(ToolChoice::Required | ToolChoice::Named(_)) if tools.is_empty() => {
                Err(ApiError::invalid("tool_choice", "tool_choice wants a call, but there are no tools"))
            }
            Some(ToolChoice::Named(name)) if !tools.iter().any(|tool| tool.name == *name) => {
                Err(ApiError::invalid("tool_choice", format!("tool_choice: there is no tool {name:?}")))
            }
            _ => Ok(Calling { tools, choice, parallel }),
        }
    }

    /// The functions to show to the model, none if it must not call any. Holds the request's answer to calls that parse;
    /// `format` is the field that its form came from.
    pub(crate) fn apply(self, request: &mut GenerateRequest, format: &str) -> Result<Vec<Tool>, ApiError> {
        let Calling { tools, choice: Some(choice), parallel } = self else { return Ok(Vec::new()) };
        if tools.is_empty() {
            return Ok(tools);
        }
        let form = match request.grammar.take() {
            None => None,
            Some(Grammar::JsonSchema(Value::Object(schema))) => Some(schema),
            Some(_) => {
                let message = format!("{format}: with tools only json_object and json_schema are supported");
                return Err(ApiError::unsupported(format, message));
            }
        };
        let grammar = Grammar::tool_calls(&tools, &choice, parallel, form);
        request.grammar = Some(grammar.map_err(|error| ApiError::invalid("tools", format!("tools: {error}")))?);
        Ok(tools)
    }
}

fn tool(path: &str, entry: Value, spelling: Spelling) -> Result<Tool, ApiError> {
    let mut tool = Fields::at(path, entry)?;
    let kind = tool.string("type")?;
    match (spelling, kind.as_deref()) {
        (Spelling::Messages, None | Some("custom")) | (_, Some("function")) => {}
        (Spelling::Messages, Some(_)) | (_, Some(_)) => {
            let path = tool.path("type");
            let message =
                format!("{path}: {:?} is not supported, only functions of your own", kind.unwrap_or_default());
            return Err(ApiError::unsupported(path, message));
        }
        (_, None) => return Err(ApiError::invalid(tool.path("type"), format!("{path}.type must be \"function\""))),
    }
    if spelling == Spelling::Chat {
        let function = tool.required("function")?;
        tool = Fields::at(&tool.path("function"), function)?;
    }
    let schema = if spelling == Spelling::Messages { "input_schema" } else { "parameters" };
    let name = function_name(&mut tool)?;
    let description = tool.string("description")?;
    let mut parameters = match tool.take(schema) {
        Some(Value::Object(parameters)) => parameters,
        Some(other) => return Err(wrong(&tool.path(schema), "a JSON schema", &other)),
        None => Map::from_iter([("properties".into(), json!({})), ("additionalProperties".into(), json!(false))]),
    };
    // arguments are an object; some leave that out
    match parameters.entry("type").or_insert_with(|| json!("object")) {
        kind if kind == "object" => Ok(Tool { name, description, parameters }),
        kind => {
            let path = tool.path(schema);
            Err(ApiError::invalid(path.clone(), format!("{path}.type must be \"object\", not {kind}")))
        }
    }
}

/// The `name` of a function: letters, digits, `_`, `-` and `.`.
pub(crate) fn function_name(fields: &mut Fields) -> Result<String, ApiError> {
    let name = fields.text("name")?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    match (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain) {
        true => Ok(name),
        false => {
            let path = fields.path("name");
            let message = format!("{path} must have 1 to {MAX_NAME} letters, digits, `_`, `-` and `.`");
            Err(ApiError::invalid(path, message))
        }
    }
}

fn choice(value: Option<Value>, spelling: Spelling, parallel: &mut bool) -> Result<Option<ToolChoice>, ApiError> {
    let (word, mut fields) = match value {
        None => return Ok(Some(ToolChoice::Auto)),
        Some(Value::String(word)) if spelling != Spelling::Messages => (word, None),
        Some(object) => {
            let mut fields = Fields::at("tool_choice", object)?;
            (fields.text("type")?, Some(fields))
        }
    };
    if let (Spelling::Messages, Some(fields)) = (spelling, &mut fields) {
        *parallel &= !fields.boolean("disable_parallel_tool_use")?.unwrap_or(false);
    }
    match (word.as_str(), spelling, fields) {
        ("auto", _, _) => Ok(Some(ToolChoice::Auto)),
        ("none", _, _) => Ok(None),
        ("required", Spelling::Chat | Spelling::Responses, None) | ("any", Spelling::Messages, _) => {
            Ok(Some(ToolChoice::Required))
        }
        ("function", Spelling::Chat, Some(mut fields)) => {
            let function = fields.required("function")?;
            let mut function = Fields::at("tool_choice.function", function)?;
            Ok(Some(ToolChoice::Named(function.text("name")?)))
        }
        ("function", Spelling::Responses, Some(mut fields)) | ("tool", Spelling::Messages, Some(mut fields)) => {
            Ok(Some(ToolChoice::Named(fields.text("name")?)))
        }
        ("allowed_tools" | "custom", _, Some(_)) => {
            Err(ApiError::unsupported("tool_choice", format!("tool_choice: {word} is not supported")))
        }
        _ => Err(ApiError::invalid("tool_choice", format!("tool_choice does not know {word:?}"))),
    }
}

/// A call of an earlier answer, whose `arguments` are JSON as text.
pub(crate) fn earlier_call(id: String, mut function: Fields) -> Result<ToolCall, ApiError> {
    let name = function_name(&mut function)?;
    let arguments = function.string("arguments")?.unwrap_or_default();
    let path = function.path("arguments");
    match serde_json::from_str(if arguments.trim().is_empty() { "{}" } else { &arguments }) {
        Ok(Value::Object(arguments)) => Ok(ToolCall { id, name, arguments }),
        _ => Err(ApiError::invalid(path.clone(), format!("{path} must be a JSON object, written as text"))),
    }
}
