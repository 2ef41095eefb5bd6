//! `POST /tokenize`, `/detokenize`, `/apply-template`: what the model sees.

use crate::api_error::{ApiError, json_response};
use crate::app::App;
use crate::calling::{Calling, Spelling};
use crate::conversation;
use crate::fields::{Fields, token, wrong};
use crate::model::Model;
use crate::models::Lease;
use axum::extract::State;
use axum::response::Response;
use bitnet_inference::GenerateRequest;
use bitnet_models::{Conversation, Encoding};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::time::Instant;

/// The model that is meant. When there is one only, nobody has to know its name.
async fn model(app: &App, fields: &mut Fields) -> Result<Lease, ApiError> {
    let name = if app.models.is_one() { None } else { fields.string("model")? };
    app.model(name.as_deref(), Instant::now()).await
}

/// `content` (or `prompt`) → `tokens`. `add_special` puts the begin-of-sequence token in front if the model has one,
/// `parse_special` reads special tokens that the text spells, `with_pieces` adds what each token stands for.
pub(crate) async fn tokenize(State(app): State<Arc<App>>, mut fields: Fields) -> Result<Response, ApiError> {
    let model = model(&app, &mut fields).await?;
    let prompt = fields.string("prompt")?;
    let content = match fields.string("content")?.or(prompt) {
        Some(content) => content,
        None => return Err(ApiError::invalid("content", "content is missing")),
    };
    let special = fields.boolean("parse_special")?.unwrap_or(true);
    let bos = fields.boolean("add_special")?.unwrap_or(false);
    let pieces = fields.boolean("with_pieces")?.unwrap_or(false);
    let tokens = move |model: &Model| {
        let tokenizer = model.tokenizer("content")?;
        let encoding = Encoding { bos: if bos { None } else { Some(false) }, special };
        let ids = tokenizer.encode(&content, encoding).map_err(|error| ApiError::model(&error, "content"))?;
        let piece = |&id: &u32| {
            let bytes = tokenizer.bytes(id).or_else(|| tokenizer.text(id).map(str::as_bytes)).unwrap_or_default();
            let piece = std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), |text| json!(text));
            json!({ "id": id, "piece": piece })
        };
        let count = ids.len();
        let tokens: Value = if pieces { ids.iter().map(piece).collect() } else { json!(ids) };
        Ok(json!({ "tokens": tokens, "count": count }))
    };
    model.compute(tokens).await.map(|body| json_response(&body))
}

/// `tokens` → `content`, special tokens by their names.
pub(crate) async fn detokenize(State(app): State<Arc<App>>, mut fields: Fields) -> Result<Response, ApiError> {
    let model = model(&app, &mut fields).await?;
    let tokens = match fields.required("tokens")? {
        Value::Array(tokens) => tokens,
        other => return Err(wrong("tokens", "a list of token ids", &other)),
    };
    let ids = tokens.iter().map(|id| token(id, "tokens")).collect::<Result<Vec<u32>, _>>()?;
    let content = move |model: &Model| {
        let tokenizer = model.tokenizer("tokens")?;
        let vocab = tokenizer.vocab_size();
        match ids.iter().find(|&&id| id as usize >= vocab) {
            Some(id) => {
                let message = format!("tokens: {id} is not below the vocabulary size {vocab}");
                Err(ApiError::invalid("tokens", message))
            }
            None => Ok(json!({ "content": tokenizer.decode(&ids, true) })),
        }
    };
    model.compute(content).await.map(|body| json_response(&body))
}

/// `messages` → `prompt`, the text that the chat template makes of them, and `tokens`, what the model reads. With `tools` as
/// in chats.
pub(crate) async fn apply_template(State(app): State<Arc<App>>, mut fields: Fields) -> Result<Response, ApiError> {
    let model = model(&app, &mut fields).await?;
    let turns = conversation::read(fields.required("messages")?)?;
    let tools =
        Calling::take(&mut fields, Spelling::Chat)?.apply(&mut GenerateRequest::new("", 1), "response_format")?;
    let opening = fields.boolean("add_generation_prompt")?.unwrap_or(true);
    let conversation = Conversation { turns, tools };
    let prompt = move |model: &Model| {
        let template = model.template("messages")?;
        let failed = |error| ApiError::model(&error, "messages");
        let prompt = template.render_conversation(&conversation, opening).map_err(failed)?;
        let tokens =
            model.tokenizer("messages")?.encode_conversation(template, &conversation, opening).map_err(failed)?;
        Ok(json!({ "prompt": prompt, "tokens": tokens }))
    };
    model.compute(prompt).await.map(|body| json_response(&body))
}
