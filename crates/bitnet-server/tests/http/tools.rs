//! Functions that the model may call: whatever it would like to say, a call parses and fits.

use crate::client::{get, post, shared};
use serde_json::{Value, json};

pub(crate) fn schema() -> Value {
    json!({ "type": "object", "additionalProperties": false, "required": ["city", "days"],
        "properties": { "city": { "enum": ["Rome", "Oslo"] }, "days": { "type": "integer", "minimum": 1, "maximum": 9 } } })
}

pub(crate) fn check_arguments(arguments: &Value) {
    assert!(arguments["city"] == "Rome" || arguments["city"] == "Oslo", "{arguments}");
    assert!(arguments["days"].as_u64().is_some_and(|days| (1..10).contains(&days)), "{arguments}");
    assert_eq!(arguments.as_object().map(|all| all.len()), Some(2));
}

fn ask(choice: Value, more: Value) -> Value {
    let mut body = json!({
        "messages": [{ "role": "user", "content": "Rain?" }],
        "tools": [
            { "type": "function", "function": { "name": "weather", "description": "Rain.", "parameters": schema() } },
            { "type": "function", "function": { "name": "stop" } },
        ],
        "tool_choice": choice,
    });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

fn check_calls(message: &Value) -> usize {
    let calls = message["tool_calls"].as_array().expect("calls");
    let mut ids = std::collections::BTreeSet::new();
    for call in calls {
        assert_eq!(call["type"], "function");
        assert!(ids.insert(call["id"].as_str().filter(|id| id.starts_with("call_")).expect("an id")));
        let function = &call["function"];
        let arguments = function["arguments"].as_str().expect("text");
        let arguments: Value = serde_json::from_str(arguments).unwrap_or_else(|error| panic!("{error} in {arguments}"));
        match function["name"].as_str() {
            Some("weather") => check_arguments(&arguments),
            Some("stop") => assert_eq!(arguments, json!({})),
            other => panic!("{other:?}"),
        }
    }
    calls.len()
}

#[test]
fn a_call_that_is_asked_for_comes() {
    for seed in 0..4 {
        let more = json!({ "seed": seed, "parallel_tool_calls": false });
        let reply = post(shared(), "/v1/chat/completions", &ask(json!("required"), more)).good();
        let choice = &reply["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{reply}");
        assert_eq!(choice["message"]["content"], Value::Null);
        assert_eq!(check_calls(&choice["message"]), 1);
        let named = json!({ "type": "function", "function": { "name": "weather" } });
        let reply = post(shared(), "/v1/chat/completions", &ask(named, json!({ "seed": seed, "n": 2 }))).good();
        for index in 0..2 {
            let choice = &reply["choices"][index];
            assert_eq!((check_calls(&choice["message"]), &choice["finish_reason"]), (1, &json!("tool_calls")));
            assert_eq!(choice["message"]["tool_calls"][0]["function"]["name"], "weather");
        }
    }
}

/// The pieces of a stream put together, as clients do it.
fn assemble(chunks: &[Value]) -> (Value, Value) {
    let (mut message, mut reason) = (json!({ "content": "", "tool_calls": [] }), Value::Null);
    for chunk in chunks {
        assert_eq!(reason, Value::Null, "nothing follows the reason");
        let choice = &chunk["choices"][0];
        let add = |to: &mut Value, part: &Value| {
            *to = json!(to.as_str().expect("text").to_owned() + part.as_str().unwrap_or_default());
        };
        add(&mut message["content"], &choice["delta"]["content"]);
        for part in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let calls = message["tool_calls"].as_array_mut().expect("a list");
            match part["index"].as_u64().expect("an index") as usize {
                next if next == calls.len() => calls.push(part.clone()),
                last => add(&mut calls[last]["function"]["arguments"], &part["function"]["arguments"]),
            }
        }
        reason = choice["finish_reason"].clone();
    }
    (message, reason)
}

#[test]
fn a_stream_of_calls_is_the_whole_answer_in_pieces() {
    for (seed, choice) in [(1, "required"), (2, "required"), (3, "auto"), (4, "none")] {
        let mut body = ask(json!(choice), json!({ "seed": seed, "max_tokens": 90 }));
        let whole = post(shared(), "/v1/chat/completions", &body).good();
        let whole = &whole["choices"][0];
        body["stream"] = json!(true);
        let (message, reason) = assemble(&post(shared(), "/v1/chat/completions", &body).chunks());
        assert_eq!(reason, whole["finish_reason"]);
        assert_eq!(message["content"], whole["message"]["content"].as_str().unwrap_or_default());
        let functions = |message: &Value| -> Vec<Value> {
            message["tool_calls"].as_array().into_iter().flatten().map(|call| call["function"].clone()).collect()
        };
        let (streamed, complete) = (functions(&message), functions(&whole["message"]));
        assert_eq!(streamed[..complete.len()], complete, "the limit may cut the last one");
        if choice == "required" {
            assert!(check_calls(&whole["message"]) >= 1);
        } else {
            // this model tells stories
            assert!(complete.is_empty() && message["content"] != "");
        }
    }
}

#[test]
fn functions_and_results_reach_the_model() {
    let template = |body: &Value| {
        let reply = post(shared(), "/apply-template", body).good();
        reply["prompt"].as_str().expect("text").to_owned()
    };
    let mut body = ask(json!("auto"), json!({}));
    let called = json!({ "role": "assistant", "content": null, "tool_calls": [{ "id": "call_1", "type": "function",
        "function": { "name": "weather", "arguments": "{\"city\": \"Rome\", \"days\": 1}" } }] });
    let messages = body["messages"].as_array_mut().expect("a list");
    messages.extend([called, json!({ "role": "tool", "tool_call_id": "call_1", "content": "dry" })]);
    let prompt = template(&body);
    for part in [
        "\"name\":\"weather\"",
        "\"Rain.\"",
        "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\":\"Rome\"",
        "<tool_response>\ndry\n</tool_response>",
    ] {
        assert!(prompt.contains(part), "{part} in {prompt}");
    }
    body["max_tokens"] = json!(4);
    post(shared(), "/v1/chat/completions", &body).good();
    // functions that must not be called are not shown
    body["tool_choice"] = json!("none");
    assert!(!template(&body).contains("You may call functions"));
}

#[test]
fn a_form_of_the_text_goes_with_functions() {
    let form = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": { "const": "no" } } });
    let body = ask(json!("auto"), json!({ "seed": 1, "response_format": form, "parallel_tool_calls": false }));
    let choice = &post(shared(), "/v1/chat/completions", &body).good()["choices"][0];
    match choice["finish_reason"].as_str() {
        Some("tool_calls") => assert_eq!(check_calls(&choice["message"]), 1),
        other => assert_eq!((other, &choice["message"]["content"]), (Some("stop"), &json!("\"no\""))),
    }
    let lark = json!({ "type": "lark", "grammar": "start: \"x\"" });
    let reply = post(shared(), "/v1/chat/completions", &ask(json!("auto"), json!({ "response_format": lark })));
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("response_format")));
    assert_eq!(get(shared(), "/health").status, 200);
}
