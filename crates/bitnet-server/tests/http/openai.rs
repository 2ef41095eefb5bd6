//! Errors in OpenAI's shape, for whatever is wrong with a request.

use crate::client::{MODEL, get, post, receive, send, shared};
use serde_json::{Value, json};

/// Asks for a chat answer with one field more.
fn chat_with(field: &str, value: Value) -> Value {
    let mut body = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 2 });
    body[field] = value;
    body
}

fn check(reply: &crate::client::Reply, status: u16, param: Option<&str>, what: &str) {
    assert_eq!(reply.status, status, "{what}: {}", reply.text());
    let body = reply.json();
    let error = &body["error"];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}: {body}");
    assert!(error["type"].is_string(), "{what}: {body}");
    assert_eq!(error["param"].as_str(), param, "{what}: {body}");
    assert!(reply.header("x-request-id").is_some_and(|id| !id.is_empty()));
}

#[test]
fn wrong_values_name_their_field() {
    let cases = [
        ("temperature", json!(-0.1)),
        ("temperature", json!("hot")),
        ("temperature", json!(2.5)),
        ("top_p", json!(1.5)),
        ("min_p", json!(-1)),
        ("top_k", json!(-2)),
        ("top_k", json!(1.5)),
        ("frequency_penalty", json!(3)),
        ("presence_penalty", json!([])),
        ("repetition_penalty", json!(0)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!(-1)),
        ("max_completion_tokens", json!("many")),
        ("n", json!(0)),
        ("n", json!(100_000)),
        ("seed", json!(1.5)),
        ("seed", json!("x")),
        ("stop", json!(5)),
        ("stop", json!(["a", 5])),
        ("stop", json!("")),
        ("stop", json!(vec!["a"; 17])),
        ("stream", json!("yes")),
        ("stream_options", json!({ "include_usage": true })),
        ("tools", json!("f")),
        ("tools[0].type", json!({ "tools": [{ "function": {} }] })),
        ("tools[0].function", json!({ "tools": [{ "type": "function" }] })),
        ("tools[0].function.name", json!({ "tools": [{ "type": "function", "function": {} }] })),
        ("tools[0].function.name", json!({ "tools": [{ "type": "function", "function": { "name": "a b" } }] })),
        (
            "tools[0].function.parameters",
            json!({ "tools": [{ "type": "function", "function": { "name": "f", "parameters": { "type": "string" } } }] }),
        ),
        (
            "tools",
            json!({ "tools": [{ "type": "function", "function": { "name": "f",
                "parameters": { "properties": { "a": { "type": "nonsense" } } } } }] }),
        ),
        ("tool_choice", json!("required")),
        ("tool_choice", json!("perhaps")),
        ("tool_choice", json!({ "type": "function", "function": { "name": "f" } })),
        ("parallel_tool_calls", json!(1)),
        ("logit_bias", json!({ "x": 1 })),
        ("logit_bias", json!({ "1": 101 })),
        ("logit_bias", json!({ "99999999": 1 })),
        ("logit_bias", json!([1])),
        ("logprobs", json!(3)),
        ("top_logprobs", json!(3)),
        ("top_logprobs", json!(21)),
        ("messages", json!([])),
        ("messages", json!("Hi")),
        ("messages", Value::Null),
        ("model", json!(5)),
        ("response_format", json!("json")),
        ("response_format.type", json!({ "response_format": { "type": "yaml" } })),
        ("response_format.json_schema", json!({ "response_format": { "type": "json_schema" } })),
        (
            "response_format.json_schema.schema",
            json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "x" } } }),
        ),
        ("response_format.pattern", json!({ "response_format": { "type": "regex" } })),
        ("response_format", json!({ "type": "regex", "pattern": "(" })),
        ("response_format", json!({ "type": "lark", "grammar": "start: nothing" })),
        ("response_format", json!({ "type": "json_schema", "json_schema": { "schema": { "type": "nonsense" } } })),
    ];
    for (field, value) in cases {
        let what = format!("{field}: {value}");
        // a field inside another one comes with it
        let outer = field.split(['.', '[']).next().expect("a name");
        let body = match value.get(outer) {
            Some(inner) => chat_with(outer, inner.clone()),
            None => chat_with(field, value),
        };
        check(&post(shared(), "/v1/chat/completions", &body), 400, Some(field), &what);
    }
    let message_cases = [
        (json!([5]), "messages[0]"),
        (json!([{ "content": "Hi" }]), "messages[0].role"),
        (json!([{ "role": "king", "content": "Hi" }]), "messages[0].role"),
        (json!([{ "role": "user", "content": "Hi" }, { "role": "user" }]), "messages[1].content"),
        (json!([{ "role": "user", "content": [{ "type": "image_url" }] }]), "messages[0].content[0].type"),
        (json!([{ "role": "user", "content": [{ "type": "text", "text": 1 }] }]), "messages[0].content[0].text"),
        (json!([{ "role": "tool", "content": "5" }]), "messages[0].tool_call_id"),
        (json!([{ "role": "assistant" }]), "messages[0].content"),
        (json!([{ "role": "assistant", "tool_calls": [{ "type": "function" }] }]), "messages[0].tool_calls[0].id"),
        (
            json!([{ "role": "assistant", "tool_calls": [{ "id": "a", "function": { "name": "f", "arguments": "{" } }] }]),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (json!([{ "role": "user", "content": "Hi", "tool_calls": [{}] }]), "messages[0].tool_calls"),
    ];
    for (messages, param) in message_cases {
        let what = messages.to_string();
        check(&post(shared(), "/v1/chat/completions", &chat_with("messages", messages)), 400, Some(param), &what);
    }
    let other_cases = [
        ("/v1/completions", json!({}), "prompt"),
        ("/v1/completions", json!({ "prompt": [] }), "prompt"),
        ("/v1/completions", json!({ "prompt": [1, "a"] }), "prompt"),
        ("/v1/completions", json!({ "prompt": [99_999_999] }), "prompt"),
        ("/v1/completions", json!({ "prompt": ["a", 5] }), "prompt"),
        ("/v1/completions", json!({ "prompt": vec!["a"; 200] }), "prompt"),
        ("/v1/completions", json!({ "prompt": "a", "logprobs": 21 }), "logprobs"),
        ("/v1/embeddings", json!({}), "input"),
        ("/v1/embeddings", json!({ "input": "" }), "input"),
        ("/v1/embeddings", json!({ "input": [] }), "input"),
        ("/v1/embeddings", json!({ "input": [99_999_999] }), "input"),
        ("/v1/embeddings", json!({ "input": "a", "encoding_format": "hex" }), "encoding_format"),
        ("/tokenize", json!({}), "content"),
        ("/tokenize", json!({ "content": 5 }), "content"),
        ("/detokenize", json!({ "tokens": "a" }), "tokens"),
        ("/detokenize", json!({ "tokens": [99_999_999] }), "tokens"),
        ("/detokenize", json!({ "tokens": [-1] }), "tokens"),
        ("/apply-template", json!({}), "messages"),
    ];
    for (path, body, param) in other_cases {
        check(&post(shared(), path, &body), 400, Some(param), &format!("{path} {body}"));
    }
}

#[test]
fn what_is_not_there_is_refused_by_name_and_never_ignored() {
    let tool = json!([{ "type": "function", "function": { "name": "f" } }]);
    for (field, value) in [("functions", tool), ("modalities", json!(["audio"]))] {
        let reply = post(shared(), "/v1/chat/completions", &chat_with(field, value));
        check(&reply, 400, Some(field), field);
        assert_eq!(reply.json()["error"]["code"], "unsupported");
    }
    let called = json!([{ "role": "function", "content": "5", "name": "x" }]);
    let reply = post(shared(), "/v1/chat/completions", &chat_with("messages", called));
    check(&reply, 400, Some("messages[0].role"), "function");
    for (field, value) in [("suffix", json!("end")), ("best_of", json!(3)), ("dimensions", json!(3))] {
        let path = if field == "dimensions" { "/v1/embeddings" } else { "/v1/completions" };
        let mut body = json!({ "prompt": "a", "input": "a" });
        body[field] = value;
        check(&post(shared(), path, &body), 400, Some(field), field);
    }
}

#[test]
fn unknown_fields_and_values_that_ask_for_nothing_are_tolerated() {
    for (field, value) in [
        ("user", json!("someone")),
        ("no_such_field", json!({ "a": [1] })),
        ("tools", json!([])),
        ("tool_choice", json!("auto")),
        ("response_format", json!({ "type": "text" })),
        ("temperature", Value::Null),
        ("stop", Value::Null),
        ("logit_bias", json!({})),
        ("top_k", json!(-1)),
        ("seed", json!(-5)),
        ("seed", json!(u64::MAX)),
    ] {
        let what = format!("{field}: {value}");
        let reply = post(shared(), "/v1/chat/completions", &chat_with(field, value));
        assert_eq!(reply.status, 200, "{what}: {}", reply.text());
    }
}

#[test]
fn unknown_models_and_paths() {
    let reply = post(shared(), "/v1/chat/completions", &chat_with("model", json!("gpt-9")));
    check(&reply, 404, Some("model"), "model");
    assert_eq!(reply.json()["error"]["code"], "model_not_found");
    check(&get(shared(), "/v1/models/gpt-9"), 404, Some("model"), "model");
    check(&get(shared(), "/v2/anything"), 404, None, "path");
    check(&get(shared(), "/v1/chat/completions"), 405, None, "method");
}

#[test]
fn a_prompt_that_does_not_fit_says_so() {
    let long = "Once upon a time ".repeat(200);
    let reply = post(shared(), "/v1/completions", &json!({ "prompt": long }));
    check(&reply, 400, Some("prompt"), "long");
    assert_eq!(reply.json()["error"]["code"], "context_length_exceeded");
    let messages = json!([{ "role": "user", "content": long }]);
    check(&post(shared(), "/v1/chat/completions", &chat_with("messages", messages)), 400, Some("messages"), "long");
    check(&post(shared(), "/v1/embeddings", &json!({ "input": long })), 400, Some("input"), "long");
}

#[test]
fn bodies_that_are_no_json_objects() {
    let deep = "[".repeat(100_000);
    for body in ["", "{", "nonsense", "[1]", "\"text\"", "{\"prompt\": \"\\ud800\"}", "\u{0}", &deep] {
        let reply = receive(send(shared(), "POST", "/v1/completions", &[], body.as_bytes()));
        check(&reply, 400, None, &body[..body.len().min(30)]);
        assert_eq!(reply.json()["error"]["code"], "invalid_json");
    }
    let reply = receive(send(shared(), "POST", "/v1/completions", &[], b"{\"prompt\": \"\xff\"}"));
    check(&reply, 400, None, "invalid UTF-8");
}

#[test]
fn request_ids_come_back() {
    let reply = receive(send(shared(), "GET", "/health", &[("X-Request-Id", "mine-7")], b""));
    assert_eq!(reply.header("x-request-id"), Some("mine-7"));
    let reply = receive(send(shared(), "GET", "/health", &[("X-Request-Id", &"x".repeat(65))], b""));
    assert_eq!(reply.header("x-request-id").map(str::len), Some(16), "not one of any length");
}
