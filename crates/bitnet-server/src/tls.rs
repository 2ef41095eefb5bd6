//! Encrypted connections: a certificate and its key.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{Error, InconsistentKeys, ServerConfig};

/// Why connections cannot be encrypted.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// This machine cannot.
    #[error(transparent)]
    Machine(#[from] bitnet_tls::Missing),
    /// A file that cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file that holds something else.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key of another certificate.
    #[error("{}: this is not the key of the first certificate in {}", key.display(), certificates.display())]
    Pair {
        /// The file with the key.
        key: PathBuf,
        /// The file with the certificate.
        certificates: PathBuf,
    },
}

/// A certificate and its key, to show to clients (TLS 1.2 and 1.3, HTTP/1.1).
#[derive(Clone, Debug)]
pub struct Tls(Arc<ServerConfig>);

impl Tls {
    /// Reads PEM files: `certificates` with that of this server first, then those between it and a root that clients know;
    /// `key` with its private key (PKCS #8, PKCS #1 or SEC 1, not encrypted).
    ///
    /// # Errors
    /// Files that cannot be read, hold something else or do not belong together; a processor without what TLS needs.
    pub fn open(certificates: &Path, key: &Path) -> Result<Self, TlsError> {
        let provider = bitnet_tls::provider()?;
        let wrong = |path: &Path, reason: String| TlsError::Content { path: path.to_owned(), reason };
        let chain = CertificateDer::pem_slice_iter(&read(certificates)?).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| wrong(certificates, format!("not a PEM file: {error}")))?;
        if chain.is_empty() {
            return Err(wrong(certificates, "there is no certificate in it (`BEGIN CERTIFICATE`)".into()));
        }
        let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| match error {
            PemError::NoItemsFound => {
                let reason =
                    "there is no private key in it (`BEGIN PRIVATE KEY`; an encrypted one must be decrypted before)";
                wrong(key, reason.into())
            }
            error => wrong(key, format!("not a PEM file: {error}")),
        })?;
        let private = provider.key_provider.load_private_key(private);
        let private = private.map_err(|error| wrong(key, format!("a private key that cannot be used: {error}")))?;
        let pair = CertifiedKey::new(chain, private);
        match pair.keys_match() {
            Ok(()) => {}
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                return Err(TlsError::Pair { key: key.to_owned(), certificates: certificates.to_owned() });
            }
            Err(error) => return Err(wrong(certificates, format!("a certificate that cannot be used: {error}"))),
        }
        let unfit = |error: Error| wrong(certificates, error.to_string());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let shown = Arc::new(SingleCertAndKey::from(pair));
        let mut config = config.map_err(unfit)?.with_no_client_auth().with_cert_resolver(shown);
        config.alpn_protocols = vec![b"http/1.1".to_vec()]; // what the server speaks
        Ok(Tls(config.into()))
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}
