//! Encrypted connections, asked by rustls as a client.

use crate::client::{Reply, Running, connect, engine, options, post, receive, request, wait_for};
use bitnet_server::{ServerOptions, Tls, TlsError};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned, SupportedProtocolVersion, version,
};

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn start(options: ServerOptions) -> Running {
    let tls = Tls::open(&file("certificate.pem"), &file("key.pem")).expect("a certificate and its key");
    Running::start(engine(2, 60), ServerOptions { tls: Some(tls), ..options })
}

/// A connection of a client that trusts the test's certificate and offers HTTP/2 too.
fn encrypted(address: SocketAddr, version: &'static SupportedProtocolVersion) -> Stream {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("certificate.pem")).expect("PEM")).expect("a root");
    let config = ClientConfig::builder_with_provider(bitnet_tls::provider().expect("cryptography"));
    let config = config.with_protocol_versions(&[version]).expect("a version").with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = "localhost".try_into().expect("a name");
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).expect("a client"), connect(address))
}

fn send(address: SocketAddr, method: &str, path: &str, body: &Value) -> Stream {
    let mut stream = encrypted(address, &version::TLS13);
    stream.write_all(&request(address, method, path, &[], body.to_string().as_bytes())).expect("written");
    stream
}

fn ask(address: SocketAddr, method: &str, path: &str, body: &Value) -> Reply {
    receive(send(address, method, path, body))
}

/// Open connections, in the server's own words.
fn connections(address: SocketAddr) -> f64 {
    let reply = ask(address, "GET", "/metrics", &Value::Null);
    let value = reply.text().lines().find_map(|line| line.strip_prefix("bitnet_http_connections ")?.parse().ok());
    value.expect("a number")
}

fn completion(more: usize, stream: bool) -> Value {
    json!({ "prompt": "Once upon a time", "max_tokens": more, "temperature": 0, "ignore_eos": true, "stream": stream })
}

#[test]
fn the_same_answers_as_without_and_streams() {
    let plain = Running::start(engine(2, 60), options());
    let server = start(options());
    let mut body = completion(40, false);
    let expected = post(plain.address, "/v1/completions", &body).good()["choices"].take();
    assert_eq!(ask(server.address, "POST", "/v1/completions", &body).good()["choices"], expected);
    body["stream"] = json!(true);
    let chunks = ask(server.address, "POST", "/v1/completions", &body).chunks();
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(expected[0]["text"], text);
}

#[test]
fn both_versions_and_the_protocol_that_is_spoken() {
    let server = start(options());
    for (offered, agreed) in [(&version::TLS12, ProtocolVersion::TLSv1_2), (&version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let mut stream = encrypted(server.address, offered);
        stream.write_all(&request(server.address, "GET", "/health", &[], b"")).expect("written");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("a whole answer, ended as TLS ends");
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        assert_eq!(stream.conn.protocol_version(), Some(agreed));
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
}

#[test]
fn plain_http_and_noise_are_turned_away_at_once() {
    let server = start(options());
    let start = Instant::now();
    for bytes in
        [&b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], b"\x16\x03\x01\x00\x02\x01\x00", b"\x00\xff\x00"]
    {
        let mut client = connect(server.address);
        client.write_all(bytes).expect("written");
        client.shutdown(std::net::Shutdown::Write).expect("closed");
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer); // a reset is as good as an end
        assert!(!answer.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&answer));
    }
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert_eq!(ask(server.address, "GET", "/health", &Value::Null).status, 200);
}

#[test]
fn those_who_say_nothing_hold_up_nobody_and_are_dropped() {
    let server = start(ServerOptions { max_connections: 4, ..options() });
    let mut idle: Vec<_> = (0..3).map(|_| connect(server.address)).collect();
    wait_for("they are accepted", || connections(server.address) == 4.0);
    let start = Instant::now();
    for client in &mut idle {
        let mut answer = [0; 16];
        assert_eq!(client.read(&mut answer).expect("an end"), 0);
    }
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    wait_for("they are counted", || connections(server.address) == 1.0);
}

#[test]
fn stopping_finishes_what_was_begun_and_waits_for_no_handshake() {
    let mut server = start(options());
    let mut silent = connect(server.address);
    let stream = send(server.address, "POST", "/v1/completions", &completion(200, true));
    wait_for("both are there", || connections(server.address) == 3.0);
    server.stop.blocking_send(()).expect("it listens");
    assert_eq!(receive(stream).chunks().last().expect("chunks")["choices"][0]["finish_reason"], "length");
    let start = Instant::now();
    server.join();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(silent.read(&mut [0; 16]).unwrap_or_default(), 0);
}

#[test]
fn files_that_do_not_serve_are_named() {
    let (certificate, key, other) = (file("certificate.pem"), file("key.pem"), file("other_key.pem"));
    let refused = |certificates: &Path, key: &Path, named: &Path, reason: &str| {
        let error = Tls::open(certificates, key).expect_err(reason).to_string();
        assert!(error.starts_with(&format!("{}: ", named.display())) && error.contains(reason), "{error}");
    };
    let missing = file("no_such_file.pem");
    refused(&missing, &key, &missing, "");
    refused(&certificate, &missing, &missing, "");
    refused(&key, &key, &key, "no certificate in it");
    refused(&certificate, &certificate, &certificate, "no private key in it");
    let error = Tls::open(&certificate, &other).expect_err("another's key");
    assert!(matches!(&error, TlsError::Pair { .. }) && error.to_string().contains("other_key.pem"), "{error}");

    let folder = tempfile::tempdir().expect("a folder");
    let written = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let cut = written("cut.pem", &std::fs::read_to_string(&certificate).expect("text")[..300]);
    refused(&cut, &key, &cut, "not a PEM file");
    let noise = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let noise = written("noise.pem", noise);
    refused(&noise, &key, &noise, "cannot be used");
    let noise = written("noise_key.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    refused(&certificate, &noise, &noise, "cannot be used");
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let encrypted = written("encrypted.pem", encrypted);
    refused(&certificate, &encrypted, &encrypted, "encrypted one must be decrypted");
}
