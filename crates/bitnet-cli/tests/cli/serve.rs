//! `bitnet serve` as an operator sees it: a line with the address, answers, and an end that loses nothing.

use crate::program::{Outcome, bitnet, json, output};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Command, Stdio};

pub(crate) struct Served {
    child: Child,
    #[cfg_attr(not(unix), expect(dead_code, reason = "held open: what it says must go somewhere"))]
    notes: BufReader<ChildStderr>,
    pub(crate) address: String,
}

impl Served {
    /// Starts it on a free port and waits until it listens.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::of(&mut bitnet(["serve", "--port", "0", "--threads", "1"].iter().chain(args)))
    }

    /// The same of a command line.
    pub(crate) fn of(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut notes = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(notes.read_line(&mut line).expect("text") > 0, "it ended before it listened");
            if let Some((_, rest)) = line.strip_prefix("listening on ").and_then(|rest| rest.split_once("://")) {
                break rest.split(' ').next().expect("an address").to_owned();
            }
        };
        Served { child, notes, address }
    }

    /// Asks it to end.
    #[cfg(unix)]
    pub(crate) fn terminate(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
    }

    /// Its exit status.
    #[cfg(unix)]
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }

    /// What it said since it listened, when it has ended.
    #[cfg(unix)]
    pub(crate) fn log(&mut self) -> String {
        let mut log = String::new();
        self.notes.read_to_string(&mut log).expect("text");
        log
    }

    /// Begins a request.
    fn send(&self, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("a connection");
        let (address, length) = (&self.address, body.len());
        let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
        write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").expect("written");
        stream
    }

    /// What `/metrics` says.
    pub(crate) fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("a connection");
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address)
            .expect("written");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("metrics");
        text
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of a good response.
fn receive(mut stream: TcpStream) -> serde_json::Value {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a response");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{text}");
    json(body)
}

#[test]
#[cfg(unix)]
fn sigterm_finishes_the_answer_and_ends_well() {
    let mut served = Served::start(&[]);
    // long enough to be at work when the signal comes, and short enough for the time that draining may take
    let body =
        r#"{"messages": [{"role": "user", "content": "a secret"}], "n": 8, "max_tokens": 64, "ignore_eos": true}"#;
    let answer = served.send("/v1/chat/completions", body);
    // its line in the log stands there when it is answered, so its tokens say that it was accepted
    while served.metrics().contains("\nbitnet_new_tokens_total 0\n") {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    served.terminate();
    assert_eq!(receive(answer)["choices"].as_array().map(Vec::len), Some(8));
    assert_eq!(served.wait(), Some(0));
    let log = served.log();
    assert!(log.contains("answered") && log.contains("status=200"), "{log}");
    assert!(!log.contains("secret"), "a prompt in the log: {log}");
}

#[test]
fn what_cannot_be_served_is_an_error() {
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = occupied.local_addr().expect("an address").port().to_string();
    assert!(output(["serve", "--port", &port]).fails(1).contains("cannot listen to"));
    let keys = tempfile::NamedTempFile::new().expect("a file");
    let path = keys.path().to_str().expect("UTF-8");
    assert!(output(["serve", "--port", "0", "--api-key-file", path]).fails(1).contains("no key"));
    assert!(output(["serve", "--port", "0", "--cors-origin", "nonsense"]).fails(1).contains("nonsense"));
    let none = bitnet(["serve", "--port", "0"]).env("BITNET_API_KEYS", " , ").output().expect("it ends");
    assert!(none.fails(1).contains("BITNET_API_KEYS"));
}

#[test]
fn certificates_come_from_files_and_are_used() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../bitnet-server/tests/data");
    let file = |name: &str| format!("{data}/{name}");
    let (certificate, key) = (file("certificate.pem"), file("key.pem"));
    let serve = |more: &[&str]| output(["serve", "--port", "0"].iter().chain(more)).fails(1);
    assert!(serve(&["--tls-cert", &certificate]).contains("--tls-key"));
    assert!(serve(&["--tls-key", &key]).contains("--tls-cert"));
    let other = file("other_key.pem");
    let refused = serve(&["--tls-cert", &certificate, "--tls-key", &other]);
    assert!(refused.contains(&other) && refused.contains(&certificate), "{refused}");

    // one from the environment, one from the command line
    let mut command = bitnet(["serve", "--port", "0", "--threads", "1", "--tls-key", &key]);
    let served = Served::of(command.env("BITNET_SERVE_TLS_CERT", &certificate));
    let mut stream = TcpStream::connect(&served.address).expect("a connection");
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("written");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer); // a reset is as good as an end
    assert!(!answer.starts_with(b"HTTP/"), "it spoke without encryption");

    // the probe, by options and by the server's own variables
    let port = served.address.rsplit_once(':').expect("a port").1;
    let probe = |more: &[&str]| output(["health", "--port", port].iter().chain(more));
    assert_eq!(probe(&["--tls-cert", &certificate]).succeeds(), "");
    probe(&[]).fails(1);
    assert!(probe(&["--tls-cert", &key]).fails(1).contains("no certificate in"));
    let text = std::fs::read_to_string(&certificate).expect("PEM");
    let line = text.lines().nth(1).expect("base64");
    let another = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(another.path(), text.replace(line, &line.chars().rev().collect::<String>())).expect("written");
    let refused = probe(&["--tls-cert", another.path().to_str().expect("UTF-8")]).fails(1);
    assert!(refused.contains("another certificate"), "{refused}");
    let mut probe = bitnet(["health"]);
    probe.env("BITNET_SERVE_HOST", "0.0.0.0").env("BITNET_SERVE_PORT", port).env("BITNET_SERVE_TLS_CERT", &certificate);
    assert_eq!(probe.output().expect("it ends").succeeds(), "");
}

#[test]
fn several_models_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, bitnet::default_model()).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (first, second) = (file("first.gguf"), file("second.gguf"));
    let second = format!("other={second}");
    let refused =
        output(["serve", "--port", "0", "--model", &first, "--also", &second, "--memory-budget", "1MiB"]).fails(1);
    assert!(refused.contains("\"first\" needs ") && refused.contains("1048576"), "{refused}");
    let alone = output(["serve", "--port", "0", "--memory-budget", "1MiB"]).fails(1);
    assert!(alone.contains("\"stories\" needs "), "{alone}");
    let twice = output(["serve", "--port", "0", "--model", &first, "--also", &first]).fails(1);
    assert!(twice.contains("two models have the name \"first\""), "{twice}");
    let missing = output(["serve", "--port", "0", "--also", "x=/no/such/file.gguf"]).fails(1);
    assert!(missing.contains("/no/such/file.gguf"), "{missing}");

    let template = folder.path().join("brief.jinja");
    std::fs::write(&template, "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}").expect("written");
    let third = format!("{{ model = {first:?}, name = \"third\", template = {template:?} }}");
    let all = ["--model", &first, "--also", &second, "--also", &third, "--memory-budget", "1 GiB"];
    let served = Served::start(&all);
    let post = |path: &str, body: &str| receive(served.send(path, body));
    for name in ["first", "other", "third"] {
        let body = format!(r#"{{"model": "{name}", "input": "Once", "content": "Once"}}"#);
        assert_eq!(post("/v1/embeddings", &body)["model"], name);
    }
    let chat = r#"{"model": "third", "messages": [{"role": "user", "content": "Hi"}]}"#;
    assert_eq!(post("/apply-template", chat)["prompt"], "<user>Hi");
}
