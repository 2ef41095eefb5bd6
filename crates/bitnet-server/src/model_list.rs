//! `GET /v1/models`: what is served, open or not.

use crate::api_error::{ApiError, json_response};
use crate::app::App;
use crate::model::Model;
use crate::models::NamedModel;
use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    json_response(&json!({ "object": "list", "data": entries(&app) }))
}

pub(crate) async fn one(State(app): State<Arc<App>>, Path(model): Path<String>) -> Result<Response, ApiError> {
    let index = app.models.find(Some(&model))?;
    Ok(json_response(&entries(&app)[index]))
}

fn entries(app: &App) -> Vec<Value> {
    app.models.look(|all| all.iter().map(|&(named, _, open)| entry(app.started, named, open)).collect())
}

fn entry(started: u64, named: &NamedModel, open: Option<&Model>) -> Value {
    let (context, parallel, chat) = match open {
        Some(model) => (model.scheduler.context(), model.scheduler.sequences(), model.template("messages").is_ok()),
        None => (named.context, named.parallel, named.chat),
    };
    json!({
        "id": named.name,
        "object": "model",
        "created": started,
        "owned_by": "bitnet",
        "context_length": context,
        "parallel": parallel,
        "chat": chat,
        "open": open.is_some(),
    })
}
