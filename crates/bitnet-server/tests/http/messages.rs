//! Anthropic's spelling.

use crate::client::{MODEL, Reply, Running, engine, options, post, receive, send, shared};
use crate::tools::{check_arguments, schema};
use serde_json::{Value, json};

fn ask(more: Value) -> Value {
    let mut body = json!({ "model": MODEL, "max_tokens": 30, "seed": 3,
        "messages": [{ "role": "user", "content": "Once upon a time" }] });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

fn whole(more: Value) -> Value {
    post(shared(), "/v1/messages", &ask(more)).good()
}

#[test]
fn an_answer_is_that_of_a_chat() {
    let reply = whole(json!({ "system": [{ "type": "text", "text": "A dragon." }] }));
    let messages =
        json!([{ "role": "system", "content": "A dragon." }, { "role": "user", "content": "Once upon a time" }]);
    let chat =
        post(shared(), "/v1/chat/completions", &json!({ "messages": messages, "max_tokens": 30, "seed": 3 })).good();
    assert_eq!(reply["content"], json!([{ "type": "text", "text": chat["choices"][0]["message"]["content"] }]));
    assert_eq!(
        (&reply["type"], &reply["role"], &reply["model"]),
        (&json!("message"), &json!("assistant"), &json!(MODEL))
    );
    assert!(reply["id"].as_str().is_some_and(|id| id.starts_with("msg_")));
    assert_eq!((&reply["stop_reason"], &reply["stop_sequence"]), (&json!("max_tokens"), &Value::Null));
    let usage = &reply["usage"];
    let read = usage["input_tokens"].as_u64().zip(usage["cache_read_input_tokens"].as_u64()).expect("counts");
    assert_eq!(json!(read.0 + read.1), chat["usage"]["prompt_tokens"]);
    assert_eq!(usage["output_tokens"], 30);
}

#[test]
fn stop_sequences_are_named() {
    let text = whole(json!({ "temperature": 0 }))["content"][0]["text"].as_str().expect("text").to_owned();
    let word = text.split_whitespace().nth(3).expect("words");
    let body = json!({ "temperature": 0, "stop_sequences": ["never said", word] });
    let reply = whole(body.clone());
    assert_eq!((&reply["stop_reason"], &reply["stop_sequence"]), (&json!("stop_sequence"), &json!(word)));
    assert_eq!(reply["content"][0]["text"], text[..text.find(word).expect("there")]);
    let mut body = ask(body);
    body["stream"] = json!(true);
    let events = post(shared(), "/v1/messages", &body).named();
    assert_eq!(events[events.len() - 2]["delta"], json!({ "stop_reason": "stop_sequence", "stop_sequence": word }));
}

/// The blocks that the events of a stream come to; checks their order.
fn assemble(reply: &Reply) -> (Vec<Value>, Value) {
    let mut events = reply.named().into_iter();
    let start = events.next().expect("a start");
    assert_eq!(start["type"], "message_start");
    assert_eq!((&start["message"]["content"], &start["message"]["stop_reason"]), (&json!([]), &Value::Null));
    let (mut blocks, mut open, mut json, mut end) = (Vec::<Value>::new(), false, String::new(), Value::Null);
    for event in events {
        match event["type"].as_str().expect("a type") {
            "content_block_start" => {
                assert!(!std::mem::replace(&mut open, true) && event["index"] == blocks.len());
                blocks.push(event["content_block"].clone());
                json.clear();
            }
            "content_block_delta" => {
                assert!(open && event["index"] == blocks.len() - 1);
                let block = blocks.last_mut().expect("a block");
                match event["delta"]["type"].as_str() {
                    Some("text_delta") => {
                        let text = block["text"].as_str().expect("text").to_owned();
                        block["text"] = json!(text + event["delta"]["text"].as_str().expect("text"));
                    }
                    Some("input_json_delta") => json += event["delta"]["partial_json"].as_str().expect("text"),
                    other => panic!("{other:?}"),
                }
            }
            "content_block_stop" => {
                assert!(std::mem::replace(&mut open, false));
                let block = blocks.last_mut().expect("a block");
                if block["type"] == "tool_use" {
                    block["input"] = serde_json::from_str(&json).expect("JSON");
                }
            }
            "message_delta" => end = event,
            "message_stop" => assert!(!open && end.is_object()),
            other => panic!("{other}"),
        }
    }
    (blocks, end)
}

#[test]
fn a_stream_is_the_whole_answer_in_pieces() {
    let tools = json!([{ "name": "weather", "description": "Rain.", "input_schema": schema() }]);
    let calling = json!({ "tools": tools, "tool_choice": { "type": "any", "disable_parallel_tool_use": true },
        "max_tokens": 100 });
    for (more, kind) in [(json!({}), "text"), (calling, "tool_use")] {
        let expected = whole(more.clone());
        let mut body = ask(more);
        body["stream"] = json!(true);
        let (mut blocks, end) = assemble(&post(shared(), "/v1/messages", &body));
        assert_eq!((blocks.len(), &blocks[0]["type"]), (1, &json!(kind)), "{blocks:?}");
        if kind == "tool_use" {
            assert_eq!(expected["stop_reason"], "tool_use");
            check_arguments(&blocks[0]["input"]);
            assert!(blocks[0]["id"].as_str().is_some_and(|id| id.starts_with("toolu_")));
            blocks[0]["id"] = expected["content"][0]["id"].clone(); // every answer names its calls anew
        }
        assert_eq!(json!(blocks), expected["content"]);
        assert_eq!(end["delta"]["stop_reason"], expected["stop_reason"]);
        assert_eq!(end["usage"]["output_tokens"], expected["usage"]["output_tokens"]);
    }
}

#[test]
fn results_of_tools_and_counting() {
    let mut body = ask(json!({ "tools": [{ "name": "weather", "input_schema": schema() }] }));
    let count = |body: &Value| {
        let reply = post(shared(), "/v1/messages/count_tokens", body).good();
        reply["input_tokens"].as_u64().expect("a count")
    };
    let before = count(&body);
    body["messages"].as_array_mut().expect("a list").extend([
        json!({ "role": "assistant", "content": [{ "type": "text", "text": "I look." },
            { "type": "tool_use", "id": "toolu_1", "name": "weather", "input": { "city": "Rome", "days": 1 } }] }),
        json!({ "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "toolu_1", "is_error": true,
            "content": [{ "type": "text", "text": "no" }] }, { "type": "text", "text": "So?" }] }),
    ]);
    assert!(count(&body) > before + 20);
    body["max_tokens"] = json!(3);
    let reply = post(shared(), "/v1/messages", &body).good();
    let usage = &reply["usage"];
    let read = usage["input_tokens"].as_u64().zip(usage["cache_read_input_tokens"].as_u64()).expect("counts");
    assert_eq!(read.0 + read.1, count(&body));
}

#[test]
fn errors_have_anthropics_shape() {
    let check = |reply: &Reply, status: u16, kind: &str, word: &str| {
        let body = reply.json();
        assert_eq!(
            (reply.status, &body["type"], &body["error"]["type"]),
            (status, &json!("error"), &json!(kind)),
            "{body}"
        );
        assert!(body["error"]["message"].as_str().is_some_and(|message| message.contains(word)), "{body}");
    };
    let with = |more: Value| post(shared(), "/v1/messages", &ask(more));
    for (more, word) in [
        (json!({ "max_tokens": null }), "max_tokens is missing"),
        (json!({ "max_tokens": 0 }), "max_tokens"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": [{ "role": "system", "content": "x" }] }), "messages[0].role"),
        (json!({ "messages": [{ "role": "user", "content": [{ "type": "image" }] }] }), "messages[0].content[0].type"),
        (
            json!({ "messages": [{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }] }),
            "messages",
        ),
        (json!({ "stop_sequences": [""] }), "stop_sequences"),
        (json!({ "thinking": { "type": "enabled", "budget_tokens": 1024 } }), "thinking"),
        (json!({ "tools": [{ "name": "f", "type": "bash_20250124" }] }), "tools[0].type"),
        (json!({ "tool_choice": { "type": "tool", "name": "f" } }), "tool_choice"),
    ] {
        check(&with(more), 400, "invalid_request_error", word);
    }
    check(&with(json!({ "model": "claude" })), 404, "not_found_error", "claude");
    check(&receive(send(shared(), "POST", "/v1/messages", &[], b"{")), 400, "invalid_request_error", "JSON");
    let guarded =
        Running::start(engine(1, 30), bitnet_server::ServerOptions { api_keys: vec!["k".into()], ..options() });
    check(&post(guarded.address, "/v1/messages", &ask(json!({}))), 401, "authentication_error", "key");
    let body = ask(json!({})).to_string();
    let reply = receive(send(guarded.address, "POST", "/v1/messages", &[("X-Api-Key", "k")], body.as_bytes()));
    assert_eq!(reply.status, 200);
}
