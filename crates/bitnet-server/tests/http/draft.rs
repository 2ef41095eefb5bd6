//! A draft model behind the server: the same answers, and its guesses in the metrics.

use crate::client::{MODEL, Running, engine, metric, options, post, shared};
use bitnet::{Engine, EngineOptions, default_model};
use serde_json::{Value, json};

fn answer(address: std::net::SocketAddr, body: &Value) -> Value {
    let mut answer = post(address, "/v1/completions", body).good();
    for changing in ["id", "created", "system_fingerprint"] {
        answer.as_object_mut().expect("an object").remove(changing);
    }
    answer["usage"]["prompt_tokens_details"] = Value::Null; // what is cached depends on who came before
    answer
}

#[test]
fn answers_are_those_without_a_draft() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("stories.gguf");
    std::fs::write(&path, default_model()).expect("written");
    let options_of_engine = EngineOptions {
        sequences: Some(4),
        kv_pages: Some(100),
        threads: Some(1),
        draft: Some(path.clone()),
        draft_tokens: Some(4),
        ..EngineOptions::default()
    };
    let drafting = Engine::open(&path, options_of_engine).expect("a model with itself as draft");
    let drafting = Running::start(drafting.into(), options());
    let plain = engine(4, 100);
    let plain = Running::start(plain, options());
    for body in [
        json!({ "prompt": "Once upon a time", "max_tokens": 60, "temperature": 0, "ignore_eos": true }),
        json!({ "prompt": "Once upon a time", "max_tokens": 60, "seed": 5, "n": 3 }),
        json!({ "prompt": "The cat", "max_tokens": 40, "seed": 6, "repetition_penalty": 1.3, "logprobs": 3 }),
        json!({ "prompt": "The dog", "max_tokens": 60, "seed": 7, "response_format": { "type": "json_object" } }),
    ] {
        assert_eq!(answer(drafting.address, &body), answer(plain.address, &body), "{body}");
    }
    let [guessed, right] =
        ["bitnet_drafted_tokens_total", "bitnet_drafted_right_tokens_total"].map(|name| metric(drafting.address, name));
    assert!(right > 40.0 && right < guessed, "{right} of {guessed}");
    assert_eq!(metric(shared(), "bitnet_drafted_tokens_total"), 0.0, "{MODEL} has no draft model");
}
