//! `POST /v1/responses`: OpenAI's newer spelling of conversations. Nothing is stored: every request brings its past.

use crate::api_error::{ApiError, json_response};
use crate::app::{App, now};
use crate::asked::{Asked, Source};
use crate::calling::{Calling, Spelling, earlier_call};
use crate::choices::{Usage, finish_name};
use crate::conversation::text;
use crate::event_stream::{self, Events, event};
use crate::fields::Fields;
use crate::parameters::{Parameters, form, sampling};
use axum::response::Response;
use bitnet_inference::{CallReader, FinishReason, GenerateRequest, Piece, TokenEvent};
use bitnet_models::{Conversation, Turn};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn create(mut asked: Asked) -> Result<Response, ApiError> {
    let fields = &mut asked.fields;
    refuse_what_is_not_there(fields)?;
    let echo = echo(fields);
    let mut turns = Vec::new();
    if let Some(instructions) = fields.string("instructions")? {
        turns.push(Turn::System(instructions));
    }
    read(fields, &mut turns)?;
    let max_tokens = fields.size("max_output_tokens", 1)?.unwrap_or(usize::MAX);
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let mut request = GenerateRequest::new("", max_tokens);
    request.sampling = sampling(fields)?;
    if let Some(mut text) = fields.object("text")? {
        request.grammar = form(&mut text, "format")?;
    }
    let tools = Calling::take(fields, Spelling::Responses)?.apply(&mut request, "text.format")?;
    let calls = !tools.is_empty();
    let source = Source { prompt: "input", grammar: if calls { "tools" } else { "text.format" } };
    let sampling = &request.sampling;
    let mut response = json!({
        "id": asked.app.answer_id("resp_"),
        "object": "response",
        "created_at": now(),
        "status": "in_progress",
        "error": null,
        "incomplete_details": null,
        "model": asked.model.name,
        "output": [],
        "previous_response_id": null,
        "store": false,
        "background": false,
        "truncation": "disabled",
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "usage": null,
    });
    response.as_object_mut().into_iter().for_each(|all| all.extend(echo.clone()));

    let parameters = Parameters::single(request, stream);
    let choices = asked.submit_conversation(Conversation { turns, tools }, parameters, source).await?;
    let mut items = Items {
        app: Arc::clone(&asked.app),
        response,
        reader: calls.then(CallReader::default),
        open: None,
        reason: None,
        sequence: 0,
    };
    if stream {
        return Ok(event_stream::respond(choices, items));
    }
    // what the events would have come to
    let (answers, usage) = choices.collect().await?;
    let mut unheard = String::new();
    for answer in answers {
        items.text(&answer.text, &mut unheard);
        items.close_all(answer.reason, &mut unheard);
    }
    items.complete(usage);
    Ok(json_response(&items.response))
}

/// What would change the answer and cannot be done must not be ignored.
fn refuse_what_is_not_there(fields: &mut Fields) -> Result<(), ApiError> {
    for name in ["store", "background"] {
        fields.refuse(name, |asked| asked == false)?;
    }
    for name in ["previous_response_id", "conversation", "prompt", "context_management", "max_tool_calls", "n"] {
        fields.refuse(name, |_| false)?;
    }
    fields.refuse("truncation", |truncation| truncation == "disabled")?;
    // of these there is nothing to include
    let empty = |item: &Value| item == "reasoning.encrypted_content";
    fields.refuse("include", |list| list.as_array().is_some_and(|list| list.iter().all(empty)))?;
    fields.refuse("top_logprobs", |top| top == 0)
}

/// What a response repeats of its request, as it came.
fn echo(fields: &Fields) -> serde_json::Map<String, Value> {
    let or = |name: &str, default: Value| match fields.peek(name) {
        Value::Null => (name.to_owned(), default),
        value => (name.to_owned(), value),
    };
    [
        or("instructions", Value::Null),
        or("max_output_tokens", Value::Null),
        or("metadata", json!({})),
        or("parallel_tool_calls", json!(true)),
        or("reasoning", json!({ "effort": null, "summary": null })),
        or("text", json!({ "format": { "type": "text" } })),
        or("tool_choice", json!("auto")),
        or("tools", json!([])),
        or("user", Value::Null),
    ]
    .into_iter()
    .collect()
}

/// Reads `input`: a text, or a list of messages, calls and their results.
fn read(fields: &mut Fields, turns: &mut Vec<Turn>) -> Result<(), ApiError> {
    match fields.peek("input") {
        Value::Null => Err(fields.missing("input")),
        Value::String(text) => {
            turns.push(Turn::User(text));
            Ok(())
        }
        Value::Array(list) if list.is_empty() => Err(ApiError::invalid("input", "input must have at least one item")),
        _ => {
            let mut items = fields.list("input")?.into_iter();
            items.try_for_each(|(path, item)| read_item(Fields::at(&path, item)?, turns))
        }
    }
}

fn read_item(mut item: Fields, turns: &mut Vec<Turn>) -> Result<(), ApiError> {
    match item.string("type")?.as_deref() {
        None | Some("message") => turns.push(message(item)?),
        Some("function_call") => {
            let id = item.text("call_id")?;
            let call = earlier_call(id, item)?;
            match turns.last_mut() {
                Some(Turn::Assistant { calls, .. }) => calls.push(call),
                _ => turns.push(Turn::Assistant { text: String::new(), calls: vec![call] }),
            }
        }
        Some("function_call_output") => {
            let id = item.text("call_id")?;
            let output = item.required("output")?;
            turns.push(Turn::Tool { id, text: text(output, &item.path("output"))? });
        }
        Some(kind) => {
            let path = item.path("type");
            return Err(ApiError::unsupported(path.clone(), format!("{path}: {kind:?} is not supported")));
        }
    }
    Ok(())
}

fn message(mut item: Fields) -> Result<Turn, ApiError> {
    let role = item.text("role")?;
    let content = item.required("content")?;
    let said = text(content, &item.path("content"))?;
    match role.as_str() {
        "system" | "developer" => Ok(Turn::System(said)),
        "user" => Ok(Turn::User(said)),
        "assistant" => Ok(Turn::Assistant { text: said, calls: Vec::new() }),
        other => {
            let path = item.path("role");
            let message = format!("{path} must be system, developer, user or assistant, not {other:?}");
            Err(ApiError::invalid(path, message))
        }
    }
}

/// A response in the making, and the events that tell of it.
struct Items {
    app: Arc<App>,
    /// With the items that are complete.
    response: Value,
    /// There if the answer may call functions.
    reader: Option<CallReader>,
    /// The item that grows.
    open: Option<Value>,
    reason: Option<FinishReason>,
    /// Events so far.
    sequence: usize,
}

impl Items {
    fn event(&mut self, kind: &str, mut value: Value, out: &mut String) {
        value["type"] = json!(kind);
        value["sequence_number"] = json!(self.sequence);
        self.sequence += 1;
        event(out, &value);
    }

    /// An event about the open item, or a part of it.
    fn about_item(&mut self, kind: &str, mut value: Value, out: &mut String) {
        if let Some(item) = &self.open {
            value["item_id"] = item["id"].clone();
        }
        value["output_index"] = json!(self.output_index());
        self.event(kind, value, out);
    }

    fn output_index(&self) -> usize {
        self.response["output"].as_array().map_or(0, Vec::len)
    }

    /// The next text of the answer.
    fn text(&mut self, text: &str, out: &mut String) {
        match self.reader.take() {
            Some(mut reader) => {
                reader.push(text, &mut |piece| self.piece(piece, out));
                self.reader = Some(reader);
            }
            None if text.is_empty() => {}
            None => self.piece(Piece::Text(text.to_owned()), out),
        }
    }

    fn piece(&mut self, piece: Piece, out: &mut String) {
        match piece {
            Piece::Text(text) => {
                if self.open.is_none() {
                    self.begin_message(out);
                }
                let delta = json!({ "content_index": 0, "delta": text, "logprobs": [] });
                self.grow("/content/0/text", &text);
                self.about_item("response.output_text.delta", delta, out);
            }
            Piece::Call(name) => {
                self.close("completed", out);
                let (id, call_id) = (self.app.answer_id("fc_"), self.app.answer_id("call_"));
                self.begin(
                    json!({ "id": id, "type": "function_call", "status": "in_progress", "call_id": call_id, "name": name,
                        "arguments": "" }),
                    out,
                );
            }
            Piece::Arguments(part) => {
                self.grow("/arguments", &part);
                self.about_item("response.function_call_arguments.delta", json!({ "delta": part }), out);
            }
            Piece::End => self.close("completed", out),
        }
    }

    /// Appends to a text of the open item.
    fn grow(&mut self, pointer: &str, part: &str) {
        if let Some(Value::String(text)) = self.open.as_mut().and_then(|item| item.pointer_mut(pointer)) {
            text.push_str(part);
        }
    }

    fn begin(&mut self, item: Value, out: &mut String) {
        let index = self.output_index();
        self.event("response.output_item.added", json!({ "output_index": index, "item": item }), out);
        self.open = Some(item);
    }

    fn begin_message(&mut self, out: &mut String) {
        let id = self.app.answer_id("msg_");
        let message =
            json!({ "id": id, "type": "message", "status": "in_progress", "role": "assistant", "content": [] });
        self.begin(message, out);
        let part = json!({ "type": "output_text", "text": "", "annotations": [], "logprobs": [] });
        if let Some(item) = &mut self.open {
            item["content"] = json!([part]);
        }
        self.about_item("response.content_part.added", json!({ "content_index": 0, "part": part }), out);
    }

    /// Ends the open item.
    fn close(&mut self, status: &str, out: &mut String) {
        let Some(item) = &mut self.open else { return };
        item["status"] = json!(status);
        let item = item.clone();
        if item["type"] == "message" {
            let part = &item["content"][0];
            let done = json!({ "content_index": 0, "text": part["text"], "logprobs": [] });
            self.about_item("response.output_text.done", done, out);
            self.about_item("response.content_part.done", json!({ "content_index": 0, "part": part }), out);
        } else {
            let done = json!({ "name": item["name"], "arguments": item["arguments"] });
            self.about_item("response.function_call_arguments.done", done, out);
        }
        let index = self.output_index();
        self.event("response.output_item.done", json!({ "output_index": index, "item": item }), out);
        self.open = None;
        if let Some(output) = self.response["output"].as_array_mut() {
            output.push(item);
        }
    }

    /// At the end of the answer.
    fn close_all(&mut self, reason: Option<FinishReason>, out: &mut String) {
        if let Some(mut reader) = self.reader.take() {
            reader.finish(&mut |piece| self.piece(piece, out));
        }
        self.reason = reason;
        self.close(if self.is_complete() { "completed" } else { "incomplete" }, out);
    }

    fn is_complete(&self) -> bool {
        self.reason.is_some_and(|reason| finish_name(reason) == "stop")
    }

    fn complete(&mut self, usage: Usage) {
        let complete = self.is_complete();
        let response = &mut self.response;
        response["status"] = json!(if complete { "completed" } else { "incomplete" });
        if !complete {
            response["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        response["usage"] = json!({
            "input_tokens": usage.prompt,
            "input_tokens_details": { "cached_tokens": usage.cached },
            "output_tokens": usage.new,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": usage.prompt + usage.new,
        });
    }

    fn with_response(&mut self, kind: &str, out: &mut String) {
        let response = self.response.clone();
        self.event(kind, json!({ "response": response }), out);
    }
}

impl Events for Items {
    fn begin(&mut self, _: Usage, out: &mut String) {
        self.with_response("response.created", out);
        self.with_response("response.in_progress", out);
    }

    fn token(&mut self, _: usize, token: &TokenEvent, out: &mut String) {
        self.text(&token.text, out);
    }

    fn finish(&mut self, _: usize, reason: FinishReason, out: &mut String) {
        self.close_all(Some(reason), out);
    }

    fn end(&mut self, usage: Usage, out: &mut String) {
        self.complete(usage);
        let kind = if self.is_complete() { "response.completed" } else { "response.incomplete" };
        self.with_response(kind, out);
    }

    fn error(&mut self, error: &ApiError, out: &mut String) {
        event(out, &error.event(self.sequence));
    }
}
