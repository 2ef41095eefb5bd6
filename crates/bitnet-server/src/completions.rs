//! `POST /v1/completions`.

use crate::api_error::{ApiError, json_response};
use crate::app::{App, now};
use crate::choices::{Answer, Usage, finish_name};
use crate::event_stream::{self, Events, data};
use crate::fields::{Fields, token, wrong};
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

/// New tokens when the request does not say how many: OpenAI's default.
const DEFAULT_MAX_TOKENS: usize = 16;
const MAX_LOGPROBS: i64 = 20;

pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let arrival = Instant::now();
    app.check_model(fields.string("model")?.as_deref())?;
    let prompts = prompts(fields.required("prompt")?)?;
    fields.refuse("suffix", |suffix| suffix == "")?;
    for object in ["guided_json", "guided_regex", "guided_grammar", "grammar"] {
        fields.refuse(object, |_| false)?;
    }
    let mut parameters = Parameters::take(&mut fields, DEFAULT_MAX_TOKENS)?;
    parameters.request.special = fields.boolean("parse_special")?.unwrap_or(false);
    parameters.request.logprobs = fields.integer("logprobs", 0..=MAX_LOGPROBS)?.map(|top| top as usize);
    let echo = fields.boolean("echo")?.unwrap_or(false);
    if echo && parameters.request.logprobs.is_some() {
        let message = "echo with logprobs is not supported: log-probabilities of prompts are not computed";
        return Err(ApiError::unsupported("echo", message));
    }
    if let Some(best_of) = fields.size("best_of", 1)?.filter(|&best_of| best_of != parameters.n) {
        let message = format!("best_of = {best_of} is not supported, only best_of = n");
        return Err(ApiError::unsupported("best_of", message));
    }

    let Parameters { stream, include_usage, n, .. } = parameters;
    let echoes = match echo {
        true => prompts.iter().map(|prompt| echoed(&app, prompt)).collect::<Result<_, _>>()?,
        false => Vec::new(),
    };
    let requests = move |_: &App| parameters.requests(prompts, "prompt");
    let choices = app.submit(&id, arrival, n, "prompt", requests).await?;
    let head = Head { id: app.answer_id("cmpl"), created: now(), app, echoes, n };
    if stream {
        let offsets = vec![0; choices.len()];
        return Ok(event_stream::respond(choices, Chunks { head, include_usage, offsets }));
    }
    let (answers, usage) = choices.collect().await?;
    let choice = |(index, answer): (usize, Answer)| {
        let text = head.echo(index).to_owned() + &answer.text;
        let logprobs = head.logprobs(&answer.events, &mut 0);
        json!({
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": answer.reason.map(finish_name),
        })
    };
    let choices: Vec<Value> = answers.into_iter().enumerate().map(choice).collect();
    let mut body = head.object(choices);
    body["usage"] = usage.json();
    Ok(json_response(&body))
}

/// A text, a list of texts, a list of ids, or a list of lists of ids.
fn prompts(value: Value) -> Result<Vec<Prompt>, ApiError> {
    let expected = "text, a list of texts, a list of token ids, or a list of such lists";
    let ids = |list: &[Value]| list.iter().map(|id| token(id, "prompt")).collect::<Result<Vec<u32>, _>>();
    let prompt = |value: Value| match value {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(list) => Ok(Prompt::Ids(ids(&list)?)),
        other => Err(wrong("prompt", expected, &other)),
    };
    match value {
        Value::Array(list) if list.is_empty() => Err(ApiError::invalid("prompt", "prompt: the list is empty")),
        Value::Array(list) if list[0].is_number() => Ok(vec![Prompt::Ids(ids(&list)?)]),
        Value::Array(list) => list.into_iter().map(prompt).collect(),
        one => Ok(vec![prompt(one)?]),
    }
}

/// A prompt as text.
fn echoed(app: &App, prompt: &Prompt) -> Result<String, ApiError> {
    match prompt {
        Prompt::Text(text) => Ok(text.clone()),
        Prompt::Ids(ids) => Ok(app.tokenizer("echo")?.decode(ids, false)),
    }
}

/// What all objects of an answer repeat.
struct Head {
    id: String,
    created: u64,
    app: Arc<App>,
    /// Prompts to repeat, if asked for.
    echoes: Vec<String>,
    /// Answers per prompt.
    n: usize,
}

impl Head {
    fn object(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.app.options.model,
            "system_fingerprint": null,
            "choices": choices,
        })
    }

    fn echo(&self, choice: usize) -> &str {
        self.echoes.get(choice / self.n).map_or("", String::as_str)
    }

    /// `null` without any.
    fn logprobs(&self, events: &[TokenEvent], offset: &mut usize) -> Value {
        let events: Vec<TokenEvent> = self.app.reported(events).cloned().collect();
        match events.is_empty() {
            true => Value::Null,
            false => logprobs::completion(self.app.scheduler.engine().tokenizer(), &events, offset),
        }
    }
}

struct Chunks {
    head: Head,
    include_usage: bool,
    /// Characters of every choice's tokens so far.
    offsets: Vec<usize>,
}

impl Chunks {
    fn chunk(&self, choices: Vec<Value>, usage: Value, out: &mut String) {
        let mut chunk = self.head.object(choices);
        if self.include_usage {
            chunk["usage"] = usage;
        }
        data(out, &chunk);
    }

    fn choice(&self, index: usize, text: &str, logprobs: Value, reason: Option<&str>, out: &mut String) {
        let choice = json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": reason });
        self.chunk(vec![choice], Value::Null, out);
    }
}

impl Events for Chunks {
    fn begin(&mut self, choices: usize, out: &mut String) {
        for index in (0..choices).filter(|&index| !self.head.echo(index).is_empty()) {
            self.choice(index, self.head.echo(index), Value::Null, None, out);
        }
    }

    fn token(&mut self, index: usize, event: &TokenEvent, out: &mut String) {
        let logprobs = match event.logprob {
            Some(_) => self.head.logprobs(std::slice::from_ref(event), &mut self.offsets[index]),
            None => Value::Null,
        };
        if !event.text.is_empty() || !logprobs.is_null() {
            self.choice(index, &event.text, logprobs, None, out);
        }
    }

    fn finish(&mut self, index: usize, reason: FinishReason, out: &mut String) {
        self.choice(index, "", Value::Null, Some(finish_name(reason)), out);
    }

    fn end(&mut self, usage: Usage, out: &mut String) {
        if self.include_usage {
            self.chunk(Vec::new(), usage.json(), out);
        }
        out.push_str("data: [DONE]\n\n");
    }
}
