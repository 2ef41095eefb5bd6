//! `POST /v1/chat/completions`.

use crate::api_error::{ApiError, json_response};
use crate::app::{App, now};
use crate::choices::{Usage, finish_name};
use crate::conversation;
use crate::event_stream::{self, Events, data};
use crate::fields::Fields;
use crate::logprobs;
use crate::observe::RequestId;
use crate::parameters::Parameters;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use bitnet_inference::{FinishReason, Prompt, TokenEvent};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::time::Instant;

const MAX_TOP_LOGPROBS: i64 = 20;

pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let arrival = Instant::now();
    app.check_model(fields.string("model")?.as_deref())?;
    let messages = conversation::read(fields.required("messages")?)?;
    refuse_what_is_not_there(&mut fields)?;
    let mut parameters = Parameters::take(&mut fields, usize::MAX)?;
    parameters.request.logprobs = top_logprobs(&mut fields)?;

    let Parameters { stream, include_usage, n, .. } = parameters;
    let prompt = move |app: &App| {
        let ids = app.tokenizer("messages")?.encode_chat(app.template()?, &messages, true);
        let ids = ids.map_err(|error| ApiError::model(&error, "messages"))?;
        parameters.requests(vec![Prompt::Ids(ids)], "n")
    };
    let choices = app.submit(&id, arrival, n, "messages", prompt).await?;
    let head = Head { id: app.answer_id("chatcmpl"), created: now(), app };
    if stream {
        return Ok(event_stream::respond(choices, Chunks { head, include_usage }));
    }
    let (answers, usage) = choices.collect().await?;
    let choice = |(index, answer): (usize, crate::choices::Answer)| {
        json!({
            "index": index,
            "message": { "role": "assistant", "content": answer.text, "refusal": null },
            "logprobs": head.logprobs(&answer.events),
            "finish_reason": answer.reason.map(finish_name),
        })
    };
    let choices: Vec<Value> = answers.into_iter().enumerate().map(choice).collect();
    let mut body = head.object("chat.completion", choices);
    body["usage"] = usage.json();
    Ok(json_response(&body))
}

/// What would change the answer and cannot be done must not be ignored.
fn refuse_what_is_not_there(fields: &mut Fields) -> Result<(), ApiError> {
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    for list in ["tools", "functions"] {
        fields.refuse(list, empty)?;
    }
    fields.refuse("tool_choice", |choice| choice == "none" || choice == "auto")?;
    fields.refuse("function_call", |choice| choice == "none" || choice == "auto")?;
    fields.refuse("modalities", |modalities| *modalities == json!(["text"]))?;
    for object in [
        "audio",
        "web_search_options",
        "chat_template",
        "chat_template_kwargs",
        "guided_json",
        "guided_regex",
        "guided_grammar",
        "grammar",
    ] {
        fields.refuse(object, |_| false)?;
    }
    Ok(())
}

/// `logprobs` switches them on, `top_logprobs` says how many alternatives.
fn top_logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let on = fields.boolean("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=MAX_TOP_LOGPROBS)?;
    match (on, top) {
        (false, Some(1..)) => Err(ApiError::invalid("top_logprobs", "top_logprobs needs \"logprobs\": true")),
        (false, _) => Ok(None),
        (true, top) => Ok(Some(top.map_or(0, |top| top as usize))),
    }
}

/// What all objects of an answer repeat.
struct Head {
    id: String,
    created: u64,
    app: Arc<App>,
}

impl Head {
    fn object(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.app.options.model,
            "system_fingerprint": null,
            "choices": choices,
        })
    }

    /// `null` without any.
    fn logprobs(&self, events: &[TokenEvent]) -> Value {
        let events: Vec<TokenEvent> = self.app.reported(events).cloned().collect();
        match events.is_empty() {
            true => Value::Null,
            false => logprobs::chat(self.app.scheduler.engine().tokenizer(), &events),
        }
    }
}

struct Chunks {
    head: Head,
    include_usage: bool,
}

impl Chunks {
    fn chunk(&self, choices: Vec<Value>, usage: Value, out: &mut String) {
        let mut chunk = self.head.object("chat.completion.chunk", choices);
        if self.include_usage {
            chunk["usage"] = usage;
        }
        data(out, &chunk);
    }

    fn choice(&self, index: usize, delta: Value, logprobs: Value, reason: Option<&str>, out: &mut String) {
        let choice = json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason });
        self.chunk(vec![choice], Value::Null, out);
    }
}

impl Events for Chunks {
    fn begin(&mut self, choices: usize, out: &mut String) {
        for index in 0..choices {
            self.choice(index, json!({ "role": "assistant", "content": "" }), Value::Null, None, out);
        }
    }

    fn token(&mut self, index: usize, event: &TokenEvent, out: &mut String) {
        let logprobs = match event.logprob {
            Some(_) => self.head.logprobs(std::slice::from_ref(event)),
            None => Value::Null,
        };
        if !event.text.is_empty() || !logprobs.is_null() {
            self.choice(index, json!({ "content": event.text }), logprobs, None, out);
        }
    }

    fn finish(&mut self, index: usize, reason: FinishReason, out: &mut String) {
        self.choice(index, json!({}), Value::Null, Some(finish_name(reason)), out);
    }

    fn end(&mut self, usage: Usage, out: &mut String) {
        if self.include_usage {
            self.chunk(Vec::new(), usage.json(), out);
        }
        out.push_str("data: [DONE]\n\n");
    }
}
