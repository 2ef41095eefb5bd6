//! Encrypted connections. Roots are the system's (`SSL_CERT_FILE` names others).

use crate::HubError;
use ureq::tls::{RootCerts, TlsConfig};

/// How to speak to `url`.
pub(crate) fn config(url: &str) -> Result<TlsConfig, HubError> {
    match bitnet_tls::provider() {
        Ok(provider) => {
            let config = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier);
            Ok(config.unversioned_rustls_crypto_provider(provider).build())
        }
        Err(missing) if url.starts_with("https:") => {
            let reason = format!("{missing}: download with another program, and give --model PATH");
            Err(HubError::Connection { url: url.to_owned(), reason })
        }
        Err(_) => Ok(TlsConfig::default()),
    }
}
