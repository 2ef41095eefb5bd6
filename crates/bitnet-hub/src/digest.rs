//! Hashes by which hubs name files.

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// What a file must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// SHA-256 of the content: large files.
    Sha256(String),
    /// Name of git's object: small files.
    GitBlob(String),
}

impl Expected {
    /// Takes hexadecimal digits of the right number only; the name is also a file's name.
    pub(crate) fn sha256(hex: &str) -> Option<Self> {
        is_hex(hex, 64).then(|| Expected::Sha256(hex.to_ascii_lowercase()))
    }

    pub(crate) fn git_blob(hex: &str) -> Option<Self> {
        is_hex(hex, 40).then(|| Expected::GitBlob(hex.to_ascii_lowercase()))
    }

    pub(crate) fn hex(&self) -> &str {
        match self {
            Expected::Sha256(hex) | Expected::GitBlob(hex) => hex,
        }
    }

    /// Begins to hash a file of `size` bytes.
    pub(crate) fn begin(&self, size: u64) -> Hasher {
        match self {
            Expected::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Expected::GitBlob(_) => Hasher::GitBlob(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }
}

/// True for so many hexadecimal digits.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A hash in the making.
pub(crate) enum Hasher {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::GitBlob(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn hex(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Hasher::Sha256(hasher) => hex(&hasher.finalize()),
            Hasher::GitBlob(hasher) => hex(&hasher.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `sha256sum` and `git hash-object` say.
    #[test]
    fn known_hashes() {
        let hash = |expected: Expected, text: &[u8]| {
            let mut hasher = expected.begin(text.len() as u64);
            text.chunks(2).for_each(|part| hasher.update(part));
            hasher.hex() == expected.hex()
        };
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(hash(Expected::sha256(sha256).expect("hex"), b"abc"));
        assert!(hash(Expected::git_blob("ce013625030ba8dba906f756967f9e9ca394464a").expect("hex"), b"hello\n"));
        assert!(!hash(Expected::git_blob("ce013625030ba8dba906f756967f9e9ca394464a").expect("hex"), b"hello"));
        assert!(Expected::sha256("../../x").is_none() && Expected::git_blob(sha256).is_none());
    }
}
