//! A server in this process, and just enough HTTP to ask it.

use bitnet::{Checkpoint, Engine, EngineOptions, default_model};
use bitnet_models::{ChatTemplate, Tokenizer};
use bitnet_server::{Server, ServerOptions};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Name of the model.
pub(crate) const MODEL: &str = "stories";

/// The embedded model for several sequences.
pub(crate) fn engine(sequences: usize, kv_pages: usize) -> Arc<Engine> {
    let options = EngineOptions {
        sequences: Some(sequences),
        kv_pages: Some(kv_pages),
        threads: Some(2),
        ..EngineOptions::default()
    };
    let model = Checkpoint::from_gguf_bytes(default_model().into()).expect("a GGUF file");
    Arc::new(Engine::from_checkpoint(&model, options).expect("a model"))
}

/// Options with the story template.
pub(crate) fn options() -> ServerOptions {
    let model = Checkpoint::from_gguf_bytes(default_model().into()).expect("a GGUF file");
    let tokenizer = Tokenizer::from_checkpoint(&model).expect("a tokenizer");
    let begin = tokenizer.bos().and_then(|id| tokenizer.text(id)).expect("a begin-of-sequence token");
    let template = ChatTemplate::new(bitnet::STORY_TEMPLATE, begin, "").expect("a template");
    ServerOptions { template: Some(template), ..ServerOptions::new(MODEL) }
}

/// A server that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) stop: mpsc::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(engine: Arc<Engine>, options: ServerOptions) -> Self {
        Self::of(Server::bind(engine, "127.0.0.1:0", options).expect("a free port"))
    }

    pub(crate) fn of(server: Server) -> Self {
        let address = server.address();
        let (stop, stopped) = mpsc::channel(2);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(server.serve(stopped)).expect("served");
        });
        Running { address, stop, thread: Some(thread) }
    }

    /// Waits for its end.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop.try_send(());
        let _ = self.stop.try_send(());
        self.join();
    }
}

/// The server that tests share.
pub(crate) fn shared() -> SocketAddr {
    static SERVER: OnceLock<Running> = OnceLock::new();
    SERVER.get_or_init(|| Running::start(engine(8, 200), options())).address
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// The body of a good answer.
    pub(crate) fn good(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        self.json()
    }

    /// The data of server-sent events; checks the framing.
    pub(crate) fn events(&self) -> Vec<String> {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("text/event-stream"));
        let text = self.text().strip_suffix("\n\n").expect("a complete last event");
        let data = |event: &str| {
            assert_eq!(event.lines().count(), 1, "{event:?}");
            event.strip_prefix("data: ").map(String::from)
        };
        text.split("\n\n").filter(|event| !event.starts_with(':')).map(|e| data(e).expect("data")).collect()
    }

    /// The objects of events that have names, which are their types.
    pub(crate) fn named(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("text/event-stream"));
        let text = self.text().strip_suffix("\n\n").expect("a complete last event");
        let event = |event: &str| {
            let (name, data) = event.strip_prefix("event: ")?.split_once("\ndata: ")?;
            let data: Value = serde_json::from_str(data).ok()?;
            (data["type"] == name).then_some(data)
        };
        text.split("\n\n").map(|one| event(one).unwrap_or_else(|| panic!("{one}"))).collect()
    }

    /// The objects of a stream that ends as it should.
    pub(crate) fn chunks(&self) -> Vec<Value> {
        let mut events = self.events();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"));
        events.iter().map(|event| serde_json::from_str(event).expect("JSON")).collect()
    }
}

/// A connection that waits for answers, but not for ever.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout");
    stream
}

/// Sends the head and the body of a request.
pub(crate) fn send(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
    let mut stream = connect(address);
    // a server that has heard enough closes early; what it said can still be read
    let _ = stream.write_all(&request(address, method, path, headers, body));
    stream
}

/// The bytes of a request.
pub(crate) fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        head += &format!("Host: {address}\r\n");
    }
    head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    let mut request = (head + "\r\n").into_bytes();
    request.extend_from_slice(body);
    request
}

/// Reads a whole response.
pub(crate) fn receive(stream: impl Read) -> Reply {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a status line");
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status in {line:?}"));
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line).expect("a header");
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let mut reply = Reply { status, headers, body: Vec::new() };
    if reply.header("transfer-encoding") != Some("chunked") {
        reader.read_to_end(&mut reply.body).expect("a body");
        let length = reply.header("content-length").and_then(|length| length.parse().ok());
        assert!(length.is_none_or(|length: usize| length == reply.body.len()), "a cut body");
        return reply;
    }
    loop {
        line.clear();
        reader.read_line(&mut line).expect("a chunk");
        let length = usize::from_str_radix(line.trim_end(), 16).expect("a chunk's length");
        let mut chunk = vec![0; length + 2];
        reader.read_exact(&mut chunk).expect("a whole chunk");
        assert!(chunk.ends_with(b"\r\n"));
        reply.body.extend_from_slice(&chunk[..length]);
        if length == 0 {
            return reply;
        }
    }
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Reply {
    receive(send(address, "GET", path, &[], b""))
}

pub(crate) fn post(address: SocketAddr, path: &str, body: &Value) -> Reply {
    receive(send(address, "POST", path, &[], body.to_string().as_bytes()))
}

/// A number of `/metrics`.
pub(crate) fn metric(address: SocketAddr, name: &str) -> f64 {
    let reply = get(address, "/metrics");
    let text = reply.text();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// Waits until a condition holds.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
