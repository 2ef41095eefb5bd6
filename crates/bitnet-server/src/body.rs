//! Reading a request's body: bounded in size and time, and JSON or an error that says why not.

use crate::api_error::ApiError;
use crate::app::App;
use crate::fields::Fields;
use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use std::sync::Arc;
use std::time::Duration;

/// A body must be there completely after this time.
const READ_LIMIT: Duration = Duration::from_secs(30);

impl FromRequest<Arc<App>> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let limit = app.options.max_body;
        let body = tokio::time::timeout(READ_LIMIT, to_bytes(request.into_body(), limit)).await;
        let late = |_| {
            let message = format!("the body was not there after {} seconds", READ_LIMIT.as_secs());
            ApiError::new(StatusCode::REQUEST_TIMEOUT, Some("body_timeout"), message)
        };
        let bytes = body.map_err(late)?.map_err(|error| {
            // the limit is the only error that is not the connection's, and that one nobody hears
            let message = format!("the body cannot be read ({error}); the limit is {limit} bytes");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, Some("body_too_large"), message)
        })?;
        let value = serde_json::from_slice(&bytes).map_err(|error| {
            ApiError::new(StatusCode::BAD_REQUEST, Some("invalid_json"), format!("the body is not JSON: {error}"))
        })?;
        Fields::new(value)
    }
}
