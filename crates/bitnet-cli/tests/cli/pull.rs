//! `bitnet pull` and `bitnet models`, with the embedded model on a hub of their own.

use crate::program::{Outcome, bitnet, json, output};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

const NAME: &str = "our/stories";
const COMMIT: &str = "00000000000000000000000000000000000000aa";

/// SHA-256 of a file, by the program's own `verify --json`, which other tests hold to known hashes.
fn hash(model: &Path) -> String {
    let verified = output(["verify", "--json", "--model", model.to_str().expect("UTF-8")]).succeeds();
    json(&verified)["files"][0]["sha256"].as_str().expect("a hash").to_owned()
}

/// A hub with one repository. It answers until the process ends.
fn hub(model: &Path) -> String {
    let content = std::fs::read(model).expect("a model");
    let (size, hash) = (content.len(), hash(model));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
            let mut line = String::new();
            let _ = reader.read_line(&mut line);
            let head: Vec<String> = reader.lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            assert!(head.len() > 1, "no head");
            let (status, body) = match line.split(' ').nth(1).unwrap_or_default() {
                "/api/models/our/stories/revision/main?blobs=true" => {
                    let lfs = format!(r#"{{"sha256":"{hash}","size":{size}}}"#);
                    let file = format!(r#"{{"rfilename":"stories.gguf","size":{size},"lfs":{lfs}}}"#);
                    ("200 OK", format!(r#"{{"sha":"{COMMIT}","siblings":[{file}]}}"#).into_bytes())
                }
                path if path == format!("/our/stories/resolve/{COMMIT}/stories.gguf") => ("200 OK", content.clone()),
                _ => ("404 Not Found", Vec::new()),
            };
            let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    address
}

#[test]
fn a_model_is_pulled_used_by_name_listed_and_removed() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/default.gguf");
    let address = hub(&model);
    let home = tempfile::tempdir().expect("a directory");
    let with = |args: &[&str]| -> Output {
        let mut command = bitnet(args);
        command.env("HF_HOME", home.path()).env("HF_ENDPOINT", &address).env_remove("HF_HUB_CACHE");
        command.output().expect("the program starts")
    };
    assert_eq!(with(&["models"]).succeeds(), "");
    let before = with(&["run", "Once", "-n", "4", "--model", NAME]).fails(1);
    assert!(before.contains("bitnet pull owner/name"), "{before}");
    let path = with(&["pull", NAME]).succeeds();
    assert_eq!(std::fs::read(path.trim_end()).expect("a file"), std::fs::read(&model).expect("a model"));
    let (own, pulled) = (
        output(["run", "Once upon a time", "-n", "9", "--greedy"]),
        with(&["run", "Once upon a time", "-n", "9", "--greedy", "-m", NAME]),
    );
    assert_eq!(pulled.succeeds(), own.succeeds());
    let list = json(&with(&["models", "list", "--json"]).succeeds());
    assert_eq!((list.as_array().map(Vec::len), list[0]["repository"].as_str()), (Some(1), Some(NAME)));
    assert_eq!(list[0]["model"].as_str(), Some(path.trim_end()));
    assert!(with(&["models"]).succeeds().starts_with("our/stories  "));
    let mut offline = bitnet(["pull", NAME]);
    offline.env("HF_HOME", home.path()).env("HF_HUB_OFFLINE", "1").env_remove("HF_HUB_CACHE");
    assert_eq!(offline.output().expect("the program starts").succeeds(), path);
    with(&["models", "remove", NAME]).succeeds();
    assert!(with(&["models", "rm", NAME]).fails(1).contains("is not in"));
    assert!(with(&["models", "remove", "our/stories/stories.gguf"]).fails(2).contains("as a whole"));
    assert!(with(&["pull", "our/novels"]).fails(1).contains("404"));
    assert!(with(&["pull", "../etc"]).fails(2).contains("owner/name"));
}
