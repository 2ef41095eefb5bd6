//! `POST /v1/embeddings`.

use crate::api_error::{ApiError, json_response};
use crate::app::App;
use crate::asked::Source;
use crate::fields::{Fields, token, wrong};
use crate::model::Model;
use axum::extract::State;
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bitnet_models::Encoding;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const MAX_INPUTS: usize = 2048;

/// A text or its ids.
enum Input {
    Text(String),
    Ids(Vec<u32>),
}

/// One vector per input, computed one after the other beside the steps of the scheduler. As many requests wait as may wait
/// for answers.
pub(crate) async fn embed(State(app): State<Arc<App>>, mut fields: Fields) -> Result<Response, ApiError> {
    let begin = Instant::now();
    let model = app.model(fields.string("model")?.as_deref(), begin).await?;
    let inputs = inputs(fields.required("input")?)?;
    let base64 = match fields.string("encoding_format")?.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let message = format!("encoding_format must be float or base64, not {other:?}");
            return Err(ApiError::invalid("encoding_format", message));
        }
    };
    let hidden = model.scheduler.engine().model().config().hidden;
    if let Some(dimensions) = fields.size("dimensions", 1)?.filter(|&dimensions| dimensions != hidden) {
        let message = format!("dimensions = {dimensions} is not supported: this model's vectors have {hidden}");
        return Err(ApiError::unsupported("dimensions", message));
    }

    let busy = || ApiError::busy("too many embedding requests are waiting already", Duration::from_secs(1));
    let place = Arc::new(Arc::clone(&app.embedding_queue).try_acquire_owned().map_err(|_| busy())?);
    // Gone with this future when the client goes away: the work then ends, and only then gives its place to another.
    let client = Arc::new(());
    let mut data = Vec::with_capacity(inputs.len());
    let mut tokens = 0;
    for (index, input) in inputs.into_iter().enumerate() {
        if begin.elapsed() > app.options.time_limit {
            return Err(ApiError::time_limit());
        }
        // one by one: clients take turns
        let turn = Arc::clone(&app.embedding).acquire_owned().await.map_err(|_| busy())?;
        let (held, client, limit) = ((Arc::clone(&place), turn), Arc::downgrade(&client), app.options.time_limit);
        let go_on = move || client.strong_count() > 0 && begin.elapsed() <= limit;
        let work = move |model: &Model| {
            let _held = held;
            vector(model, input, &go_on)
        };
        let (count, vector) = model.compute(work).await?;
        tokens += count;
        let embedding = match base64 {
            true => json!(BASE64_STANDARD.encode(vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())),
            false => json!(vector),
        };
        data.push(json!({ "object": "embedding", "index": index, "embedding": embedding }));
    }
    Ok(json_response(&json!({
        "object": "list",
        "data": data,
        "model": model.name,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    })))
}

fn vector(model: &Model, input: Input, go_on: &dyn Fn() -> bool) -> Result<(usize, Vec<f32>), ApiError> {
    let ids = match input {
        Input::Ids(ids) => ids,
        Input::Text(text) => {
            let encoding = Encoding { bos: None, special: false };
            model.tokenizer("input")?.encode(&text, encoding).map_err(|error| ApiError::model(&error, "input"))?
        }
    };
    let source = Source { prompt: "input", grammar: "input" };
    let vector = model.scheduler.engine().embed_ids_while(&ids, go_on);
    let vector = vector.map_err(|error| ApiError::inference(error, source))?;
    Ok((ids.len(), vector.ok_or_else(ApiError::time_limit)?))
}

/// A text, a list of texts, a list of ids, or a list of lists of ids.
fn inputs(value: Value) -> Result<Vec<Input>, ApiError> {
    let expected = "text, a list of texts, a list of token ids, or a list of such lists";
    let ids = |list: &[Value]| list.iter().map(|id| token(id, "input")).collect::<Result<Vec<u32>, _>>();
    let input = |value: Value| match value {
        Value::String(text) if text.is_empty() => Err(ApiError::invalid("input", "input: a text is empty")),
        Value::String(text) => Ok(Input::Text(text)),
        Value::Array(list) => Ok(Input::Ids(ids(&list)?)),
        other => Err(wrong("input", expected, &other)),
    };
    match value {
        Value::Array(list) if list.is_empty() => Err(ApiError::invalid("input", "input: the list is empty")),
        Value::Array(list) if list[0].is_number() => Ok(vec![Input::Ids(ids(&list)?)]),
        Value::Array(list) if list.len() > MAX_INPUTS => {
            let message = format!("input has {} entries; at most {MAX_INPUTS}", list.len());
            Err(ApiError::invalid("input", message))
        }
        Value::Array(list) => list.into_iter().map(input).collect(),
        one => Ok(vec![input(one)?]),
    }
}
