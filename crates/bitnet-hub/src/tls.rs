//! Encrypted connections, without a C compiler at build time: rustls with the cryptography of graviola, which is Rust and
//! assembler that was proved correct. Roots are the system's (`SSL_CERT_FILE` names others).

use crate::HubError;
use ureq::tls::TlsConfig;

/// Says why `https` cannot be spoken here.
fn missing(url: &str, feature: &str) -> HubError {
    let reason = format!(
        "https needs {feature}, which this machine lacks: download with another program, and give --model PATH"
    );
    HubError::Connection { url: url.to_owned(), reason }
}

/// How to speak to `url`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) fn config(url: &str) -> Result<TlsConfig, HubError> {
    if url.starts_with("https:")
        && let Some(feature) = lacking()
    {
        return Err(missing(url, &format!("the processor's {feature}")));
    }
    let config = TlsConfig::builder().root_certs(ureq::tls::RootCerts::PlatformVerifier);
    Ok(config.unversioned_rustls_crypto_provider(rustls_graviola::default_provider().into()).build())
}

/// How to speak to `url`.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn config(url: &str) -> Result<TlsConfig, HubError> {
    match url.starts_with("https:") {
        true => Err(missing(url, "an x86-64 or 64-bit ARM processor")),
        false => Ok(TlsConfig::default()),
    }
}

/// What graviola would miss, and panic about.
#[cfg(target_arch = "x86_64")]
fn lacking() -> Option<&'static str> {
    let features = [
        ("aes", is_x86_feature_detected!("aes")),
        ("ssse3", is_x86_feature_detected!("ssse3")),
        ("pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("adx", is_x86_feature_detected!("adx")),
        ("bmi1", is_x86_feature_detected!("bmi1")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
    ];
    features.iter().find(|(_, there)| !there).map(|(name, _)| *name)
}

/// What graviola would miss, and panic about.
#[cfg(target_arch = "aarch64")]
fn lacking() -> Option<&'static str> {
    use std::arch::is_aarch64_feature_detected as detected;
    let features = [("aes", detected!("aes")), ("sha2", detected!("sha2")), ("pmull", detected!("pmull"))];
    features.iter().find(|(_, there)| !there).map(|(name, _)| *name)
}
