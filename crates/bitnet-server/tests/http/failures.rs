//! Clients that are broken, hostile, slow or gone, and limits.

use crate::client::{Running, engine, get, metric, options, post, receive, send, shared, wait_for};
use bitnet_server::ServerOptions;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Keeps a server with two sequences at work for many steps.
fn long(stream: bool) -> Value {
    json!({ "prompt": "Once upon a time", "max_tokens": 300, "n": 30, "ignore_eos": true, "temperature": 1.5, "top_k": 0,
        "top_p": 1, "stream": stream })
}

fn busy_server(options: ServerOptions) -> Running {
    Running::start(engine(2, 60), options)
}

/// Nothing is at work, nothing waits, no page is held.
fn idle(address: SocketAddr) -> bool {
    ["bitnet_requests_active", "bitnet_requests_waiting", "bitnet_kv_pages_held"]
        .iter()
        .all(|name| metric(address, name) == 0.0)
}

#[test]
fn a_client_that_goes_away_cancels() {
    let server = busy_server(options());
    for stream in [true, false] {
        let before = metric(server.address, "bitnet_requests_cancelled_total");
        let mut client = send(server.address, "POST", "/v1/completions", &[], long(stream).to_string().as_bytes());
        if stream {
            let mut some = [0; 500];
            client.read_exact(&mut some).expect("the beginning of the stream");
        } else {
            wait_for("it never began", || metric(server.address, "bitnet_requests_active") > 0.0);
        }
        drop(client);
        wait_for("it went on without a client", || idle(server.address));
        assert!(metric(server.address, "bitnet_requests_cancelled_total") > before, "stream: {stream}");
        // the one that asks
        wait_for("it counts as not answered", || metric(server.address, "bitnet_http_requests_active") == 1.0);
    }
}

#[test]
fn embeddings_without_a_client_make_room() {
    let server = Running::start(engine(2, 3), ServerOptions { queue: 1, ..options() });
    let ask = |input: Value| post(server.address, "/v1/embeddings", &json!({ "input": input }));
    // more than all pages hold is no matter of waiting
    let reply = ask(json!(vec![5; 97]));
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("input")), "{}", reply.text());
    assert_eq!(ask(json!(vec![5; 96])).status, 200);
    // minutes of work, of which nobody wants the rest
    let many = json!({ "input": vec![vec![5; 96]; 2000] }).to_string();
    let client = send(server.address, "POST", "/v1/embeddings", &[], many.as_bytes());
    wait_for("it never began", || ask(json!("a")).status == 503);
    drop(client);
    let start = Instant::now();
    wait_for("it went on without a client", || ask(json!("a")).status == 200);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_full_queue_is_busy_and_says_when_to_come_back() {
    let server = busy_server(ServerOptions { queue: 30, ..options() });
    let _client = send(server.address, "POST", "/v1/completions", &[], long(true).to_string().as_bytes());
    wait_for("it never began", || metric(server.address, "bitnet_requests_waiting") > 27.0);
    // whoever asks for more answers than there is room for takes none of it
    let reply = post(server.address, "/v1/completions", &long(false));
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.header("retry-after").and_then(|wait| wait.parse::<u32>().ok()).is_some_and(|wait| wait > 0));
    let error = &reply.json()["error"];
    assert_eq!((&error["type"], &error["code"]), (&json!("overloaded_error"), &json!("busy")));
    assert!(metric(server.address, "bitnet_requests_refused_total") > 0.0);

    // what the queue can never hold is no matter of waiting
    let reply = post(server.address, "/v1/completions", &json!({"prompt": "Once", "max_tokens": 1, "n": 31}));
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("n")), "{}", reply.text());
    let prompts = json!({"prompt": vec!["Once"; 31], "max_tokens": 1});
    let reply = post(server.address, "/v1/completions", &prompts);
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("prompt")), "{}", reply.text());
}

#[test]
fn an_answer_that_takes_too_long_is_ended() {
    let server = busy_server(ServerOptions { time_limit: Duration::from_millis(50), ..options() });
    let reply = post(server.address, "/v1/completions", &long(false));
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (504, &json!("time_limit")));
    let events = post(server.address, "/v1/completions", &long(true)).events();
    let last: Value = serde_json::from_str(events.last().expect("events")).expect("JSON");
    assert_eq!(last["error"]["code"], "time_limit");
    wait_for("it went on", || idle(server.address));
}

#[test]
fn malformed_http_harms_nobody() {
    for bytes in [
        &b"\r\n\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
        b"GET /health HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n",
    ] {
        let mut client = TcpStream::connect(shared()).expect("a connection");
        client.write_all(bytes).expect("written");
        client.shutdown(std::net::Shutdown::Write).expect("closed");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer); // a reset is as good as an end
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    }
    let mut big = b"GET /health HTTP/1.1\r\nHost: localhost\r\n".to_vec();
    big.extend(std::iter::repeat_n(b'a', 1 << 20));
    let mut client = TcpStream::connect(shared()).expect("a connection");
    let _ = client.write_all(&big);
    drop(client);
    assert_eq!(get(shared(), "/health").status, 200);
}

#[test]
fn random_bytes_and_mangled_requests_harm_nobody() {
    let good = json!({ "prompt": "The", "max_tokens": 2, "stop": ["a"], "logit_bias": { "5": 1 }, "stream": true });
    let good = good.to_string().into_bytes();
    let mut state = 7u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for _ in 0..300 {
        let mut body = good.clone();
        for _ in 0..1 + random() % 4 {
            let at = random() % body.len();
            match random() % 3 {
                0 => body[at] = random() as u8,
                1 => drop(body.remove(at)),
                _ => body.insert(at, b"{}[]\",:0-e.\\u"[random() % 13]),
            }
        }
        let reply = receive(send(shared(), "POST", "/v1/completions", &[], &body));
        assert!(matches!(reply.status, 200 | 400), "{}: {}", String::from_utf8_lossy(&body), reply.text());
    }
}

#[test]
fn large_bodies_are_refused() {
    let server = busy_server(ServerOptions { max_body: 1000, ..options() });
    let body = json!({ "prompt": "a".repeat(2000) });
    let reply = post(server.address, "/v1/completions", &body);
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (413, &json!("body_too_large")));
}

#[test]
fn keys() {
    let server = busy_server(ServerOptions { api_keys: vec!["right".into(), "also".into()], ..options() });
    let ask = |headers: &[(&str, &str)]| receive(send(server.address, "GET", "/v1/models", headers, b""));
    assert_eq!(ask(&[("Authorization", "Bearer right")]).status, 200);
    assert_eq!(ask(&[("x-api-key", "also")]).status, 200);
    for headers in [&[][..], &[("Authorization", "Bearer wrong")], &[("Authorization", "Bearer righ")]] {
        let reply = ask(headers);
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (401, &json!("invalid_api_key")));
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(get(server.address, "/metrics").status, 401);
    assert_eq!(get(server.address, "/health").status, 200);
    assert_eq!(get(server.address, "/ready").status, 200);
}

#[test]
fn a_key_that_asks_too_often_waits() {
    let limited = ServerOptions { rate_limit: Some(2), api_keys: vec!["a".into(), "b".into()], ..options() };
    let server = Running::start(engine(1, 30), limited);
    let ask = |path: &str, key: &str| {
        let body = json!({ "content": "Hi", "messages": [] }).to_string();
        receive(send(server.address, "POST", path, &[("X-Api-Key", key)], body.as_bytes()))
    };
    assert_eq!([1, 2].map(|_| ask("/tokenize", "a").status), [200, 200]);
    let reply = ask("/tokenize", "a");
    assert_eq!((reply.status, &reply.json()["error"]["type"]), (429, &json!("rate_limit_error")));
    let wait: u64 = reply.header("retry-after").and_then(|wait| wait.parse().ok()).expect("seconds");
    assert!((1..=30).contains(&wait));
    assert_eq!(ask("/v1/messages", "a").json()["error"]["type"], "rate_limit_error");
    for _ in 0..3 {
        assert_eq!(receive(send(server.address, "POST", "/health", &[], b"")).status, 405);
    }
    assert_eq!(ask("/tokenize", "b").status, 200, "another key");
    let reply = receive(send(server.address, "GET", "/v1/models", &[("X-Api-Key", "a")], b""));
    assert_eq!(reply.status, 200, "looking costs nothing");
}

#[test]
fn pages_of_other_origins() {
    let origin = ("Origin", "https://page.example");
    let preflight = [origin, ("Access-Control-Request-Method", "POST")];
    let closed = receive(send(shared(), "OPTIONS", "/v1/completions", &preflight, b""));
    assert_eq!(closed.header("access-control-allow-origin"), None);
    let reply = receive(send(shared(), "GET", "/v1/models", &[origin], b""));
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (403, &json!("foreign_origin")));
    let rebound = [("Host", "evil.example")];
    assert_eq!(receive(send(shared(), "GET", "/v1/models", &rebound, b"")).status, 403);

    let server = busy_server(ServerOptions { cors_origins: vec!["https://page.example".into()], ..options() });
    let own = "authorization,content-type,x-stainless-runtime,anthropic-version"; // of the official clients
    let preflight = [&preflight[..], &[("Access-Control-Request-Headers", own)]].concat();
    let open = receive(send(server.address, "OPTIONS", "/v1/completions", &preflight, b""));
    assert_eq!(open.header("access-control-allow-headers"), Some(own));
    assert_eq!((open.status, open.header("access-control-allow-origin")), (200, Some("https://page.example")));
    let reply = receive(send(server.address, "GET", "/v1/models", &[origin], b""));
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, Some("https://page.example")));
    let other = receive(send(server.address, "GET", "/v1/models", &[("Origin", "https://x.example")], b""));
    assert_eq!(other.status, 403);
}

#[test]
fn stopping_finishes_what_was_begun() {
    // Longer than a slow build takes: the limit is another test's.
    let mut server = busy_server(ServerOptions { drain_limit: Duration::from_secs(600), ..options() });
    let whole = send(server.address, "POST", "/v1/completions", &[], long(false).to_string().as_bytes());
    let stream = send(server.address, "POST", "/v1/completions", &[], long(true).to_string().as_bytes());
    // In this order none counts twice, however slowly they are asked for.
    let stages = ["bitnet_requests_finished_total", "bitnet_requests_active", "bitnet_requests_waiting"];
    wait_for("they never began", || stages.map(|stage| metric(server.address, stage)).iter().sum::<f64>() >= 60.0);
    server.stop.blocking_send(()).expect("it listens");
    let whole = std::thread::spawn(|| receive(whole).good());
    let chunks = receive(stream).chunks();
    assert_eq!(whole.join().expect("an answer")["choices"].as_array().map(Vec::len), Some(30));
    assert_eq!(chunks.iter().filter(|chunk| !chunk["choices"][0]["finish_reason"].is_null()).count(), 30);
    server.join();
    assert!(TcpStream::connect(server.address).is_err(), "nobody listens any more");
}

#[test]
fn stopping_has_a_limit() {
    let mut server = busy_server(ServerOptions { drain_limit: Duration::from_millis(100), ..options() });
    let _client = send(server.address, "POST", "/v1/completions", &[], long(false).to_string().as_bytes());
    wait_for("it never began", || metric(server.address, "bitnet_requests_active") > 0.0);
    let start = Instant::now();
    server.stop.blocking_send(()).expect("it listens");
    server.join();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
