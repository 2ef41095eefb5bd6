//! Traces as a collector gets them from a real server process.

use crate::program::bitnet;
#[cfg(feature = "otel")]
use crate::serve::Served;
use std::process::Stdio;

/// A server that cannot trace says so, and serves all the same.
#[test]
#[cfg(not(feature = "otel"))]
fn a_program_without_the_feature_says_so() {
    let mut command = bitnet(["serve", "--port", "0", "--threads", "1", "--api-key-file", "/no/such/keys"]);
    let output = command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1").stdin(Stdio::null()).output();
    let notes = String::from_utf8(output.expect("it ends").stderr).expect("UTF-8");
    assert_eq!(notes.matches("OTEL_EXPORTER_OTLP_ENDPOINT").count(), 1, "{notes}");
    assert!(notes.contains("WARN") && notes.contains("otel"), "{notes}");
}

#[cfg(feature = "otel")]
mod collector {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    /// What an exporter sent.
    pub(super) struct Post {
        pub(super) head: String,
        pub(super) body: Vec<u8>,
    }

    /// Takes whatever comes.
    pub(super) fn start() -> (String, Receiver<Post>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, posts) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    loop {
                        let mut head = String::new();
                        while !head.ends_with("\r\n\r\n") {
                            if stream.read_line(&mut head).unwrap_or(0) == 0 {
                                return;
                            }
                        }
                        let head = head.to_ascii_lowercase();
                        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                        let length = length.and_then(|n| n.parse().ok()).expect("a length");
                        let mut body = vec![0; length];
                        stream.read_exact(&mut body).expect("a body");
                        let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                        let _ = sender.send(Post { head, body });
                    }
                });
            }
        });
        (format!("http://{address}"), posts)
    }

    /// As much as is asked of a span.
    #[derive(Debug, Default)]
    pub(super) struct Span {
        pub(super) trace: Vec<u8>,
        pub(super) id: Vec<u8>,
        pub(super) parent: Vec<u8>,
        pub(super) name: String,
        pub(super) times: (u64, u64),
        /// Names and texts, or numbers.
        pub(super) attributes: Vec<(String, String)>,
    }

    impl Span {
        pub(super) fn attribute(&self, name: &str) -> &str {
            self.attributes.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
        }
    }

    /// Fields of a protobuf message: numbers, and bytes or the rest of them.
    fn fields(mut message: &[u8]) -> Vec<(u64, u64, &[u8])> {
        fn varint(message: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..64).step_by(7) {
                let byte = message[0];
                *message = &message[1..];
                value |= u64::from(byte & 127) << shift;
                if byte < 128 {
                    return value;
                }
            }
            panic!("no varint")
        }
        let mut found = Vec::new();
        while !message.is_empty() {
            let tag = varint(&mut message);
            let (number, bytes) = match tag & 7 {
                0 => (varint(&mut message), &[][..]),
                1 => {
                    let (eight, rest) = message.split_first_chunk().expect("eight bytes");
                    message = rest;
                    (u64::from_le_bytes(*eight), &[][..])
                }
                2 => {
                    let length = varint(&mut message) as usize;
                    let (bytes, rest) = message.split_at(length);
                    message = rest;
                    (0, bytes)
                }
                5 => {
                    message = &message[4..];
                    (0, &[][..])
                }
                other => panic!("wire type {other}"),
            };
            found.push((tag >> 3, number, bytes));
        }
        found
    }

    /// `opentelemetry.proto.common.v1.KeyValue`.
    fn key_value(message: &[u8]) -> (String, String) {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let (mut key, mut value) = (String::new(), String::new());
        for (field, _, bytes) in fields(message) {
            match field {
                1 => key = text(bytes),
                2 => {
                    for (kind, number, bytes) in fields(bytes) {
                        value = if kind == 1 { text(bytes) } else { number.to_string() };
                    }
                }
                _ => {}
            }
        }
        (key, value)
    }

    /// The resource's attributes and the spans of an `ExportTraceServiceRequest` (opentelemetry-proto 1.x).
    pub(super) fn read(body: &[u8]) -> (Vec<(String, String)>, Vec<Span>) {
        let (mut resource, mut spans) = (Vec::new(), Vec::new());
        for (_, _, resource_spans) in fields(body) {
            for (field, _, bytes) in fields(resource_spans) {
                match field {
                    1 => resource.extend(fields(bytes).iter().filter(|f| f.0 == 1).map(|f| key_value(f.2))),
                    2 => spans.extend(fields(bytes).iter().filter(|f| f.0 == 2).map(|f| span(f.2))),
                    _ => {}
                }
            }
        }
        (resource, spans)
    }

    fn span(message: &[u8]) -> Span {
        let mut span = Span::default();
        for (field, number, bytes) in fields(message) {
            match field {
                1 => span.trace = bytes.to_vec(),
                2 => span.id = bytes.to_vec(),
                4 => span.parent = bytes.to_vec(),
                5 => span.name = String::from_utf8(bytes.to_vec()).expect("UTF-8"),
                7 => span.times.0 = number,
                8 => span.times.1 = number,
                9 => span.attributes.push(key_value(bytes)),
                _ => {}
            }
        }
        span
    }

    /// All spans that come before nothing comes for a while.
    pub(super) fn all(posts: &Receiver<Post>, wait: Duration) -> Vec<Post> {
        std::iter::from_fn(|| posts.recv_timeout(wait).ok()).collect()
    }
}

#[cfg(feature = "otel")]
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Asks with a `traceparent`; the status line and all that follows.
#[cfg(feature = "otel")]
fn ask(address: &str, path: &str, sampled: bool, body: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).expect("a connection");
    let (length, flags) = (body.len(), u8::from(sampled));
    let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n");
    write!(stream, "{head}traceparent: 00-{TRACE}-00f067aa0ba902b7-{flags:02x}\r\n\r\n{body}").expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
#[cfg(all(feature = "otel", unix))]
fn a_request_is_a_span_of_the_callers_trace() {
    use std::time::Duration;
    let (endpoint, posts) = collector::start();
    let mut command = bitnet(["serve", "--port", "0", "--threads", "1"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).env("OTEL_SERVICE_NAME", "a-name");
    command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=seven");
    command.env("OTEL_BSP_SCHEDULE_DELAY", "3600000"); // only the end sends
    let mut served = Served::of(&mut command);
    let body = |stream: bool| {
        format!(
            r#"{{"prompt": "a secret", "max_tokens": 7, "n": 2, "stream": {stream}, "ignore_eos": true, "seed": 1}}"#
        )
    };
    for stream in [false, true] {
        assert!(ask(&served.address, "/v1/completions", true, &body(stream)).starts_with("HTTP/1.1 200"));
    }
    assert!(ask(&served.address, "/health", true, "").starts_with("HTTP/1.1 405"));
    assert!(ask(&served.address, "/v1/completions", true, "{").starts_with("HTTP/1.1 400"));
    assert!(ask(&served.address, "/v1/completions", false, &body(false)).starts_with("HTTP/1.1 200"));
    served.terminate();
    assert_eq!(served.wait(), Some(0));

    let posts = collector::all(&posts, Duration::from_millis(200));
    assert!(!posts.is_empty(), "nothing was sent at the end");
    let mut spans = Vec::new();
    for post in &posts {
        assert!(post.head.starts_with("post /v1/traces "), "{}", post.head);
        assert!(post.head.contains("application/x-protobuf") && post.head.contains("x-tenant: seven"), "{}", post.head);
        assert!(!post.body.windows(6).any(|bytes| bytes == b"secret"), "a prompt in a span");
        let (resource, more) = collector::read(&post.body);
        assert!(resource.contains(&("service.name".into(), "a-name".into())), "{resource:?}");
        spans.extend(more);
    }
    assert!(!spans.iter().any(|span| span.name.ends_with("/health")), "a span of a probe");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert!(spans.iter().all(|span| hex(&span.trace) == TRACE), "{spans:?}");
    let requests: Vec<_> = spans.iter().filter(|span| span.name == "POST /v1/completions").collect();
    let statuses: Vec<_> = requests.iter().map(|span| span.attribute("http.response.status_code")).collect();
    // the order of the first two is that of their ends; what was not sampled is not there
    assert_eq!(statuses, ["200", "200", "400"]);
    for request in &requests {
        assert_eq!(hex(&request.parent), "00f067aa0ba902b7");
        let parts: Vec<_> = spans.iter().filter(|span| span.parent == request.id).collect();
        if request.attribute("http.response.status_code") == "400" {
            assert!(parts.is_empty());
            continue;
        }
        let of = |name| [request.attribute("gen_ai.request.model"), request.attribute(name)];
        assert_eq!(of("gen_ai.usage.output_tokens"), ["stories", "14"]);
        assert_eq!(request.attribute("bitnet.complete"), "1");
        assert!(request.attribute("gen_ai.usage.input_tokens").parse::<u32>().is_ok_and(|tokens| tokens > 1));
        for nth in ["0", "1"] {
            let parts: Vec<_> = parts.iter().filter(|span| span.attribute("bitnet.answer") == nth).collect();
            let names: Vec<_> = parts.iter().map(|span| span.name.as_str()).collect();
            assert_eq!(names, ["queue", "prompt", "decode"]);
            assert_eq!(parts[2].attribute("gen_ai.usage.output_tokens"), "7");
            assert_eq!(parts[2].attribute("bitnet.finish_reason"), "length");
            for pair in parts.windows(2) {
                assert_eq!(pair[0].times.1, pair[1].times.0, "one after the other");
            }
            assert!(parts[2].times.0 < parts[2].times.1 && request.times.0 <= parts[0].times.0);
            assert!(parts[2].times.1 <= request.times.1 + 50_000_000, "{parts:?} {request:?}");
        }
    }
}

/// Nobody listens, or somebody who never answers: requests are answered, and the server ends.
#[test]
#[cfg(all(feature = "otel", unix))]
fn a_collector_that_is_away_harms_nobody() {
    use std::time::{Duration, Instant};
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = format!("http://{}", silent.local_addr().expect("an address"));
    for endpoint in ["http://127.0.0.1:1", &silent] {
        let mut command = bitnet(["serve", "--port", "0", "--threads", "1"]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).env("OTEL_BSP_SCHEDULE_DELAY", "50");
        let mut served = Served::of(&mut command);
        for _ in 0..3 {
            let answer = ask(&served.address, "/v1/completions", true, r#"{"prompt": "Once", "max_tokens": 3}"#);
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            std::thread::sleep(Duration::from_millis(100)); // a batch is under way
        }
        let begin = Instant::now();
        served.terminate();
        assert_eq!(served.wait(), Some(0));
        assert!(begin.elapsed() < Duration::from_secs(20), "{endpoint}: {:?}", begin.elapsed());
        let log = served.log();
        assert!(log.contains("WARN") || log.contains("ERROR"), "{endpoint}: {log}");
    }
}

#[test]
#[cfg(feature = "otel")]
fn what_cannot_be_sent_is_refused_at_start() {
    use crate::program::Outcome;
    for (name, value, said) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "soon", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT=soon"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "not a url", "not a url"),
    ] {
        let mut command = bitnet(["serve", "--port", "0"]);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1").env(name, value).stdin(Stdio::null());
        let refused = command.output().expect("it ends").fails(1);
        assert!(refused.contains(said), "{refused}");
    }
}
