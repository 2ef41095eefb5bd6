//! Probes: alive, and ready for requests.

use crate::api_error::{ApiError, json_response};
use crate::app::App;
use crate::model::Model;
use crate::models::Seen;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

fn open<'m>(all: &[Seen<'m>]) -> impl Iterator<Item = &'m Model> {
    all.iter().filter_map(|&(_, _, model)| model)
}

fn is_running(app: &App) -> bool {
    app.models.look(|all| open(all).all(|model| model.scheduler.is_running()))
}

/// `GET /health`: the process lives, and the engines of its open models too.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    match is_running(&app) {
        true => Ok(json_response(&json!({ "status": "ok" }))),
        false => {
            let message = "the engine has stopped; restart the server";
            Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, Some("engine"), message))
        }
    }
}

/// `GET /ready`: it takes requests, at once or when their model is open.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    if app.draining.load(Relaxed) || !is_running(&app) {
        return Err(ApiError::busy("the server is stopping", Duration::from_secs(5)));
    }
    let queue = app.options.queue;
    let full = |model: &Model| model.scheduler.metrics().waiting.load(Relaxed) >= queue;
    if app.models.waiting() >= queue || app.models.look(|all| open(all).any(full)) {
        return Err(ApiError::busy("the queue is full", Duration::from_secs(1)));
    }
    Ok(json_response(&json!({ "status": "ready" })))
}
