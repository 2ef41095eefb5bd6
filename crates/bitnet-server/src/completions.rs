//! `POST /v1/completions`.

use crate::api_error::{ApiError, json_response};
use crate::asked::{Asked, Source};
use crate::choices::{Answer, Usage, finish_name};
use crate::event_stream::{self, Events};
use crate::fields::{token, wrong};
use crate::head::Head;
use crate::logprobs;
use crate::model::Model;
use crate::parameters::Parameters;
use axum::response::Response;
use bitnet_inference::{FinishReason, Prompt, TokenEvent};
use serde_json::{Value, json};

/// New tokens when the request does not say how many: OpenAI's default.
const DEFAULT_MAX_TOKENS: usize = 16;
const MAX_LOGPROBS: i64 = 20;

pub(crate) async fn complete(mut asked: Asked) -> Result<Response, ApiError> {
    let fields = &mut asked.fields;
    let prompts = prompts(fields.required("prompt")?)?;
    fields.refuse("suffix", |suffix| suffix == "")?;
    for object in ["guided_json", "guided_regex", "guided_grammar", "grammar"] {
        fields.refuse(object, |_| false)?;
    }
    let mut parameters = Parameters::take(fields, DEFAULT_MAX_TOKENS)?;
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
        true => prompts.iter().map(|prompt| echoed(&asked.model, prompt)).collect::<Result<_, _>>()?,
        false => Vec::new(),
    };
    let requests = move |_: &Model| parameters.requests(prompts, "prompt");
    let source = Source { prompt: "prompt", grammar: "response_format" };
    let choices = asked.submit(n, source, requests).await?;
    let head = Head::new(&asked, "cmpl-", "text_completion", include_usage);
    let chunks = Chunks { head, echoes, n, offsets: vec![0; choices.len()] };
    if stream {
        return Ok(event_stream::respond(choices, chunks));
    }
    let (answers, usage) = choices.collect().await?;
    let choice = |(index, answer): (usize, Answer)| {
        json!({
            "index": index,
            "text": chunks.echo(index).to_owned() + &answer.text,
            "logprobs": scores(&chunks.head, &answer.events, &mut 0),
            "finish_reason": answer.reason.map(finish_name),
        })
    };
    let choices: Vec<Value> = answers.into_iter().enumerate().map(choice).collect();
    Ok(json_response(&chunks.head.whole(choices, usage)))
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
fn echoed(model: &Model, prompt: &Prompt) -> Result<String, ApiError> {
    match prompt {
        Prompt::Text(text) => Ok(text.clone()),
        Prompt::Ids(ids) => Ok(model.tokenizer("echo")?.decode(ids, false)),
    }
}

/// `null` without any. `offset` is where the first token's text begins; it is moved on.
fn scores(head: &Head, events: &[TokenEvent], offset: &mut usize) -> Value {
    match head.scored(events) {
        events if events.is_empty() => Value::Null,
        events => logprobs::completion(head.model.scheduler.engine().tokenizer(), &events, offset),
    }
}

struct Chunks {
    head: Head,
    /// Prompts to repeat, if asked for.
    echoes: Vec<String>,
    /// Answers per prompt.
    n: usize,
    /// Characters of every choice's tokens so far.
    offsets: Vec<usize>,
}

impl Chunks {
    fn echo(&self, choice: usize) -> &str {
        self.echoes.get(choice / self.n).map_or("", String::as_str)
    }

    fn choice(&self, index: usize, text: &str, logprobs: Value, reason: Option<&str>, out: &mut String) {
        let choice = json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": reason });
        self.head.chunk(choice, out);
    }
}

impl Events for Chunks {
    fn begin(&mut self, _: Usage, out: &mut String) {
        for index in (0..self.offsets.len()).filter(|&index| !self.echo(index).is_empty()) {
            self.choice(index, self.echo(index), Value::Null, None, out);
        }
    }

    fn token(&mut self, index: usize, event: &TokenEvent, out: &mut String) {
        let logprobs = scores(&self.head, std::slice::from_ref(event), &mut self.offsets[index]);
        if !event.text.is_empty() || !logprobs.is_null() {
            self.choice(index, &event.text, logprobs, None, out);
        }
    }

    fn finish(&mut self, index: usize, reason: FinishReason, out: &mut String) {
        self.choice(index, "", Value::Null, Some(finish_name(reason)), out);
    }

    fn end(&mut self, usage: Usage, out: &mut String) {
        self.head.end(usage, out);
    }
}
