//! Errors in the shape that OpenAI clients expect.

use crate::asked::Source;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bitnet_inference::InferenceError;
use bitnet_models::ModelError;
use serde_json::{Value, json};
use std::time::Duration;

/// `{"error": {"message", "type", "param", "code"}}` with a status.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    /// The field at fault.
    param: Option<String>,
    code: Option<&'static str>,
    retry_after: Option<Duration>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: Option<&'static str>, message: impl Into<String>) -> Self {
        ApiError { status, message: message.into(), param: None, code, retry_after: None }
    }

    /// A field with a wrong value.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = Some(param.into());
        ApiError { param, ..Self::new(StatusCode::BAD_REQUEST, Some("invalid_value"), message) }
    }

    /// A field that asks for what this server does not do.
    pub(crate) fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = Some(param.into());
        ApiError { param, ..Self::new(StatusCode::BAD_REQUEST, Some("unsupported"), message) }
    }

    /// Names the field at fault.
    pub(crate) fn of(self, param: &str) -> Self {
        ApiError { param: Some(param.into()), ..self }
    }

    /// No room now.
    pub(crate) fn busy(message: impl Into<String>, retry_after: Duration) -> Self {
        let retry_after = Some(retry_after);
        ApiError { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, Some("busy"), message) }
    }

    /// More requests than a key allows.
    pub(crate) fn too_many(retry_after: Duration) -> Self {
        let message = "too many requests for this key: wait as long as Retry-After says";
        let retry_after = Some(retry_after);
        ApiError { retry_after, ..Self::new(StatusCode::TOO_MANY_REQUESTS, Some("rate_limit_exceeded"), message) }
    }

    /// No answer in time.
    pub(crate) fn time_limit() -> Self {
        let message = "the answer takes longer than this server allows";
        Self::new(StatusCode::GATEWAY_TIMEOUT, Some("time_limit"), message)
    }

    /// What the engine says about a request whose prompt and grammar came from `source`.
    pub(crate) fn inference(error: InferenceError, source: Source) -> Self {
        let message = error.to_string();
        let Source { prompt: field, grammar } = source;
        match error {
            InferenceError::Option { option: "prompt", reason } => {
                Self::invalid(field, format!("{field}: the prompt {reason}"))
            }
            InferenceError::Option { option: "grammar", reason } => {
                Self::invalid(grammar, format!("{grammar}: {reason}"))
            }
            InferenceError::Option { option, .. } => Self::invalid(option, message),
            InferenceError::ContextFull { tokens, context } => ApiError {
                code: Some("context_length_exceeded"),
                ..Self::invalid(
                    field,
                    format!("{field}: {tokens} tokens (with one for the answer) do not fit the context of {context}"),
                )
            },
            InferenceError::Busy { retry_after, .. } => Self::busy(message, retry_after),
            InferenceError::CacheFull { .. } => Self::busy(message, Duration::from_secs(1)),
            InferenceError::Stopped => Self::busy("the server is stopping", Duration::from_secs(5)),
            InferenceError::NoTokenizer { .. } => Self::unsupported(field, message),
            InferenceError::Model(error) => Self::model(&error, field),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, Some("engine"), message),
        }
    }

    /// What the tokenizer or the chat template says about `field`.
    pub(crate) fn model(error: &ModelError, field: &str) -> Self {
        Self::invalid(field, format!("{field}: {error}"))
    }

    /// What went wrong, in a word that OpenAI's and Anthropic's clients know.
    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            408 | 504 => "timeout_error",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            400..500 => "invalid_request_error",
            _ => "server_error",
        }
    }

    /// The body of the response.
    pub(crate) fn json(&self) -> Value {
        json!({ "error": { "message": self.message, "type": self.kind(), "param": self.param, "code": self.code } })
    }

    /// The body in Anthropic's shape.
    pub(crate) fn anthropic(&self) -> Value {
        let kind = match self.status.as_u16() {
            404 => "not_found_error",
            413 => "request_too_large",
            _ if self.kind() == "server_error" => "api_error",
            _ => self.kind(),
        };
        json!({ "type": "error", "error": { "type": kind, "message": self.message } })
    }

    /// The event of a response stream of OpenAI's.
    pub(crate) fn event(&self, sequence_number: usize) -> Value {
        json!({ "type": "error", "code": self.code, "message": self.message, "param": self.param,
            "sequence_number": sequence_number })
    }

    /// The response with this body.
    pub(crate) fn with_body(&self, body: &Value) -> Response {
        let mut response = (self.status, json_response(body)).into_response();
        let headers = response.headers_mut();
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs_f64().ceil().max(1.0) as u64));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.with_body(&self.json());
        response.extensions_mut().insert(self); // for routes that spell errors in another way
        response
    }
}

/// A JSON body.
pub(crate) fn json_response(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], value.to_string()).into_response()
}
