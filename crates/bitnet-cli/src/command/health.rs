//! `bitnet health`: the probe of images that have no other program.

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Ask a running server whether it takes requests: exit status 0 or 1
///
/// BITNET_SERVE_PORT and the like count here too.
#[derive(Args, Debug)]
pub(crate) struct HealthArgs {
    /// Address of the server
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// Its port
    #[arg(long, value_name = "N", default_value_t = 8080)]
    port: u16,
    /// PEM file that begins with the server's certificate, as given to `serve`: HTTPS instead of HTTP, with this certificate only
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
}

/// For every step of the way.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn run(args: &HealthArgs) -> anyhow::Result<()> {
    let HealthArgs { host, port, tls_cert } = args;
    let tls = tls_cert.as_deref().map(client).transpose()?;
    // As text: an error of this kind from a pipe would mean that the reader of our output has seen enough.
    let answer = ask(host, *port, tls).map_err(|error| anyhow!("no answer from {host}:{port}: {error:#}"))?;
    let status = answer.lines().next().unwrap_or_default();
    ensure!(
        status.starts_with("HTTP/1.1 200"),
        "{host}:{port} is not ready: {}",
        answer.lines().last().unwrap_or(status)
    );
    Ok(())
}

fn ask(host: &str, port: u16, tls: Option<ClientConfig>) -> anyhow::Result<String> {
    let address = (host, port).to_socket_addrs()?.next().context("the name has no address")?;
    let mut stream = TcpStream::connect_timeout(&reachable(address), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    match tls {
        None => exchange(&mut stream, address),
        Some(config) => {
            let connection = ClientConnection::new(Arc::new(config), ServerName::from(address.ip()))?;
            exchange(&mut StreamOwned::new(connection, stream), address)
        }
    }
}

/// A server that listens to all addresses is asked at this machine's own.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn exchange(stream: &mut (impl Read + Write), address: SocketAddr) -> anyhow::Result<String> {
    write!(stream, "GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(1 << 16).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Encrypted connections to the server that shows the first certificate in `path`.
fn client(path: &Path) -> anyhow::Result<ClientConfig> {
    let certificate =
        CertificateDer::from_pem_file(path).with_context(|| format!("no certificate in {}", path.display()))?;
    let provider = bitnet_tls::provider()?;
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let shown = Arc::new(Shown { certificate, provider });
    Ok(config.dangerous().with_custom_certificate_verifier(shown).with_no_client_auth())
}

/// Trusts one certificate, whatever names and dates stand in it: a probe asks by address, and whose certificate it is, is known.
#[derive(Debug)]
struct Shown {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Shown {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::General("the server shows another certificate than that of the file".into()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
