//! Answers are what the engine says: the same text as from the library, whole or streamed.

use crate::client::{MODEL, engine, get, metric, post, shared};
use base64::Engine as _;
use bitnet::{GenerateRequest, Sampling};
use serde_json::{Value, json};

/// The ids that transformers gives in float32 for "Once upon a time", greedily.
const GREEDY: [u32; 20] =
    [12, 407, 285, 259, 399, 491, 472, 437, 14, 347, 565, 268, 359, 333, 323, 718, 14, 604, 353, 12];

#[test]
fn a_completion_is_that_of_transformers() {
    let body = json!({ "model": MODEL, "prompt": "Once upon a time", "max_tokens": 20, "temperature": 0 });
    let reply = post(shared(), "/v1/completions", &body).good();
    let expected = post(shared(), "/detokenize", &json!({ "tokens": GREEDY })).good()["content"].clone();
    let choice = &reply["choices"][0];
    assert_eq!(choice["text"], expected);
    assert_eq!((&choice["finish_reason"], &choice["index"]), (&json!("length"), &json!(0)));
    assert_eq!((&reply["object"], &reply["model"]), (&json!("text_completion"), &json!(MODEL)));
    // begin of sequence and four words
    let usage = &reply["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(5), &json!(20)));
    assert_eq!(usage["total_tokens"], 25);
    assert!(reply["id"].as_str().is_some_and(|id| id.starts_with("cmpl-")));
}

#[test]
fn a_chat_answer_is_that_of_the_library() {
    let messages = json!([{ "role": "system", "content": "Once upon a time" }, { "role": "user", "content": [
        { "type": "text", "text": "there was " }, { "type": "text", "text": "a dragon" }] }]);
    let body = json!({ "model": MODEL, "messages": messages, "max_completion_tokens": 40, "seed": 5, "top_p": 0.9,
        "temperature": 0.7, "top_k": 30, "min_p": 0.01, "frequency_penalty": 0.2, "presence_penalty": 0.1 });
    let reply = post(shared(), "/v1/chat/completions", &body).good();
    let sampling = Sampling {
        seed: 5,
        top_p: 0.9,
        temperature: 0.7,
        top_k: 30,
        min_p: 0.01,
        frequency_penalty: 0.2,
        presence_penalty: 0.1,
        ..Sampling::default()
    };
    let request = GenerateRequest { sampling, ..GenerateRequest::new("Once upon a time\n\nthere was a dragon", 40) };
    let mut expected = String::new();
    let add = &mut |event: &bitnet::TokenEvent| {
        expected.push_str(&event.text);
        true
    };
    engine(1, 30).stream(&request, add).expect("an answer");
    let message = &reply["choices"][0]["message"];
    assert_eq!((&message["role"], &message["content"]), (&json!("assistant"), &json!(expected)));
    assert_eq!(reply["object"], "chat.completion");
}

#[test]
fn a_stream_is_the_whole_answer_in_pieces() {
    let mut body =
        json!({ "messages": [{ "role": "user", "content": "The dog" }], "max_tokens": 50, "seed": 3, "n": 2 });
    let whole = post(shared(), "/v1/chat/completions", &body).good();
    body["stream"] = json!(true);
    body["stream_options"] = json!({ "include_usage": true });
    let mut chunks = post(shared(), "/v1/chat/completions", &body).chunks();

    let last = chunks.pop().expect("a chunk with the usage");
    assert_eq!(last["choices"], json!([]));
    for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(last["usage"][count], whole["usage"][count], "{count}");
    }
    let (mut texts, mut reasons, mut roles) = ([String::new(), String::new()], [Value::Null, Value::Null], [0, 0]);
    for chunk in &chunks {
        assert_eq!((&chunk["object"], &chunk["usage"]), (&json!("chat.completion.chunk"), &Value::Null));
        assert_eq!(chunk["id"], last["id"]);
        let choice = &chunk["choices"][0];
        let index = choice["index"].as_u64().expect("an index") as usize;
        assert_eq!(reasons[index], Value::Null, "nothing follows the reason");
        texts[index] += choice["delta"]["content"].as_str().unwrap_or_default();
        roles[index] += i32::from(choice["delta"]["role"] == "assistant");
        reasons[index] = choice["finish_reason"].clone();
    }
    for index in 0..2 {
        let expected = &whole["choices"][index];
        assert_eq!(
            (&json!(texts[index]), &reasons[index]),
            (&expected["message"]["content"], &expected["finish_reason"])
        );
        assert_eq!(roles[index], 1);
    }
    assert_ne!(texts[0], texts[1], "every choice has a seed of its own");
}

#[test]
fn a_completion_streams_with_echo_and_several_prompts() {
    let mut body = json!({ "prompt": ["The cat", [0, 463, 460]], "max_tokens": 12, "seed": 1, "n": 2, "echo": true });
    let whole = post(shared(), "/v1/completions", &body).good();
    let choices = whole["choices"].as_array().expect("choices");
    assert_eq!(choices.len(), 4);
    assert!(choices[1]["text"].as_str().is_some_and(|text| text.starts_with("The cat")));
    assert!(choices[2]["text"].as_str().is_some_and(|text| text.starts_with("Once")), "{}", choices[2]);
    body["stream"] = json!(true);
    let mut texts = vec![String::new(); 4];
    for chunk in post(shared(), "/v1/completions", &body).chunks() {
        assert!(chunk.get("usage").is_none(), "nobody asked for it");
        let choice = &chunk["choices"][0];
        texts[choice["index"].as_u64().expect("an index") as usize] += choice["text"].as_str().expect("text");
    }
    for (text, choice) in texts.iter().zip(choices) {
        assert_eq!(choice["text"], *text);
    }
}

#[test]
fn stop_bias_and_default_length() {
    let base = json!({ "prompt": "Once upon a time", "temperature": 0 });
    let with = |extra: Value| {
        let mut body = base.clone();
        body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        post(shared(), "/v1/completions", &body).good()
    };
    assert_eq!(with(json!({}))["usage"]["completion_tokens"], 16);
    let text = with(json!({ "max_tokens": 20 }))["choices"][0]["text"].as_str().expect("text").to_owned();
    let stop: String = text.chars().skip(10).take(5).collect();
    let stopped = with(json!({ "max_tokens": 20, "stop": [stop, "never said"] }));
    let before = text.split(&stop).next().expect("a beginning");
    assert_eq!(
        (&stopped["choices"][0]["text"], &stopped["choices"][0]["finish_reason"]),
        (&json!(before), &json!("stop"))
    );
    let forced = with(json!({ "max_tokens": 3, "logit_bias": { "746": 100 }, "logprobs": 0 }));
    let word = post(shared(), "/detokenize", &json!({ "tokens": [746] })).good()["content"].clone();
    assert_eq!(forced["choices"][0]["logprobs"]["tokens"], json!([word, word, word]));
}

#[test]
fn log_probabilities_of_both_kinds() {
    let chat = json!({ "messages": [{ "role": "user", "content": "Once upon a time" }], "max_tokens": 4,
        "temperature": 0, "logprobs": true, "top_logprobs": 3 });
    let reply = post(shared(), "/v1/chat/completions", &chat).good();
    let content = reply["choices"][0]["logprobs"]["content"].as_array().expect("a list").clone();
    assert_eq!(content.len(), 4);
    let mut text = String::new();
    for entry in &content {
        let top = entry["top_logprobs"].as_array().expect("a list");
        assert_eq!(top.len(), 3);
        // greedy: the chosen one is the most probable one
        assert_eq!((&entry["token"], &entry["logprob"]), (&top[0]["token"], &top[0]["logprob"]));
        let numbers: Vec<f64> = top.iter().map(|t| t["logprob"].as_f64().expect("a number")).collect();
        assert!(numbers.is_sorted_by(|a, b| a >= b) && numbers.iter().map(|x| x.exp()).sum::<f64>() <= 1.0 + 1e-6);
        text += entry["token"].as_str().expect("text");
        let bytes: Vec<u8> = serde_json::from_value(entry["bytes"].clone()).expect("bytes");
        assert_eq!(entry["token"], String::from_utf8_lossy(&bytes).into_owned());
    }
    assert_eq!(reply["choices"][0]["message"]["content"], text);

    let completion = json!({ "prompt": "Once upon a time", "max_tokens": 4, "temperature": 0, "logprobs": 3 });
    let reply = post(shared(), "/v1/completions", &completion).good();
    let lists = &reply["choices"][0]["logprobs"];
    for (i, entry) in content.iter().enumerate() {
        assert_eq!((&lists["tokens"][i], &lists["token_logprobs"][i]), (&entry["token"], &entry["logprob"]));
        let token = entry["token"].as_str().expect("text");
        assert_eq!(lists["top_logprobs"][i][token], entry["logprob"]);
    }
    assert_eq!(lists["text_offset"][0], 0);

    let mut streamed = chat.clone();
    streamed["stream"] = json!(true);
    let entries: Vec<Value> = post(shared(), "/v1/chat/completions", &streamed)
        .chunks()
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(entries, content);
}

#[test]
fn answers_have_the_wanted_form() {
    let schema = json!({ "type": "object", "additionalProperties": false, "required": ["name", "size", "tame"],
        "properties": { "name": { "type": "string", "maxLength": 12 }, "size": { "enum": ["small", "big"] },
        "tame": { "type": "boolean" } } });
    let format =
        json!({ "type": "json_schema", "json_schema": { "name": "animal", "strict": true, "schema": schema } });
    for seed in 0..4 {
        let mut body = json!({ "messages": [{ "role": "user", "content": "The dragon was" }], "seed": seed,
            "response_format": format });
        let whole = post(shared(), "/v1/chat/completions", &body).good();
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
        let text = whole["choices"][0]["message"]["content"].as_str().expect("text");
        let animal: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"));
        assert!(animal["name"].is_string() && animal["tame"].is_boolean(), "{text}");
        assert!(animal["size"] == "small" || animal["size"] == "big", "{text}");
        assert_eq!(animal.as_object().map(|fields| fields.len()), Some(3));
        body["stream"] = json!(true);
        let streamed: String = post(shared(), "/v1/chat/completions", &body)
            .chunks()
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(String::from))
            .collect();
        assert_eq!(streamed, text);
    }
    for (format, allowed) in [
        (json!({ "type": "regex", "pattern": "(red|green)( sky)?" }), ["red", "green", "red sky", "green sky"]),
        (json!({ "type": "lark", "grammar": "start: COLOUR\nCOLOUR: \"red\" | \"green\"" }), ["red", "green", "", ""]),
    ] {
        let body = json!({ "prompt": "It was", "response_format": format, "seed": 1 });
        let text = post(shared(), "/v1/completions", &body).good()["choices"][0]["text"].clone();
        assert!(allowed.contains(&text.as_str().expect("text")), "{text}");
    }
}

#[test]
fn embeddings_are_those_of_the_engine() {
    let input = json!({ "model": MODEL, "input": ["a small dog", "the moon"] });
    let reply = post(shared(), "/v1/embeddings", &input).good();
    let engine = engine(1, 30);
    for (index, text) in ["a small dog", "the moon"].into_iter().enumerate() {
        let vector: Vec<f32> = serde_json::from_value(reply["data"][index]["embedding"].clone()).expect("numbers");
        assert_eq!(vector, engine.embed(text).expect("a vector"));
    }
    assert_eq!(reply["usage"]["prompt_tokens"], reply["usage"]["total_tokens"]);
    let coded = json!({ "input": "the moon", "encoding_format": "base64" });
    let coded = post(shared(), "/v1/embeddings", &coded).good();
    let bytes = coded["data"][0]["embedding"].as_str().expect("text");
    let bytes = base64::prelude::BASE64_STANDARD.decode(bytes).expect("base64");
    let numbers: Vec<f32> = bytes.chunks(4).map(|x| f32::from_le_bytes(x.try_into().expect("four"))).collect();
    assert_eq!(numbers, engine.embed("the moon").expect("a vector"));
}

#[test]
fn tokens_templates_models_and_probes() {
    let reply = post(shared(), "/tokenize", &json!({ "content": "Once upon a time", "add_special": true })).good();
    assert_eq!(reply, json!({ "tokens": [0, 463, 460, 259, 415], "count": 5 }));
    let pieces = post(shared(), "/tokenize", &json!({ "content": "Once upon", "with_pieces": true })).good();
    let texts: String =
        pieces["tokens"].as_array().expect("a list").iter().map(|p| p["piece"].as_str().expect("text")).collect();
    assert_eq!(texts, "Once upon");
    let text = post(shared(), "/detokenize", &json!({ "tokens": [463, 460, 259, 415] })).good();
    assert_eq!(text["content"], "Once upon a time");

    let messages = json!([{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "there" }]);
    let prompt = post(shared(), "/apply-template", &json!({ "messages": messages })).good();
    assert!(prompt["prompt"].as_str().is_some_and(|text| text.ends_with("Hi\n\nthere")), "{prompt}");
    let ids = post(shared(), "/tokenize", &json!({ "content": prompt["prompt"] })).good();
    assert_eq!(prompt["tokens"], ids["tokens"]);

    let list = get(shared(), "/v1/models").good();
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!(MODEL)));
    assert_eq!(get(shared(), &format!("/v1/models/{MODEL}")).good(), list["data"][0]);
    assert_eq!(list["data"][0]["context_length"], 384);
    assert_eq!(get(shared(), "/health").good()["status"], "ok");
    assert_eq!(get(shared(), "/ready").good()["status"], "ready");
}

#[test]
fn metrics_are_lines_that_prometheus_reads() {
    post(shared(), "/v1/completions", &json!({ "prompt": "The", "max_tokens": 2 })).good();
    let reply = get(shared(), "/metrics");
    assert!(reply.header("content-type").is_some_and(|kind| kind.starts_with("text/plain; version=0.0.4")));
    let mut typed = "";
    for line in reply.text().lines() {
        if let Some(head) = line.strip_prefix("# TYPE ") {
            typed = head.split(' ').next().expect("a name");
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            assert!(name.starts_with(typed), "{line}");
            assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
        }
    }
    assert!(metric(shared(), "bitnet_new_tokens_total") >= 2.0);
    assert!(metric(shared(), "bitnet_first_token_seconds_count") >= 1.0);
    assert!(reply.text().contains("bitnet_http_responses_total{route=\"/v1/completions\",status=\"200\"}"));
}
