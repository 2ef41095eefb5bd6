//! The fields of a JSON object, taken out one by one, with errors that name them.

use crate::api_error::ApiError;
use axum::http::StatusCode;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// The fields nobody has taken yet. A field that is `null` counts as absent.
#[derive(Debug)]
pub(crate) struct Fields {
    own: Map<String, Value>,
    /// Stands before the names of the fields in errors.
    path: String,
}

impl Fields {
    /// Those of a body.
    pub(crate) fn new(value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(own) => Ok(Fields { own, path: String::new() }),
            other => {
                let message = format!("the body must be a JSON object, not {}", kind(&other));
                Err(ApiError::new(StatusCode::BAD_REQUEST, Some("invalid_json"), message))
            }
        }
    }

    /// Those of an object that stands at `path` of a body.
    pub(crate) fn at(path: &str, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(own) => Ok(Fields { own, path: format!("{path}.") }),
            other => Err(wrong(path, "an object", &other)),
        }
    }

    /// A field's name with the path to it.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.own.remove(name).filter(|value| !value.is_null())
    }

    /// A field that is not taken yet.
    pub(crate) fn peek(&self, name: &str) -> Value {
        self.own.get(name).cloned().unwrap_or_default()
    }

    pub(crate) fn required(&mut self, name: &str) -> Result<Value, ApiError> {
        self.take(name).ok_or_else(|| self.missing(name))
    }

    pub(crate) fn missing(&self, name: &str) -> ApiError {
        let path = self.path(name);
        ApiError::invalid(path.clone(), format!("{path} is missing"))
    }

    fn wrong(&self, name: &str, expected: &str, found: &Value) -> ApiError {
        wrong(&self.path(name), expected, found)
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(name, "true or false", &value))
    }

    pub(crate) fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        self.take(name).map(|value| string(value, &self.path(name))).transpose()
    }

    /// Text that must be there.
    pub(crate) fn text(&mut self, name: &str) -> Result<String, ApiError> {
        self.string(name)?.ok_or_else(|| self.missing(name))
    }

    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Fields>, ApiError> {
        self.take(name).map(|value| Fields::at(&self.path(name), value)).transpose()
    }

    /// The entries of a list with the path to each; none if there is no list.
    pub(crate) fn list(&mut self, name: &str) -> Result<Vec<(String, Value)>, ApiError> {
        let path = self.path(name);
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => {
                Ok(list.into_iter().enumerate().map(|(nth, value)| (format!("{path}[{nth}]"), value)).collect())
            }
            Some(other) => Err(wrong(&path, "a list", &other)),
        }
    }

    pub(crate) fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if range.contains(&number) => Ok(Some(number as f32)),
            _ => Err(self.wrong(name, &format!("a number from {} to {}", range.start(), range.end()), &value)),
        }
    }

    pub(crate) fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_i64() {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(self.wrong(name, &format!("a whole number from {} to {}", range.start(), range.end()), &value)),
        }
    }

    /// A size, from `least` on.
    pub(crate) fn size(&mut self, name: &str, least: usize) -> Result<Option<usize>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_u64().and_then(|number| usize::try_from(number).ok()) {
            Some(number) if number >= least => Ok(Some(number)),
            _ => Err(self.wrong(name, &format!("a whole number of {least} or above"), &value)),
        }
    }

    /// Refuses a field that asks for what is not there, unless its value asks for nothing.
    pub(crate) fn refuse(&mut self, name: &str, asks_nothing: impl Fn(&Value) -> bool) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !asks_nothing(&value) => Err(self.unsupported(name)),
            _ => Ok(()),
        }
    }

    /// Says that a field asks for what is not there.
    pub(crate) fn unsupported(&self, name: &str) -> ApiError {
        let path = self.path(name);
        ApiError::unsupported(path.clone(), format!("{path} is not supported by this server; leave it out"))
    }
}

/// A value that must be text.
pub(crate) fn string(value: Value, name: &str) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(wrong(name, "text", &other)),
    }
}

/// A value that must be a token id.
pub(crate) fn token(value: &Value, name: &str) -> Result<u32, ApiError> {
    value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong(name, "a token id", value))
}

/// Says what was expected and what came.
pub(crate) fn wrong(name: &str, expected: &str, found: &Value) -> ApiError {
    let found = match found {
        Value::Number(_) | Value::Bool(_) => found.to_string(),
        other => kind(other).to_owned(),
    };
    ApiError::invalid(name, format!("{name} must be {expected}, not {found}"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
