//! `POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's spelling of conversations.

use crate::api_error::{ApiError, json_response};
use crate::app::App;
use crate::asked::{Asked, Source};
use crate::calling::{Calling, Spelling, function_name};
use crate::choices::{Answer, Usage, finish_name};
use crate::conversation::text;
use crate::event_stream::{self, Events, event};
use crate::fields::{Fields, wrong};
use crate::model::Model;
use crate::parameters::{Parameters, form, sampling, stops};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bitnet_inference::{CallReader, FinishReason, GenerateRequest, Piece, TokenEvent};
use bitnet_models::{Conversation, ToolCall, Turn};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn create(mut asked: Asked) -> Result<Response, ApiError> {
    let fields = &mut asked.fields;
    let max_tokens = fields.size("max_tokens", 1)?.ok_or_else(|| fields.missing("max_tokens"))?;
    let mut request = GenerateRequest::new("", max_tokens);
    let stream = fields.boolean("stream")?.unwrap_or(false);
    request.sampling = sampling(fields)?;
    request.stop = stops(fields, "stop_sequences")?;
    let (conversation, calls) = read(fields, &mut request)?;

    let source = Source { prompt: "messages", grammar: if calls { "tools" } else { "output_config" } };
    let stops = request.stop.clone();
    let parameters = Parameters::single(request, stream);
    let choices = asked.submit_conversation(conversation, parameters, source).await?;
    let app = Arc::clone(&asked.app);
    let head = Head { id: app.answer_id("msg_"), app, model: asked.model.name.clone(), stops };
    if stream {
        let reader = calls.then(CallReader::default);
        let ending = Ending::default();
        return Ok(event_stream::respond(choices, Blocks { head, reader, index: 0, open: None, ending }));
    }
    let (answers, usage) = choices.collect().await?;
    Ok(json_response(&head.whole(answers.into_iter().next().unwrap_or_default(), usage, calls)))
}

/// How many tokens the model would read.
pub(crate) async fn count_tokens(mut asked: Asked) -> Result<Response, ApiError> {
    let (conversation, _) = read(&mut asked.fields, &mut GenerateRequest::new("", 1))?;
    let count = move |model: &Model| model.conversation_ids(&conversation, "messages").map(|ids| ids.len());
    let count = asked.model.compute(count).await?;
    Ok(json_response(&json!({ "input_tokens": count })))
}

/// Errors of these routes have Anthropic's shape, wherever they come from.
pub(crate) async fn spell_errors(request: Request, next: Next) -> Response {
    let here = request.uri().path().starts_with("/v1/messages");
    let response = next.run(request).await;
    match response.extensions().get::<ApiError>() {
        Some(error) if here => error.with_body(&error.anthropic()),
        _ => response,
    }
}

/// The conversation, and whether the answer may call functions.
fn read(fields: &mut Fields, request: &mut GenerateRequest) -> Result<(Conversation, bool), ApiError> {
    let mut turns = Vec::new();
    if let Some(system) = fields.take("system") {
        turns.push(Turn::System(text(system, "system")?));
    }
    let messages = fields.list("messages")?;
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "messages must have at least one entry"));
    }
    for (path, message) in messages {
        read_message(Fields::at(&path, message)?, &mut turns)?;
    }
    if matches!(turns.last(), Some(Turn::Assistant { .. })) {
        let message = "messages: the last one must be the user's; beginnings of answers are not supported";
        return Err(ApiError::unsupported("messages", message));
    }
    fields.refuse("thinking", |thinking| thinking["type"] == "disabled")?;
    for list in ["mcp_servers", "context_management", "container"] {
        fields.refuse(list, |value| value.as_array().is_some_and(Vec::is_empty))?;
    }
    request.grammar = match fields.object("output_config")? {
        Some(mut config) => form(&mut config, "format")?,
        None => None,
    };
    let calling = Calling::take(fields, Spelling::Messages)?;
    let tools = calling.apply(request, "output_config.format")?;
    let calls = !tools.is_empty();
    Ok((Conversation { turns, tools }, calls))
}

fn read_message(mut message: Fields, turns: &mut Vec<Turn>) -> Result<(), ApiError> {
    let role = message.text("role")?;
    let blocks = match message.peek("content") {
        Value::Null => return Err(message.missing("content")),
        Value::String(text) => vec![(message.path("content"), json!({ "type": "text", "text": text }))],
        _ => message.list("content")?,
    };
    let (mut said, mut calls) = (String::new(), Vec::new());
    for (path, block) in blocks {
        let mut block = Fields::at(&path, block)?;
        match (role.as_str(), block.text("type")?.as_str()) {
            (_, "text") => said += &block.text("text")?,
            ("assistant", "tool_use") => calls.push(tool_use(&mut block)?),
            ("user", "tool_result") => turns.push(tool_result(&mut block)?),
            (_, kind) => {
                let path = block.path("type");
                let message = format!("{path}: {kind:?} is not supported in messages of {role}");
                return Err(ApiError::unsupported(path, message));
            }
        }
    }
    match role.as_str() {
        "user" if said.is_empty() && matches!(turns.last(), Some(Turn::Tool { .. })) => {}
        "user" => turns.push(Turn::User(said)),
        "assistant" => turns.push(Turn::Assistant { text: said, calls }),
        other => {
            let path = message.path("role");
            return Err(ApiError::invalid(path.clone(), format!("{path} must be user or assistant, not {other:?}")));
        }
    }
    Ok(())
}

fn tool_use(block: &mut Fields) -> Result<ToolCall, ApiError> {
    let id = block.text("id")?;
    let name = function_name(block)?;
    match block.required("input")? {
        Value::Object(arguments) => Ok(ToolCall { id, name, arguments }),
        other => Err(wrong(&block.path("input"), "an object", &other)),
    }
}

fn tool_result(block: &mut Fields) -> Result<Turn, ApiError> {
    let id = block.text("tool_use_id")?;
    let failed = block.boolean("is_error")?.unwrap_or(false);
    let result = match block.take("content") {
        Some(content) => text(content, &block.path("content"))?,
        None => String::new(),
    };
    Ok(Turn::Tool { id, text: if failed { format!("Error: {result}") } else { result } })
}

/// What all forms of an answer repeat.
struct Head {
    app: Arc<App>,
    model: String,
    id: String,
    /// Texts that end the answer.
    stops: Vec<String>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Default)]
struct Ending {
    reason: Option<FinishReason>,
    /// The place of the stop text.
    stop: Option<usize>,
    /// A call is complete.
    called: bool,
}

impl Head {
    fn message(&self, content: Value, ending: Ending, usage: Value) -> Value {
        let mut message = json!({ "id": self.id, "type": "message", "role": "assistant", "content": content,
            "model": self.model });
        for (name, value) in [("stop_reason", self.reason(ending)), ("stop_sequence", self.stop(ending))] {
            message[name] = value;
        }
        message["usage"] = usage;
        message
    }

    fn reason(&self, ending: Ending) -> Value {
        let Some(reason) = ending.reason else { return Value::Null };
        json!(match (reason, finish_name(reason)) {
            (FinishReason::StopText, _) => "stop_sequence",
            (_, "stop") if ending.called => "tool_use",
            (_, "stop") => "end_turn",
            _ => "max_tokens",
        })
    }

    fn stop(&self, ending: Ending) -> Value {
        json!(ending.stop.and_then(|place| self.stops.get(place)))
    }

    /// A call that the limit cut is left out: nobody could make it.
    fn whole(&self, answer: Answer, total: Usage, calls: bool) -> Value {
        let (text, calls) = match calls {
            true => CallReader::read(&answer.text),
            false => (answer.text, Vec::new()),
        };
        let mut content = Vec::new();
        if !text.is_empty() {
            content.push(json!({ "type": "text", "text": text }));
        }
        for (name, arguments) in &calls {
            let input: Value = serde_json::from_str(arguments).unwrap_or_default(); // the grammar saw to it
            content
                .push(json!({ "type": "tool_use", "id": self.app.answer_id("toolu_"), "name": name, "input": input }));
        }
        let ending = Ending { reason: answer.reason, stop: answer.stop, called: !calls.is_empty() };
        self.message(Value::Array(content), ending, usage(total))
    }
}

/// What was found in the cache is counted apart.
fn usage(total: Usage) -> Value {
    json!({
        "input_tokens": total.prompt - total.cached,
        "cache_read_input_tokens": total.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": total.new,
    })
}

/// The events of an answer: blocks of text and calls, one after the other.
struct Blocks {
    head: Head,
    /// There if the answer may call functions.
    reader: Option<CallReader>,
    /// Of the open block, or of the next one.
    index: usize,
    open: Option<Block>,
    ending: Ending,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Text,
    Call,
}

impl Blocks {
    fn piece(&mut self, piece: Piece, out: &mut String) {
        match piece {
            Piece::Text(text) => {
                self.begin(Block::Text, || json!({ "type": "text", "text": "" }), out);
                self.delta(json!({ "type": "text_delta", "text": text }), out);
            }
            Piece::Call(name) => {
                let id = self.head.app.answer_id("toolu_");
                self.close(out);
                self.begin(Block::Call, || json!({ "type": "tool_use", "id": id, "name": name, "input": {} }), out);
            }
            Piece::Arguments(part) => self.delta(json!({ "type": "input_json_delta", "partial_json": part }), out),
            Piece::End => {
                self.ending.called = true;
                self.close(out);
            }
        }
    }

    /// Opens a block of this kind unless one is open.
    fn begin(&mut self, kind: Block, block: impl FnOnce() -> Value, out: &mut String) {
        if self.open != Some(kind) {
            self.close(out);
            self.open = Some(kind);
            event(out, &json!({ "type": "content_block_start", "index": self.index, "content_block": block() }));
        }
    }

    fn delta(&self, delta: Value, out: &mut String) {
        event(out, &json!({ "type": "content_block_delta", "index": self.index, "delta": delta }));
    }

    fn close(&mut self, out: &mut String) {
        if self.open.take().is_some() {
            event(out, &json!({ "type": "content_block_stop", "index": self.index }));
            self.index += 1;
        }
    }
}

impl Events for Blocks {
    fn begin(&mut self, total: Usage, out: &mut String) {
        let message = self.head.message(json!([]), Ending::default(), usage(total));
        event(out, &json!({ "type": "message_start", "message": message }));
    }

    fn token(&mut self, _: usize, token: &TokenEvent, out: &mut String) {
        self.ending.stop = token.stop;
        match self.reader.take() {
            Some(mut reader) => {
                reader.push(&token.text, &mut |piece| self.piece(piece, out));
                self.reader = Some(reader);
            }
            None if token.text.is_empty() => {}
            None => self.piece(Piece::Text(token.text.clone()), out),
        }
    }

    fn finish(&mut self, _: usize, reason: FinishReason, out: &mut String) {
        if let Some(mut reader) = self.reader.take() {
            reader.finish(&mut |piece| self.piece(piece, out));
        }
        self.close(out);
        self.ending.reason = Some(reason);
    }

    fn end(&mut self, total: Usage, out: &mut String) {
        let delta =
            json!({ "stop_reason": self.head.reason(self.ending), "stop_sequence": self.head.stop(self.ending) });
        event(out, &json!({ "type": "message_delta", "delta": delta, "usage": usage(total) }));
        event(out, &json!({ "type": "message_stop" }));
    }

    fn error(&mut self, error: &ApiError, out: &mut String) {
        event(out, &error.anthropic());
    }
}
