//! From a record to a request of the server's routes, and from its reply to a line of results.

use super::input::{Content, Record};
use bitnet_server::Reply;
use serde_json::{Map, Value, json};

/// What holds for every record.
#[derive(Debug, Default)]
pub(super) struct Defaults {
    /// Fields of requests that do not have them.
    pub(super) fields: Map<String, Value>,
    /// Prompts become messages of a conversation.
    pub(super) chat: bool,
    /// What the model is told before.
    pub(super) system: Option<String>,
}

/// How a record asks, which is how it is answered.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// A prompt or messages.
    Plain,
    /// A request of a batch, as OpenAI's service takes it.
    Batch,
}

/// A request.
#[derive(Debug, PartialEq)]
pub(super) struct Question {
    pub(super) id: Value,
    form: Form,
    pub(super) path: String,
    pub(super) body: Value,
}

/// Reads a record. What is wrong with it comes back as its line of results.
pub(super) fn read(record: Record, defaults: &Defaults) -> Result<Question, Value> {
    let (number, content) = record;
    let refuse = |id: Value, message: String| json!({ "id": id, "error": error(message) });
    match content.map_err(|message| refuse(number.into(), message))? {
        Content::Prompt { prompt, id } => {
            let id = id.map_or(Value::from(number), Value::String);
            plain(id, Map::from_iter([("prompt".to_owned(), prompt.into())]), defaults)
        }
        Content::Json(line) => {
            let fields: Map<String, Value> = serde_json::from_str(&line)
                .map_err(|error| refuse(number.into(), format!("the line is no JSON object: {error}")))?;
            json_line(fields, number, defaults)
        }
    }
}

fn json_line(mut fields: Map<String, Value>, number: u64, defaults: &Defaults) -> Result<Question, Value> {
    let batch = fields.get("custom_id").cloned();
    let id = batch.clone().or_else(|| fields.remove("id")).unwrap_or_else(|| number.into());
    let refuse = |message: &str| match &batch {
        None => json!({ "id": id, "error": error(message) }),
        Some(id) => {
            json!({ "id": format!("batch_req_{number}"), "custom_id": id, "response": null, "error": error(message) })
        }
    };
    if !(id.is_string() || id.is_number()) {
        return Err(json!({ "id": number, "error": error("the id must be text or a number") }));
    }
    let Some(custom_id) = &batch else {
        return match (fields.contains_key("prompt"), fields.contains_key("messages")) {
            (true, true) => Err(refuse("either prompt or messages, not both")),
            (false, false) => Err(refuse("there is no prompt, no messages and no custom_id with a body")),
            _ if fields.get("n").is_some_and(|n| *n != 1) => {
                Err(refuse("n needs the form {\"custom_id\": …, \"url\": …, \"body\": …}"))
            }
            _ if fields.get("stream").is_some_and(|stream| *stream != false) => Err(refuse(STREAM)),
            _ => plain(id, fields, defaults),
        };
    };
    if fields.get("method").is_some_and(|method| method != "POST") {
        return Err(refuse("method must be POST"));
    }
    let Some(path) = fields.get("url").and_then(Value::as_str) else {
        return Err(refuse("url must be the path of a route, for example /v1/chat/completions"));
    };
    let path = path.to_owned();
    let Some(Value::Object(mut body)) = fields.remove("body") else { return Err(refuse("body must be an object")) };
    if body.get("stream").is_some_and(|stream| *stream != false) {
        return Err(refuse(STREAM));
    }
    // other routes have other fields
    if path == CHAT || path == COMPLETIONS {
        fill(&mut body, &defaults.fields);
    }
    Ok(Question { id: custom_id.clone(), form: Form::Batch, path, body: body.into() })
}

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const STREAM: &str = "a batch has no streams: leave stream out";

fn plain(id: Value, mut body: Map<String, Value>, defaults: &Defaults) -> Result<Question, Value> {
    if defaults.chat
        && let Some(prompt) = body.remove("prompt")
    {
        body.insert("messages".into(), json!([{ "role": "user", "content": prompt }]));
    }
    match (&defaults.system, body.get_mut("messages")) {
        (Some(system), Some(Value::Array(messages))) => {
            messages.insert(0, json!({ "role": "system", "content": system }));
        }
        (Some(_), None) => return Err(json!({ "id": id, "error": error("--system needs messages: add --chat") })),
        _ => {}
    }
    fill(&mut body, &defaults.fields);
    let path = if body.contains_key("messages") { CHAT } else { COMPLETIONS };
    Ok(Question { id, form: Form::Plain, path: path.into(), body: body.into() })
}

/// Puts in the fields that are not there. Both names of the longest length count as one.
fn fill(body: &mut Map<String, Value>, fields: &Map<String, Value>) {
    for (name, value) in fields {
        let there = body.contains_key(name) || (name == "max_tokens" && body.contains_key("max_completion_tokens"));
        if !there {
            body.insert(name.clone(), value.clone());
        }
    }
}

impl Question {
    /// The line of results.
    pub(super) fn result(&self, mut reply: Reply) -> Value {
        let id = &self.id;
        if self.form == Form::Batch {
            let Reply { status, request_id, body } = reply;
            let response = json!({ "status_code": status, "request_id": request_id, "body": body });
            return json!({ "id": format!("batch_req_{request_id}"), "custom_id": id, "response": response, "error": null });
        }
        if reply.status != 200 {
            return json!({ "id": id, "error": reply.body["error"] });
        }
        let choice = &mut reply.body["choices"][0];
        let text = [&choice["text"], &choice["message"]["content"]].into_iter().find(|text| text.is_string());
        let mut result = json!({ "id": id, "text": text, "finish_reason": choice["finish_reason"] });
        for (name, value) in [("logprobs", &choice["logprobs"]), ("tool_calls", &choice["message"]["tool_calls"])] {
            if !value.is_null() {
                result[name] = value.clone();
            }
        }
        result["usage"] = reply.body["usage"].take();
        result
    }
}

/// True for a line of results that tells of an error.
pub(super) fn failed(result: &Value) -> bool {
    !result["error"].is_null() || result["response"]["status_code"].as_u64().is_some_and(|status| status != 200)
}

/// New tokens of a result.
pub(super) fn new_tokens(result: &Value) -> u64 {
    let usage = if result["usage"].is_object() { &result["usage"] } else { &result["response"]["body"]["usage"] };
    usage["completion_tokens"].as_u64().or(usage["output_tokens"].as_u64()).unwrap_or(0)
}

fn error(message: impl Into<String>) -> Value {
    json!({ "message": message.into(), "type": "invalid_request_error", "param": null, "code": "invalid_line" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json_record(line: &Value) -> Record {
        (7, Ok(Content::Json(line.to_string())))
    }

    fn defaults() -> Defaults {
        let fields = Map::from_iter([("max_tokens".to_owned(), json!(5)), ("seed".to_owned(), json!(1))]);
        Defaults { fields, ..Defaults::default() }
    }

    #[test]
    fn every_form_becomes_its_request() {
        let read = |line: Value| read(json_record(&line), &defaults()).expect("a request");
        let plain = read(json!({"prompt": "a", "seed": 2}));
        assert_eq!((plain.id, plain.path.as_str()), (json!(7), COMPLETIONS));
        assert_eq!(plain.body, json!({"prompt": "a", "seed": 2, "max_tokens": 5}));
        let chat = read(json!({"id": "x", "messages": [], "max_completion_tokens": 9}));
        assert_eq!((chat.id, chat.path.as_str()), (json!("x"), CHAT));
        assert_eq!(chat.body, json!({"messages": [], "max_completion_tokens": 9, "seed": 1}));
        let batch = read(json!({"custom_id": "c", "method": "POST", "url": "/v1/embeddings", "body": {"input": "a"}}));
        assert_eq!((batch.id, batch.path.as_str(), batch.body), (json!("c"), "/v1/embeddings", json!({"input": "a"})));
    }

    #[test]
    fn prompts_become_conversations() {
        let defaults = Defaults { chat: true, system: Some("Be kind.".into()), ..Defaults::default() };
        let record = (1, Ok(Content::Prompt { prompt: "Hi".into(), id: Some("a".into()) }));
        let question = read(record, &defaults).expect("a request");
        assert_eq!(question.id, json!("a"));
        let messages = json!([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]);
        assert_eq!(question.body, json!({ "messages": messages }));
        let record = (1, Ok(Content::Prompt { prompt: "Hi".into(), id: None }));
        let result = read(record, &Defaults { chat: false, ..defaults }).expect_err("a prompt has no system message");
        assert!(result["error"]["message"].as_str().expect("text").contains("--chat"), "{result}");
    }

    #[test]
    fn what_is_wrong_is_a_result() {
        let wrong = [
            json!([1]),
            json!({"a": 1}),
            json!({"id": null, "prompt": "a"}),
            json!({"id": "a", "prompt": "a", "messages": []}),
            json!({"prompt": "a", "n": 2}),
            json!({"prompt": "a", "stream": true}),
            json!({"custom_id": {}, "url": "/v1/completions", "body": {}}),
            json!({"custom_id": "a", "body": {}}),
            json!({"custom_id": "a", "url": "/v1/completions"}),
            json!({"custom_id": "a", "url": "/v1/completions", "method": "GET", "body": {}}),
            json!({"custom_id": "a", "url": "/v1/completions", "body": {"stream": true}}),
        ];
        for line in wrong {
            let result = read(json_record(&line), &defaults()).expect_err("refused");
            assert!(failed(&result) && result["error"]["message"].is_string(), "{result}");
        }
        let result = read((3, Err("torn".into())), &defaults()).expect_err("refused");
        assert_eq!((&result["id"], &result["error"]["message"]), (&json!(3), &json!("torn")));
    }
}
