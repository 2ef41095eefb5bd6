//! Pulls from a hub in this process that behaves badly on purpose.

use bitnet_hub::{Cache, Hub, HubError, Location};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How it behaves, and what it was asked.
#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    /// Names of the large files among them.
    large: Vec<String>,
    token: Option<String>,
    /// Bytes after which the next connections break.
    breaks: Vec<usize>,
    /// Answers parts with the whole.
    no_ranges: bool,
    /// Changes the last byte of what it sends.
    corrupt: bool,
    /// Sends downloads there.
    elsewhere: Option<String>,
    /// Path, range and authorization of every request.
    asked: Vec<(String, Option<String>, Option<String>)>,
}

#[derive(Clone)]
struct TestHub {
    address: String,
    state: Arc<Mutex<State>>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

impl TestHub {
    fn start(state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let hub = TestHub { address, state: Arc::new(Mutex::new(state)) };
        let served = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = served.answer(stream); // a client that goes away is part of the tests
            }
        });
        hub
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().expect("no panic"));
    }

    fn asked(&self) -> Vec<(String, Option<String>, Option<String>)> {
        std::mem::take(&mut self.state.lock().expect("no panic").asked)
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let (mut line, mut range, mut authorization) = (String::new(), None, None);
        reader.read_line(&mut line)?;
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "range" => range = Some(value.to_owned()),
                "authorization" => authorization = Some(value.to_owned()),
                _ => {}
            }
        }
        let mut state = self.state.lock().expect("no panic");
        state.asked.push((path.clone(), range.clone(), authorization.clone()));
        let mut reply = |status: &str, headers: &str, body: &[u8]| {
            write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}Connection: close\r\n\r\n",
                body.len()
            )?;
            stream.write_all(body)
        };
        if state.token.is_some() && authorization != state.token.as_ref().map(|token| format!("Bearer {token}")) {
            return reply("401 Unauthorized", "", b"");
        }
        if path.starts_with("/api/models/") {
            if !path.starts_with("/api/models/owner/name/revision/main?") {
                return reply("404 Not Found", "", b"");
            }
            return reply("200 OK", "", state.description().as_bytes());
        }
        let name = path.rsplit_once(&format!("/resolve/{COMMIT}/")).map_or("", |(_, name)| name).to_owned();
        let Some(mut content) = state.files.get(&name).cloned() else { return reply("404 Not Found", "", b"") };
        if let Some(elsewhere) = &state.elsewhere {
            return reply("302 Found", &format!("Location: {elsewhere}{path}\r\n"), b"");
        }
        if state.corrupt
            && let Some(last) = content.last_mut()
        {
            *last ^= 1;
        }
        let from: usize =
            range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
        let from = if state.no_ranges { 0 } else { from };
        let body = &content[from..];
        let sent = state.breaks.pop().unwrap_or(body.len()).min(body.len());
        let status = match from {
            0 => "200 OK".to_owned(),
            _ => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{}", content.len() - 1, content.len()),
        };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
        stream.write_all(&body[..sent])
    }

    fn hub(&self, cache: &Path, token: Option<&str>) -> Hub {
        Hub::new(&self.address, token.map(String::from), false, Cache::at(cache)).expect("a hub")
    }
}

impl State {
    fn description(&self) -> String {
        let file = |(name, content): (&String, &Vec<u8>)| {
            if self.large.contains(name) {
                let (hash, size) = (hex(&Sha256::digest(content)), content.len());
                return format!(
                    r#"{{"rfilename":"{name}","size":{size},"blobId":"x","lfs":{{"sha256":"{hash}","size":{size}}}}}"#
                );
            }
            let hash =
                hex(&Sha1::new_with_prefix(format!("blob {}\0", content.len())).chain_update(content).finalize());
            format!(r#"{{"rfilename":"{name}","size":{},"blobId":"{hash}"}}"#, content.len())
        };
        let files: Vec<String> = self.files.iter().map(file).collect();
        format!(r#"{{"sha":"{COMMIT}","siblings":[{}]}}"#, files.join(","))
    }
}

/// One large GGUF file and a small file that is not wanted.
fn one_model() -> (State, Vec<u8>) {
    let content: Vec<u8> = (0..300_000u32).map(|n| (n * 7 + n / 251) as u8).collect();
    let files = BTreeMap::from([("model.gguf".into(), content.clone()), ("README.md".into(), b"read me".to_vec())]);
    (State { files, large: vec!["model.gguf".into()], ..State::default() }, content)
}

fn location() -> Location {
    "owner/name".parse().expect("a location")
}

#[test]
fn a_model_comes_once_and_is_found() {
    let (state, content) = one_model();
    let server = TestHub::start(state);
    let cache = tempfile::tempdir().expect("a directory");
    let hub = server.hub(cache.path(), None);
    assert_eq!(hub.cache().find(&location()), None);
    let mut steps = Vec::new();
    let path = hub.pull(&location(), "main", &mut |progress| {
        steps.push((progress.done, progress.total));
        true
    });
    let path = path.expect("pulled");
    assert_eq!(std::fs::read(&path).expect("a file"), content);
    assert_eq!(path, cache.path().join(format!("models--owner--name/snapshots/{COMMIT}/model.gguf")));
    assert_eq!(Cache::name_of(&path).as_deref(), Some("owner/name"));
    assert_eq!(steps.last(), Some(&(300_000, 300_000)));
    assert_eq!(server.asked().len(), 2, "a description and a file; the README is not wanted");
    // again: the file is there
    assert_eq!(hub.pull(&location(), "main", &mut |_| true).expect("there"), path);
    assert_eq!(server.asked().len(), 1);
    assert_eq!(hub.cache().find(&location()), Some(path.clone()));
    assert_eq!(hub.cache().find(&"owner/name/model.gguf".parse().expect("a location")), Some(path.clone()));
    let list = hub.cache().list().expect("a list");
    assert_eq!(
        (list.len(), list[0].repository.as_str(), list[0].bytes, list[0].unfinished),
        (1, "owner/name", 300_000, 0)
    );
    assert_eq!(list[0].model.as_ref(), Some(&path));
    // without a network
    let offline = Hub::new(&server.address, None, true, hub.cache().clone()).expect("a hub");
    assert_eq!(offline.pull(&location(), "main", &mut |_| true).expect("there"), path);
    let other = "owner/other".parse().expect("a location");
    assert!(matches!(offline.pull(&other, "main", &mut |_| true), Err(HubError::Offline(_))));
    assert!(server.asked().is_empty());
    assert!(
        hub.cache().remove(&location()).expect("removed") && !hub.cache().remove(&location()).expect("nothing there")
    );
    assert_eq!(hub.cache().list().expect("a list").len(), 0);
}

#[test]
fn broken_connections_are_continued() {
    let (state, content) = one_model();
    let server = TestHub::start(State { breaks: vec![0, 50_000, 100_000], ..state });
    let cache = tempfile::tempdir().expect("a directory");
    let path = server.hub(cache.path(), None).pull(&location(), "main", &mut |_| true).expect("pulled");
    assert_eq!(std::fs::read(path).expect("a file"), content);
    let ranges: Vec<_> = server.asked().into_iter().skip(1).map(|(_, range, _)| range).collect();
    let range = |from: u32| Some(format!("bytes={from}-"));
    assert_eq!(ranges, [None, range(100_000), range(150_000), range(150_000)]);
}

#[test]
fn an_interrupted_pull_goes_on_later() {
    let (state, content) = one_model();
    let server = TestHub::start(state);
    let cache = tempfile::tempdir().expect("a directory");
    let hub = server.hub(cache.path(), None);
    let stopped = hub.pull(&location(), "main", &mut |progress| progress.done < 100_000);
    assert!(matches!(stopped, Err(HubError::Cancelled)));
    let list = hub.cache().list().expect("a list");
    assert!(list[0].unfinished >= 100_000 && list[0].model.is_none());
    let at = list[0].unfinished;
    server.asked();
    for no_ranges in [false, true] {
        server.change(|state| state.no_ranges = no_ranges);
        let path = hub.pull(&location(), "main", &mut |_| true).expect("pulled");
        assert_eq!(std::fs::read(path).expect("a file"), content);
        let (_, range, _) = server.asked().pop().expect("asked");
        assert_eq!(range, Some(format!("bytes={at}-")), "only the rest is asked for");
        // the same with a hub that knows no parts
        hub.cache().remove(&location()).expect("removed");
        let blobs = cache.path().join("models--owner--name/blobs");
        std::fs::create_dir_all(&blobs).expect("created");
        let name = format!("{}.incomplete", hex(&Sha256::digest(&content)));
        std::fs::write(blobs.join(name), &content[..usize::try_from(at).expect("small")]).expect("written");
    }
}

#[test]
fn a_wrong_file_is_thrown_away() {
    let (state, content) = one_model();
    let server = TestHub::start(State { corrupt: true, ..state });
    let cache = tempfile::tempdir().expect("a directory");
    let hub = server.hub(cache.path(), None);
    let wrong = hub.pull(&location(), "main", &mut |_| true).expect_err("another hash");
    assert!(
        matches!(&wrong, HubError::Hash { expected, .. } if *expected == hex(&Sha256::digest(&content))),
        "{wrong}"
    );
    assert_eq!(hub.cache().find(&location()), None);
    server.change(|state| state.corrupt = false);
    let path = hub.pull(&location(), "main", &mut |_| true).expect("pulled");
    assert_eq!(std::fs::read(path).expect("a file"), content);
    // more than was promised
    hub.cache().remove(&location()).expect("removed");
    let name = format!("{}.incomplete", hex(&Sha256::digest(&content)));
    let blobs = cache.path().join("models--owner--name/blobs");
    std::fs::create_dir_all(&blobs).expect("created");
    std::fs::write(blobs.join(name), vec![0; 400_000]).expect("written");
    hub.pull(&location(), "main", &mut |_| true).expect("begun again");
}

#[test]
fn directories_come_whole_and_small_files_are_checked_too() {
    let names = ["config.json", "model.safetensors", "tokenizer.json", "notes.txt"];
    let files = names.map(|name| (name.to_owned(), name.repeat(3).into_bytes()));
    let server =
        TestHub::start(State { files: files.into(), large: vec!["model.safetensors".into()], ..State::default() });
    let cache = tempfile::tempdir().expect("a directory");
    let hub = server.hub(cache.path(), None);
    let path = hub.pull(&location(), "main", &mut |_| true).expect("pulled");
    assert!(path.is_dir() && !path.join("notes.txt").exists());
    assert_eq!(
        std::fs::read(path.join("tokenizer.json")).expect("a file"),
        b"tokenizer.jsontokenizer.jsontokenizer.json"
    );
    hub.cache().remove(&location()).expect("removed");
    server.change(|state| state.corrupt = true);
    assert!(matches!(hub.pull(&location(), "main", &mut |_| true), Err(HubError::Hash { .. })));
}

#[test]
fn a_token_is_shown_to_the_hub_and_to_nobody_else() {
    let (state, content) = one_model();
    let other = TestHub::start(State { files: state.files.clone(), ..State::default() });
    let server =
        TestHub::start(State { token: Some("secret".into()), elsewhere: Some(other.address.clone()), ..state });
    let cache = tempfile::tempdir().expect("a directory");
    let refused = server.hub(cache.path(), None).pull(&location(), "main", &mut |_| true).expect_err("no token");
    assert!(refused.to_string().contains("HF_TOKEN"), "{refused}");
    let path = server.hub(cache.path(), Some("secret")).pull(&location(), "main", &mut |_| true).expect("pulled");
    assert_eq!(std::fs::read(path).expect("a file"), content);
    let elsewhere = other.asked();
    assert!(
        !elsewhere.is_empty() && elsewhere.iter().all(|(_, _, authorization)| authorization.is_none()),
        "{elsewhere:?}"
    );
}

#[test]
fn a_hub_is_not_trusted() {
    let cache = tempfile::tempdir().expect("a directory");
    let (state, _) = one_model();
    let server = TestHub::start(state);
    let hub = server.hub(cache.path(), None);
    let missing = "owner/nothing".parse().expect("a location");
    assert!(matches!(hub.pull(&missing, "main", &mut |_| true), Err(HubError::Refused { status: 404, .. })));
    for name in ["../../evil.gguf", "/etc/evil.gguf", "a\\\\..\\\\b.gguf", "C:evil.gguf"] {
        server.change(|state| state.files = BTreeMap::from([(name.to_owned(), vec![1])]));
        let error = hub.pull(&location(), "main", &mut |_| true).expect_err("refused");
        assert!(matches!(error, HubError::Answer { .. }), "{name}: {error}");
    }
    server.change(|state| state.files = BTreeMap::from([("x.gguf".into(), vec![1]), ("y.gguf".into(), vec![2])]));
    assert!(matches!(hub.pull(&location(), "main", &mut |_| true), Err(HubError::Several { .. })));
    assert!(matches!(hub.pull(&location(), "../main", &mut |_| true), Err(HubError::Location(_))));
    assert!(Hub::new("ftp://x", None, false, Cache::at(cache.path())).is_err());
}
