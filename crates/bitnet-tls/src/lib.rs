//! Cryptography for encrypted connections, without a C compiler at build time: that of graviola, which is Rust and assembler
//! that was proved correct, for rustls.

#![forbid(unsafe_code)]

use rustls::crypto::CryptoProvider;
use std::sync::Arc;

/// This machine cannot speak TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("TLS needs {0}, which this machine lacks")]
pub struct Missing(pub &'static str);

/// What connections are encrypted with.
///
/// # Errors
/// The processor has not what it needs.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub fn provider() -> Result<Arc<CryptoProvider>, Missing> {
    match lacking() {
        Some(feature) => Err(Missing(feature)),
        None => Ok(rustls_graviola::default_provider().into()),
    }
}

/// What connections are encrypted with.
///
/// # Errors
/// Always: there is none for this processor.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn provider() -> Result<Arc<CryptoProvider>, Missing> {
    Err(Missing("an x86-64 or 64-bit ARM processor"))
}

/// What graviola would miss, and panic about.
#[cfg(target_arch = "x86_64")]
fn lacking() -> Option<&'static str> {
    let features = [
        ("the processor's aes", is_x86_feature_detected!("aes")),
        ("the processor's ssse3", is_x86_feature_detected!("ssse3")),
        ("the processor's pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
        ("the processor's avx", is_x86_feature_detected!("avx")),
        ("the processor's avx2", is_x86_feature_detected!("avx2")),
        ("the processor's adx", is_x86_feature_detected!("adx")),
        ("the processor's bmi1", is_x86_feature_detected!("bmi1")),
        ("the processor's bmi2", is_x86_feature_detected!("bmi2")),
    ];
    features.iter().find(|(_, there)| !there).map(|(name, _)| *name)
}

/// What graviola would miss, and panic about.
#[cfg(target_arch = "aarch64")]
fn lacking() -> Option<&'static str> {
    use std::arch::is_aarch64_feature_detected as detected;
    let features = [
        ("the processor's aes", detected!("aes")),
        ("the processor's sha2", detected!("sha2")),
        ("the processor's pmull", detected!("pmull")),
    ];
    features.iter().find(|(_, there)| !there).map(|(name, _)| *name)
}
