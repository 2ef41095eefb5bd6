//! `POST /v1/chat/completions`.

use crate::api_error::{ApiError, json_response};
use crate::asked::{Asked, Source};
use crate::calling::{Calling, Spelling};
use crate::choices::{Answer, Usage, finish_name};
use crate::conversation;
use crate::event_stream::{self, Events};
use crate::fields::Fields;
use crate::head::Head;
use crate::logprobs;
use crate::parameters::Parameters;
use axum::response::Response;
use bitnet_inference::{CallReader, FinishReason, Piece, TokenEvent};
use bitnet_models::Conversation;
use serde_json::{Value, json};

const MAX_TOP_LOGPROBS: i64 = 20;

pub(crate) async fn complete(mut asked: Asked) -> Result<Response, ApiError> {
    let fields = &mut asked.fields;
    let turns = conversation::read(fields.required("messages")?)?;
    refuse_what_is_not_there(fields)?;
    let calling = Calling::take(fields, Spelling::Chat)?;
    let mut parameters = Parameters::take(fields, usize::MAX)?;
    parameters.request.logprobs = top_logprobs(fields)?;
    let tools = calling.apply(&mut parameters.request, "response_format")?;

    let Parameters { stream, include_usage, .. } = parameters;
    let calls = !tools.is_empty();
    let source = Source { prompt: "messages", grammar: if calls { "tools" } else { "response_format" } };
    let choices = asked.submit_conversation(Conversation { turns, tools }, parameters, source).await?;
    let object = if stream { "chat.completion.chunk" } else { "chat.completion" };
    let head = Head::new(&asked, "chatcmpl-", object, include_usage);
    if stream {
        let choice = Choice { reader: calls.then(CallReader::default), begun: 0, complete: false };
        let chunks = Chunks { head, choices: vec![choice; choices.len()] };
        return Ok(event_stream::respond(choices, chunks));
    }
    let (answers, usage) = choices.collect().await?;
    let choices: Vec<Value> = answers.into_iter().enumerate().map(|(nth, one)| whole(&head, nth, one, calls)).collect();
    Ok(json_response(&head.whole(choices, usage)))
}

/// What would change the answer and cannot be done must not be ignored.
fn refuse_what_is_not_there(fields: &mut Fields) -> Result<(), ApiError> {
    fields.refuse("functions", |list| list.as_array().is_some_and(Vec::is_empty))?;
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

/// `null` without any.
fn scores(head: &Head, events: &[TokenEvent]) -> Value {
    match head.scored(events) {
        events if events.is_empty() => Value::Null,
        events => logprobs::chat(head.model.scheduler.engine().tokenizer(), &events),
    }
}

/// The choice of a whole answer. A call that the limit cut is left out: nobody could make it.
fn whole(head: &Head, index: usize, answer: Answer, calls: bool) -> Value {
    let logprobs = scores(head, &answer.events);
    let (text, calls) = match calls {
        true => CallReader::read(&answer.text),
        false => (answer.text, Vec::new()),
    };
    let mut message = json!({ "role": "assistant", "content": text, "refusal": null });
    if !calls.is_empty() {
        if text.is_empty() {
            message["content"] = Value::Null;
        }
        let call = |(name, arguments): &(String, String)| {
            let id = head.app.answer_id("call_");
            json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })
        };
        message["tool_calls"] = calls.iter().map(call).collect();
    }
    let reason = answer.reason.map(|reason| reason_name(reason, !calls.is_empty()));
    json!({ "index": index, "message": message, "logprobs": logprobs, "finish_reason": reason })
}

/// Why an answer ended, with or without a call.
fn reason_name(reason: FinishReason, called: bool) -> &'static str {
    match finish_name(reason) {
        "stop" if called => "tool_calls",
        name => name,
    }
}

struct Chunks {
    head: Head,
    choices: Vec<Choice>,
}

/// How far a choice has come.
#[derive(Clone)]
struct Choice {
    /// There if it may call functions.
    reader: Option<CallReader>,
    /// Calls that have begun.
    begun: usize,
    /// One of them is complete.
    complete: bool,
}

impl Choice {
    /// What the next piece of an answer changes.
    fn delta(&mut self, head: &Head, piece: Piece) -> Option<Value> {
        Some(match piece {
            Piece::Text(text) => json!({ "content": text }),
            Piece::Call(name) => {
                let (index, id) = (self.begun, head.app.answer_id("call_"));
                self.begun += 1;
                let function = json!({ "name": name, "arguments": "" });
                json!({ "tool_calls": [{ "index": index, "id": id, "type": "function", "function": function }] })
            }
            Piece::Arguments(part) => {
                json!({ "tool_calls": [{ "index": self.begun - 1, "function": { "arguments": part } }] })
            }
            Piece::End => {
                self.complete = true;
                return None;
            }
        })
    }
}

impl Chunks {
    fn chunk(&self, index: usize, delta: Value, logprobs: Value, reason: Option<&str>, out: &mut String) {
        let choice = json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason });
        self.head.chunk(choice, out);
    }
}

impl Events for Chunks {
    fn begin(&mut self, _: Usage, out: &mut String) {
        for index in 0..self.choices.len() {
            self.chunk(index, json!({ "role": "assistant", "content": "" }), Value::Null, None, out);
        }
    }

    fn token(&mut self, index: usize, event: &TokenEvent, out: &mut String) {
        let mut logprobs = scores(&self.head, std::slice::from_ref(event));
        let Chunks { head, choices } = self;
        let choice = &mut choices[index];
        let mut deltas = Vec::new();
        match choice.reader.take() {
            Some(mut reader) => {
                reader.push(&event.text, &mut |piece| deltas.extend(choice.delta(head, piece)));
                choice.reader = Some(reader);
            }
            None if event.text.is_empty() => {}
            None => deltas.push(json!({ "content": event.text })),
        }
        if deltas.is_empty() && !logprobs.is_null() {
            deltas.push(json!({ "content": "" }));
        }
        for delta in deltas {
            self.chunk(index, delta, logprobs.take(), None, out);
        }
    }

    fn finish(&mut self, index: usize, reason: FinishReason, out: &mut String) {
        let Chunks { head, choices } = self;
        let choice = &mut choices[index];
        let mut deltas = Vec::new();
        if let Some(mut reader) = choice.reader.take() {
            reader.finish(&mut |piece| deltas.extend(choice.delta(head, piece)));
        }
        let reason = reason_name(reason, choice.complete);
        deltas.into_iter().for_each(|delta| self.chunk(index, delta, Value::Null, None, out));
        self.chunk(index, json!({}), Value::Null, Some(reason), out);
    }

    fn end(&mut self, usage: Usage, out: &mut String) {
        self.head.end(usage, out);
    }
}
