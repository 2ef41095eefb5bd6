//! Many clients at once: each hears what it would hear alone.

use crate::client::{Running, engine, metric, options, post, wait_for};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// Requests of several kinds.
fn body(client: u64) -> Value {
    let prompts = ["Once upon a time", "The little dog", "Once upon a time there was a dragon who", "Lily"];
    json!({
        "messages": [{ "role": "user", "content": prompts[client as usize % 4] }],
        "max_tokens": 10 + client % 30,
        "seed": client,
        "temperature": if client.is_multiple_of(5) { 0.0 } else { 0.9 },
        "stream": client.is_multiple_of(2),
        "frequency_penalty": if client.is_multiple_of(3) { 0.5 } else { 0.0 },
    })
}

/// The text of an answer, whole or streamed.
fn ask(address: SocketAddr, body: &Value) -> String {
    let reply = post(address, "/v1/chat/completions", body);
    if body["stream"] == true {
        let delta = |chunk: &Value| chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned();
        return reply.chunks().iter().map(delta).collect();
    }
    reply.good()["choices"][0]["message"]["content"].as_str().expect("text").to_owned()
}

#[test]
fn thirty_two_clients_at_once_hear_what_each_hears_alone() {
    let alone = Running::start(engine(1, 30), options());
    let expected: Vec<String> = (0..32).map(|client| ask(alone.address, &body(client))).collect();
    // pages for a few of them only: some give way to others
    let server = Running::start(engine(16, 50), options());
    for round in 0..2 {
        let clients: Vec<_> = (0..32)
            .map(|client| {
                let address = server.address;
                std::thread::spawn(move || ask(address, &body(client)))
            })
            .collect();
        for (client, (thread, expected)) in clients.into_iter().zip(&expected).enumerate() {
            assert_eq!(&thread.join().expect("an answer"), expected, "client {client}, round {round}");
        }
    }
    wait_for("pages are held", || metric(server.address, "bitnet_kv_pages_held") == 0.0);
    assert_eq!(metric(server.address, "bitnet_requests_finished_total"), 64.0);
    assert!(
        metric(server.address, "bitnet_batch_size_bucket{le=\"4\"}")
            < metric(server.address, "bitnet_batch_size_count")
    );
}
