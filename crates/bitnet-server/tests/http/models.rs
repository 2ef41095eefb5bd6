//! Several models by name, under a memory budget.

use crate::client::{Reply, Running, get, metric, post, receive, send, wait_for};
use bitnet::kernels::Activation;
use bitnet::{Engine, EngineOptions, GenerateRequest, LoadOptions, default_model};
use bitnet_server::{NamedModel, Opened, Server, ServerError, ServerOptions};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const NAMES: [&str; 2] = ["one", "two"];

/// The two go on differently from the first token on.
const PROMPT: &str = "In the night the";

/// Bytes that a model takes, as its maker says.
const BYTES: u64 = 100;

/// The story model in a file.
fn file() -> PathBuf {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("stories.gguf"), default_model()).expect("written");
        folder
    });
    folder.path().join("stories.gguf")
}

/// The story model as it is, and with another activation, which makes another model of it.
fn options_of(nth: usize) -> EngineOptions {
    let load = LoadOptions { activation: (nth == 1).then_some(Activation::Silu), ..LoadOptions::default() };
    EngineOptions { sequences: Some(2), kv_pages: Some(40), threads: Some(1), load, ..EngineOptions::default() }
}

fn open(nth: usize) -> Engine {
    Engine::open(file(), options_of(nth)).expect("a model")
}

fn named(nth: usize) -> NamedModel {
    let open = Box::new(move || Ok(Opened { engine: open(nth).into(), template: None }));
    let check = Box::new(|| Ok(()));
    NamedModel { name: NAMES[nth].into(), bytes: BYTES, context: 512, parallel: 2, chat: false, check, open }
}

fn bind(models: Vec<NamedModel>, budget: u64, options: ServerOptions) -> Result<Server, ServerError> {
    Server::bind_models(models, budget, "127.0.0.1:0", options)
}

fn start(budget: u64) -> Running {
    Running::of(bind(vec![named(0), named(1)], budget, ServerOptions::new("")).expect("a server"))
}

fn body(model: &str, more: usize) -> Value {
    json!({ "model": model, "prompt": PROMPT, "max_tokens": more, "temperature": 0, "ignore_eos": true })
}

fn ask(address: SocketAddr, model: &str, more: usize) -> Reply {
    post(address, "/v1/completions", &body(model, more))
}

fn text(reply: &Reply) -> String {
    reply.good()["choices"][0]["text"].as_str().expect("a text").to_owned()
}

/// What each says, from the library.
fn expected(more: usize) -> [String; 2] {
    let texts = [0, 1].map(|nth| {
        let request = GenerateRequest { stop_at_eos: false, ..GenerateRequest::new(PROMPT, more) };
        let sampling = bitnet::Sampling { temperature: 0.0, ..bitnet::Sampling::default() };
        let request = GenerateRequest { sampling, ..request };
        let mut text = String::new();
        let add = &mut |event: &bitnet::TokenEvent| {
            text.push_str(&event.text);
            true
        };
        open(nth).stream(&request, add).expect("an answer");
        text
    });
    assert_ne!(texts[0], texts[1], "the tests could not tell who answers");
    texts
}

fn loads(address: SocketAddr, name: &str) -> f64 {
    metric(address, &format!("bitnet_model_loads_total{{model=\"{name}\"}}"))
}

fn is_open(address: SocketAddr, name: &str) -> bool {
    get(address, &format!("/v1/models/{name}")).good()["open"] == true
}

#[test]
fn each_answers_with_its_own_bits_and_opens_once() {
    let server = start(2 * BYTES);
    let address = server.address;
    let list = get(address, "/v1/models").good();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(2));
    assert_eq!((&list["data"][1]["id"], &list["data"][1]["open"]), (&json!("two"), &json!(false)));
    assert_eq!((&list["data"][1]["context_length"], &list["data"][1]["parallel"]), (&json!(512), &json!(2)));
    assert_eq!(get(address, "/ready").status, 200, "what is asked for is opened");
    let expected = expected(20);
    for _ in 0..2 {
        for (name, expected) in NAMES.iter().zip(&expected) {
            let reply = ask(address, name, 20);
            assert_eq!(&text(&reply), expected);
            assert_eq!(reply.good()["model"], **name);
        }
    }
    let mut without = body("", 20);
    without.as_object_mut().expect("an object").remove("model");
    let reply = post(address, "/v1/completions", &without);
    assert_eq!((text(&reply), &reply.good()["model"]), (expected[0].clone(), &json!("one")));
    assert_eq!(NAMES.map(|name| loads(address, name)), [1.0, 1.0]);
    assert_eq!(metric(address, "bitnet_requests_finished_total{model=\"two\"}"), 2.0);
    assert!(metric(address, "bitnet_step_seconds_bucket{model=\"two\",le=\"+Inf\"}") > 0.0);
}

#[test]
fn a_name_that_nobody_has() {
    let server = start(2 * BYTES);
    for path in ["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/tokenize"] {
        let body = json!({ "model": "three", "prompt": "a", "messages": [], "input": "a", "content": "a" });
        let reply = post(server.address, path, &body);
        let error = &reply.json()["error"];
        assert_eq!(
            (reply.status, &error["code"], &error["param"]),
            (404, &json!("model_not_found"), &json!("model")),
            "{path}"
        );
        assert!(error["message"].as_str().is_some_and(|text| text.contains("\"one\", \"two\"")), "{error}");
    }
    let reply = post(server.address, "/v1/messages", &json!({ "model": "three", "max_tokens": 1, "messages": [] }));
    assert_eq!((reply.status, &reply.json()["error"]["type"]), (404, &json!("not_found_error")));
    assert_eq!(get(server.address, "/v1/models/three").status, 404);
    assert_eq!(NAMES.map(|name| loads(server.address, name)), [0.0, 0.0]);
}

#[test]
fn other_routes_ask_the_model_that_is_named() {
    let server = start(BYTES);
    for name in NAMES {
        let tokens = post(server.address, "/tokenize", &json!({ "model": name, "content": "Once" })).good();
        let back = post(server.address, "/detokenize", &json!({ "model": name, "tokens": tokens["tokens"] })).good();
        assert_eq!(back["content"], "Once");
        assert!(is_open(server.address, name));
    }
    let embedding = |name| {
        let reply =
            post(server.address, "/v1/embeddings", &json!({ "model": name, "input": "Once upon a time" })).good();
        assert_eq!(reply["model"], name);
        reply["data"][0]["embedding"].clone()
    };
    assert_ne!(embedding("one"), embedding("two"));
}

#[test]
fn where_one_fits_they_take_turns() {
    let server = start(BYTES);
    let address = server.address;
    let expected = expected(10);
    for round in 1..=3 {
        for (nth, name) in NAMES.iter().enumerate() {
            assert_eq!(text(&ask(address, name, 10)), expected[nth]);
            assert!(is_open(address, name) && !is_open(address, NAMES[1 - nth]));
            assert_eq!(loads(address, name), f64::from(round));
        }
    }
}

#[test]
fn many_at_once_where_one_fits_all_complete() {
    let server = start(BYTES);
    let address = server.address;
    let expected = expected(30);
    let clients: Vec<_> = (0..24)
        .map(|client| {
            std::thread::spawn(move || {
                let mut body = body(NAMES[client % 2], 30);
                body["stream"] = json!(client % 3 == 0);
                let reply = post(address, "/v1/completions", &body);
                match client % 3 {
                    0 => reply.chunks().iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect(),
                    _ => text(&reply),
                }
            })
        })
        .collect();
    for (client, thread) in clients.into_iter().enumerate() {
        assert_eq!(thread.join().expect("an answer"), expected[client % 2], "client {client}");
    }
    let opened: f64 = NAMES.iter().map(|name| loads(address, name)).sum();
    assert!((2.0..=24.0).contains(&opened), "{opened}");
    assert_eq!(metric(address, "bitnet_requests_waiting_for_model"), 0.0);
}

#[test]
fn one_that_is_always_busy_makes_way() {
    let server = start(BYTES);
    let address = server.address;
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let done = Arc::clone(&done);
            std::thread::spawn(move || {
                while !done.load(SeqCst) {
                    text(&ask(address, "one", 40));
                }
            })
        })
        .collect();
    wait_for("it never began", || is_open(address, "one"));
    for _ in 0..3 {
        text(&ask(address, "two", 5));
    }
    done.store(true, SeqCst);
    clients.into_iter().for_each(|thread| thread.join().expect("answers"));
}

#[test]
fn those_who_go_away_while_they_wait_leave_nothing_behind() {
    let server = start(BYTES);
    let address = server.address;
    let long = send(address, "POST", "/v1/completions", &[], body("one", 200).to_string().as_bytes());
    wait_for("it never began", || is_open(address, "one"));
    let waits = send(address, "POST", "/v1/completions", &[], body("two", 5).to_string().as_bytes());
    wait_for("it does not wait", || {
        metric(address, "bitnet_requests_waiting_for_model") == 1.0 || is_open(address, "two")
    });
    drop(waits);
    wait_for("it still waits", || metric(address, "bitnet_requests_waiting_for_model") == 0.0);
    text(&ask(address, "one", 5));
    text(&receive(long));
    text(&ask(address, "two", 5));
}

/// The second model, which is opened when the gate is.
fn named_behind(gate: &Arc<AtomicBool>) -> NamedModel {
    let gate = Arc::clone(gate);
    let wait_and_open = move || {
        while !gate.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Opened { engine: open(1).into(), template: None })
    };
    NamedModel { open: Box::new(wait_and_open), ..named(1) }
}

#[test]
fn the_queue_and_the_time_limit_hold_for_those_who_wait() {
    let gate = Arc::new(AtomicBool::new(false));
    let slow = named_behind(&gate);
    let limits = ServerOptions { queue: 1, time_limit: Duration::from_secs(5), ..ServerOptions::new("") };
    let server = Running::of(bind(vec![named(0), slow], 2 * BYTES, limits).expect("a server"));
    let address = server.address;
    let waits = send(address, "POST", "/v1/completions", &[], body("two", 5).to_string().as_bytes());
    wait_for("it does not wait", || metric(address, "bitnet_requests_waiting_for_model") == 1.0);
    let reply = ask(address, "two", 5);
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (503, &json!("busy")));
    assert!(reply.header("retry-after").is_some());
    assert_eq!(get(address, "/ready").status, 503);
    assert_eq!(get(address, "/health").status, 200);
    let reply = receive(waits);
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (504, &json!("time_limit")));
    gate.store(true, SeqCst);
    wait_for("it is opened all the same", || is_open(address, "two"));
    text(&ask(address, "two", 5));
    text(&ask(address, "one", 5));
}

#[test]
fn others_answer_while_one_is_opened() {
    let gate = Arc::new(AtomicBool::new(false));
    let slow = named_behind(&gate);
    let server = Running::of(bind(vec![named(0), slow], 2 * BYTES, ServerOptions::new("")).expect("a server"));
    text(&ask(server.address, "one", 5));
    let waits = send(server.address, "POST", "/v1/completions", &[], body("two", 5).to_string().as_bytes());
    wait_for("it does not wait", || metric(server.address, "bitnet_requests_waiting_for_model") == 1.0);
    text(&ask(server.address, "one", 20));
    assert!(!is_open(server.address, "two"));
    gate.store(true, SeqCst);
    text(&receive(waits));
}

#[test]
fn a_file_that_broke_is_an_error_and_the_other_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("secret-place.gguf");
    std::fs::write(&path, default_model()).expect("written");
    let mut fragile = named(1);
    let from = path.clone();
    fragile.open = Box::new(move || Ok(Opened { engine: Engine::open(&from, options_of(1))?.into(), template: None }));
    let server = Running::of(bind(vec![named(0), fragile], BYTES, ServerOptions::new("")).expect("a server"));
    let address = server.address;
    let expected = expected(10);
    let two = text(&ask(address, "two", 10));
    assert_eq!(two, expected[1]);
    assert_eq!(text(&ask(address, "one", 10)), expected[0]);
    // it is closed now
    std::fs::write(&path, &default_model()[..1000]).expect("written");
    for _ in 0..2 {
        let reply = ask(address, "two", 10);
        let error = &reply.json()["error"];
        assert_eq!((reply.status, &error["code"]), (500, &json!("model_not_opened")));
        assert!(!reply.text().contains("secret-place"), "{}", reply.text());
        assert_eq!(text(&ask(address, "one", 10)), expected[0]);
    }
    assert_eq!(get(address, "/health").status, 200);
    std::fs::write(&path, default_model()).expect("written");
    assert_eq!(text(&ask(address, "two", 10)), expected[1]);
    assert_eq!(loads(address, "two"), 2.0);
}

#[test]
fn nobody_is_closed_for_a_model_that_cannot_be_opened() {
    let broken = Arc::new(AtomicBool::new(true));
    let looked = Arc::clone(&broken);
    let check = Box::new(move || if looked.load(SeqCst) { Err("no such file: secret-place".into()) } else { Ok(()) });
    let fragile = NamedModel { check, ..named(1) };
    let server = Running::of(bind(vec![named(0), fragile], BYTES, ServerOptions::new("")).expect("a server"));
    let address = server.address;
    text(&ask(address, "one", 10));
    let reply = ask(address, "two", 10);
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (500, &json!("model_not_opened")));
    assert!(!reply.text().contains("secret-place"), "{}", reply.text());
    assert!(is_open(address, "one"));
    broken.store(false, SeqCst);
    assert_eq!(text(&ask(address, "two", 10)), expected(10)[1]);
    text(&ask(address, "one", 10));
    assert_eq!(NAMES.map(|name| loads(address, name)), [2.0, 1.0]);
}

#[test]
fn what_cannot_be_served_is_refused_at_start() {
    let error = bind(vec![named(0), named(1)], BYTES - 1, ServerOptions::new("")).err().expect("too large").to_string();
    assert!(error.contains("\"one\"") && error.contains("100") && error.contains("99"), "{error}");
    let error = bind(vec![named(0), named(0)], 1000, ServerOptions::new("")).err().expect("two of a name");
    assert!(matches!(error, ServerError::TwoModels(name) if name == "one"));
    assert!(matches!(bind(Vec::new(), 1000, ServerOptions::new("")).err(), Some(ServerError::NoModel)));
}
