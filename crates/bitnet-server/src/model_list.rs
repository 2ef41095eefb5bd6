//! `GET /v1/models`: the one model that is here.

use crate::api_error::{ApiError, json_response};
use crate::app::App;
use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    json_response(&json!({ "object": "list", "data": [entry(&app)] }))
}

pub(crate) async fn one(State(app): State<Arc<App>>, Path(model): Path<String>) -> Result<Response, ApiError> {
    app.check_model(Some(&model))?;
    Ok(json_response(&entry(&app)))
}

fn entry(app: &App) -> Value {
    json!({
        "id": app.options.model,
        "object": "model",
        "created": app.started,
        "owned_by": "bitnet",
        "context_length": app.scheduler.context(),
        "parallel": app.scheduler.sequences(),
        "chat": app.template("messages").is_ok(),
    })
}
