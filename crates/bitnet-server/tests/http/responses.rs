//! OpenAI's newer spelling.

use crate::client::{MODEL, post, shared};
use crate::tools::{check_arguments, schema};
use serde_json::{Value, json};

fn ask(more: Value) -> Value {
    let mut body = json!({ "model": MODEL, "input": "Once upon a time", "max_output_tokens": 30, "seed": 3 });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

fn whole(more: Value) -> Value {
    post(shared(), "/v1/responses", &ask(more)).good()
}

#[test]
fn an_answer_is_that_of_a_chat() {
    let messages = json!([{ "role": "system", "content": "A dragon." }, { "role": "user", "content": "Once" },
        { "role": "assistant", "content": "upon" }, { "role": "user", "content": "a time" }]);
    let chat =
        post(shared(), "/v1/chat/completions", &json!({ "messages": messages, "max_tokens": 30, "seed": 3 })).good();
    let input = json!([{ "role": "user", "content": "Once" },
        { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "upon" }] },
        { "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "a time" }] }]);
    let reply = whole(json!({ "input": input, "instructions": "A dragon.", "metadata": { "a": "b" } }));
    let item = &reply["output"][0];
    assert_eq!(
        (&item["type"], &item["role"], &item["status"]),
        (&json!("message"), &json!("assistant"), &json!("incomplete"))
    );
    assert_eq!(item["content"][0]["text"], chat["choices"][0]["message"]["content"]);
    assert_eq!(
        (&reply["object"], &reply["status"], &reply["model"]),
        (&json!("response"), &json!("incomplete"), &json!(MODEL))
    );
    assert_eq!(reply["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!((&reply["instructions"], &reply["metadata"]["a"]), (&json!("A dragon."), &json!("b")));
    let usage = &reply["usage"];
    assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&chat["usage"]["prompt_tokens"], &json!(30)));
    assert_eq!(usage["total_tokens"], chat["usage"]["total_tokens"]);
}

#[test]
fn answers_have_the_wanted_form() {
    let format = json!({ "type": "json_schema", "name": "where", "strict": true, "schema": schema() });
    let reply = whole(json!({ "text": { "format": format }, "max_output_tokens": null }));
    assert_eq!(reply["status"], "completed", "{reply}");
    let text = reply["output"][0]["content"][0]["text"].as_str().expect("text");
    check_arguments(&serde_json::from_str(text).expect("JSON"));
    assert_eq!(reply["text"]["format"]["name"], "where");
}

#[test]
fn a_stream_is_the_whole_answer_in_pieces() {
    let tools = json!([{ "type": "function", "name": "weather", "description": "Rain.", "parameters": schema() },
        { "type": "function", "name": "stop", "parameters": null }]);
    let calling =
        json!({ "tools": tools, "tool_choice": { "type": "function", "name": "weather" }, "max_output_tokens": 150 });
    for (more, kind) in [(json!({}), "message"), (calling, "function_call")] {
        let expected = whole(more.clone());
        let mut body = ask(more);
        body["stream"] = json!(true);
        let events = post(shared(), "/v1/responses", &body).named();
        let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().expect("a type")).collect();
        assert!(events.iter().enumerate().all(|(nth, event)| event["sequence_number"] == nth), "{kinds:?}");
        assert_eq!(kinds[..3], ["response.created", "response.in_progress", "response.output_item.added"]);
        let last = &events[events.len() - 1];
        assert_eq!(last["type"], format!("response.{}", expected["status"].as_str().expect("a status")));
        let deltas: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
        let item = &last["response"]["output"][0];
        assert_eq!((&item["type"], item), (&json!(kind), &events[events.len() - 2]["item"]));
        if kind == "message" {
            assert_eq!(deltas, item["content"][0]["text"].as_str().expect("text"));
            assert_eq!(item["content"], expected["output"][0]["content"]);
            assert_eq!(
                kinds[kinds.len() - 4..kinds.len() - 1],
                ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
            );
        } else {
            assert_eq!((&last["response"]["status"], &item["status"]), (&json!("completed"), &json!("completed")));
            assert_eq!(deltas, item["arguments"].as_str().expect("text"));
            assert_eq!(item["arguments"], expected["output"][0]["arguments"]);
            check_arguments(&serde_json::from_str(&deltas).expect("JSON"));
            assert_eq!(kinds[kinds.len() - 3], "response.function_call_arguments.done");
            assert!(item["call_id"].as_str().is_some_and(|id| id.starts_with("call_")));
        }
        for event in &events {
            if event["item_id"].is_string() {
                assert_eq!(event["item_id"], item["id"]);
            }
        }
        assert_eq!(last["response"]["usage"]["output_tokens"], expected["usage"]["output_tokens"]);
    }
}

#[test]
fn calls_and_results_come_back() {
    let called = json!({ "type": "function_call", "call_id": "call_1", "name": "weather",
        "arguments": "{\"city\": \"Rome\", \"days\": 1}", "id": "fc_1", "status": "completed" });
    let result = json!({ "type": "function_call_output", "call_id": "call_1", "output": "dry" });
    let reply =
        whole(json!({ "input": [{ "role": "user", "content": "Rain?" }, called, result], "max_output_tokens": 3 }));
    let messages = json!([{ "role": "user", "content": "Rain?" },
        { "role": "assistant", "tool_calls": [{ "id": "call_1", "type": "function",
            "function": { "name": "weather", "arguments": "{\"city\": \"Rome\", \"days\": 1}" } }] },
        { "role": "tool", "tool_call_id": "call_1", "content": "dry" }]);
    let tokens = post(shared(), "/apply-template", &json!({ "messages": messages })).good()["tokens"].clone();
    assert_eq!(reply["usage"]["input_tokens"], tokens.as_array().expect("a list").len());
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    for (more, param) in [
        (json!({ "store": true }), "store"),
        (json!({ "background": true }), "background"),
        (json!({ "previous_response_id": "resp_1" }), "previous_response_id"),
        (json!({ "conversation": "conv_1" }), "conversation"),
        (json!({ "truncation": "auto" }), "truncation"),
        (json!({ "include": ["message.output_text.logprobs"] }), "include"),
        (json!({ "tools": [{ "type": "web_search" }] }), "tools[0].type"),
        (json!({ "input": [] }), "input"),
        (json!({ "input": null }), "input"),
        (json!({ "input": [{ "type": "item_reference", "id": "x" }] }), "input[0].type"),
        (json!({ "input": [{ "role": "user", "content": [{ "type": "input_image" }] }] }), "input[0].content[0].type"),
        (json!({ "input": [{ "type": "function_call_output", "call_id": "x" }] }), "input[0].output"),
        (json!({ "text": { "format": { "type": "regex", "pattern": "(" } } }), "text.format"),
        (json!({ "max_output_tokens": 0 }), "max_output_tokens"),
        (json!({ "input": "word ".repeat(2000) }), "input"),
    ] {
        let what = more.to_string();
        let reply = post(shared(), "/v1/responses", &ask(more));
        assert_eq!(
            (reply.status, &reply.json()["error"]["param"]),
            (400, &json!(param)),
            "{what:.80}: {}",
            reply.text()
        );
    }
    for harmless in
        [json!({ "store": false }), json!({ "include": [] }), json!({ "unknown": 1 }), json!({ "tools": [] })]
    {
        whole(harmless);
    }
}
