//! `bitnet health`: the probe of images that have no other program.

use anyhow::{Context, ensure};
use clap::Args;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Ask a running server whether it takes requests: exit status 0 or 1
#[derive(Args, Debug)]
pub(crate) struct HealthArgs {
    /// Address of the server
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// Its port
    #[arg(long, value_name = "N", default_value_t = 8080)]
    port: u16,
}

/// For every step of the way.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn run(args: &HealthArgs) -> anyhow::Result<()> {
    let (host, port) = (&args.host, args.port);
    let answer = ask(host, port).with_context(|| format!("no answer from {host}:{port}"))?;
    let status = answer.lines().next().unwrap_or_default();
    ensure!(
        status.starts_with("HTTP/1.1 200"),
        "{host}:{port} is not ready: {}",
        answer.lines().last().unwrap_or(status)
    );
    Ok(())
}

fn ask(host: &str, port: u16) -> anyhow::Result<String> {
    let address = (host, port).to_socket_addrs()?.next().context("the name has no address")?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(1 << 16).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
