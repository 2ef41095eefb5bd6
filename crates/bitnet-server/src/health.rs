//! Probes: alive, and ready for requests.

use crate::api_error::{ApiError, json_response};
use crate::app::App;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// `GET /health`: the process lives, and its engine too.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    match app.scheduler.is_running() {
        true => Ok(json_response(&json!({ "status": "ok" }))),
        false => {
            let message = "the engine has stopped; restart the server";
            Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, Some("engine"), message))
        }
    }
}

/// `GET /ready`: it takes requests.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    if app.draining.load(Relaxed) || !app.scheduler.is_running() {
        return Err(ApiError::busy("the server is stopping", Duration::from_secs(5)));
    }
    if app.scheduler.metrics().waiting.load(Relaxed) >= app.options.queue {
        return Err(ApiError::busy("the queue is full", Duration::from_secs(1)));
    }
    Ok(json_response(&json!({ "status": "ready" })))
}
