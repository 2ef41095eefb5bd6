//! Names of models on a hub.

use crate::HubError;
use std::fmt;
use std::str::FromStr;

/// Short names of published models.
const ALIASES: [(&str, &str); 1] = [("bitnet-2b-4t", "microsoft/bitnet-b1.58-2B-4T-gguf/ggml-model-i2_s.gguf")];

/// `owner/name`, or `owner/name/file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    repository: String,
    file: Option<String>,
}

impl Location {
    /// `owner/name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The one file that is meant.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// Short names that stand for a location.
    pub fn aliases() -> &'static [(&'static str, &'static str)] {
        &ALIASES
    }
}

impl FromStr for Location {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let wrong = || HubError::Location(text.to_owned());
        let long = ALIASES.iter().find(|(short, _)| *short == text).map_or(text, |(_, long)| long);
        let mut parts = long.splitn(3, '/');
        let (owner, name) = (parts.next().ok_or_else(wrong)?, parts.next().ok_or_else(wrong)?);
        let file = parts.next();
        if !is_name(owner) || !is_name(name) || file.is_some_and(|file| !is_relative(file)) {
            return Err(wrong());
        }
        Ok(Location { repository: format!("{owner}/{name}"), file: file.map(String::from) })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))
    }
}

/// Letters, digits, `-`, `_` and `.`, as hubs allow, and nothing that means another folder or ends a name in the cache.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=96).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.') && !name.contains("--")
}

/// A path that stays below where it is put, on every system. Hubs send such names, and anybody may be the hub.
pub(crate) fn is_relative(path: &str) -> bool {
    let safe = |part: &str| {
        let plain = |c: char| !c.is_control() && !matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
        !part.is_empty() && part != "." && part != ".." && part.chars().all(plain)
    };
    path.len() <= 512 && path.split('/').all(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let location: Location = "a-b/c.d_1/sub/x.gguf".parse().expect("a location");
        assert_eq!((location.repository(), location.file()), ("a-b/c.d_1", Some("sub/x.gguf")));
        assert_eq!(location.to_string(), "a-b/c.d_1/sub/x.gguf");
        let alias: Location = "bitnet-2b-4t".parse().expect("an alias");
        assert_eq!(alias.repository(), "microsoft/bitnet-b1.58-2B-4T-gguf");
        for wrong in [
            "", "a", "a/", "/a", "a/b/", "a/..", "../b", "a/b/../c", "a/b//c", "a b/c", "a/b--c", "a/b/c\\d",
            "a/b/c:d", "/tmp/x",
        ] {
            assert!(wrong.parse::<Location>().is_err(), "{wrong}");
        }
    }
}
