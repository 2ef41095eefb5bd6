//! Who may ask, and how often: API keys, and pages in browsers.
//!
//! Browsers let any page send requests to this machine; they only keep it from reading the answers. So a request that a
//! page of another origin sent is refused unless that origin is allowed. A page can also give a name of its own this
//! machine's address; so without keys a server that listens to this machine only answers to `localhost` and to addresses.

use crate::allowance::Allowance;
use crate::api_error::ApiError;
use crate::app::App;
use crate::web_page;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::sync::Arc;

/// Where a key may stand instead of `Authorization: Bearer`.
const API_KEY: &str = "x-api-key";

/// Paths that need no key, beside the web page, which asks for one: probes know none.
const OPEN: [&str; 2] = ["/health", "/ready"];

/// Decides who may ask.
pub(crate) struct Gate {
    /// SHA-256 of the keys: equal in length, so that comparing tells nothing about them.
    keys: Vec<[u8; 32]>,
    origins: Vec<String>,
    /// The server listens to this machine only.
    loopback: bool,
    /// One per key, without keys one for all; none without a limit.
    allowances: Vec<Allowance>,
}

impl Gate {
    pub(crate) fn new(keys: &[String], origins: &[String], rate_limit: Option<u32>, loopback: bool) -> Self {
        let allowances = |limit: u32| (0..keys.len().max(1)).map(|_| Allowance::new(limit)).collect();
        Gate {
            allowances: rate_limit.map(allowances).unwrap_or_default(),
            keys: keys.iter().map(|key| digest(key.as_bytes())).collect(),
            origins: origins.iter().map(|origin| origin.strip_suffix('/').unwrap_or(origin).to_owned()).collect(),
            loopback,
        }
    }

    fn admit(&self, request: &Request) -> Result<(), ApiError> {
        let headers = request.headers();
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        self.judge(request.uri().path(), headers, host)?;
        if request.method() == Method::POST { self.spend(headers) } else { Ok(()) }
    }

    fn judge(&self, path: &str, headers: &HeaderMap, host: Option<&str>) -> Result<(), ApiError> {
        let foreign = |what: String| Err(ApiError::new(StatusCode::FORBIDDEN, Some("foreign_origin"), what));
        if let Some(origin) = headers.get(header::ORIGIN) {
            let origin = origin.to_str().unwrap_or_default();
            let same = origin.split_once("://").is_some_and(|(_, name)| Some(name) == host);
            if !same && !self.origins.iter().any(|allowed| allowed == "*" || allowed == origin) {
                return foreign(format!("pages of {origin:?} may not ask here; --cors-origin allows them"));
            }
        }
        if self.loopback && self.keys.is_empty() && !host.is_none_or(is_here) {
            return foreign("this server is asked by the name of another; use localhost, or set an API key".into());
        }
        if OPEN.contains(&path) || web_page::has(path) || self.keys.is_empty() || self.nth(key(headers)).is_some() {
            return Ok(());
        }
        let message = "no valid API key: send one as `Authorization: Bearer KEY`";
        Err(ApiError::new(StatusCode::UNAUTHORIZED, Some("invalid_api_key"), message))
    }

    /// Which of the keys this is. Looks at all keys and all bytes, whatever they are.
    fn nth(&self, key: &[u8]) -> Option<usize> {
        let shown = digest(key);
        let differs = |known: &[u8; 32]| known.iter().zip(&shown).fold(0, |differs, (a, b)| differs | (a ^ b));
        self.keys
            .iter()
            .enumerate()
            .fold(None, |found, (nth, known)| if differs(known) == 0 { Some(nth) } else { found })
    }

    /// Counts a request that costs work.
    fn spend(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let whose = match self.nth(key(headers)) {
            Some(nth) => nth,
            None if self.keys.is_empty() => 0, // one allowance for all
            None => return Ok(()),             // a path that is open to everybody costs none
        };
        match self.allowances.get(whose).map_or(Ok(()), Allowance::take) {
            Ok(()) => Ok(()),
            Err(wait) => Err(ApiError::too_many(wait)),
        }
    }
}

fn key(headers: &HeaderMap) -> &[u8] {
    let bearer = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let scheme = |value: &[u8]| value.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
    match bearer.filter(|value| scheme(value)) {
        Some(value) => value[7..].trim_ascii(),
        None => headers.get(API_KEY).map(|value| value.as_bytes()).unwrap_or_default(),
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// True for `localhost` and addresses, with or without a port.
fn is_here(host: &str) -> bool {
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(address, _)| address);
    let name = bracketed.unwrap_or_else(|| host.rsplit_once(':').map_or(host, |(name, _)| name));
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// Lets a request through, or not.
pub(crate) async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match app.gate.admit(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|&(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect()
    }

    #[test]
    fn keys_in_both_places() {
        let gate = Gate::new(&["one".into(), "two".into()], &[], None, true);
        let judge = |list: &[_]| gate.judge("/v1/models", &headers(list), Some("a:1")).is_ok();
        assert!(judge(&[("authorization", "Bearer one")]) && judge(&[("authorization", "bearer two")]));
        assert!(judge(&[("x-api-key", "two")]));
        for wrong in ["Bearer thr", "Bearer ", "Basic one", "one", "Bearer one two"] {
            assert!(!judge(&[("authorization", wrong)]), "{wrong}");
        }
        assert!(!judge(&[]));
        assert!(gate.judge("/health", &headers(&[]), None).is_ok());
    }

    #[test]
    fn every_key_has_an_allowance_of_its_own() {
        let gate = Gate::new(&["one".into(), "two".into()], &[], Some(2), true);
        let spend = |key| gate.spend(&headers(&[("x-api-key", key)])).is_ok();
        assert_eq!([spend("one"), spend("one"), spend("one"), spend("two")], [true, true, false, true]);
        assert!(gate.spend(&headers(&[])).is_ok(), "whoever has no key spends nobody's");
        let open = Gate::new(&[], &[], Some(1), true);
        assert_eq!([open.spend(&headers(&[])).is_ok(), open.spend(&headers(&[])).is_ok()], [true, false]);
    }

    #[test]
    fn pages_of_others_are_refused() {
        let gate = Gate::new(&[], &["https://good.example/".into()], None, true);
        let judge = |origin, host| gate.judge("/v1/models", &headers(&[("origin", origin)]), Some(host)).is_ok();
        assert!(judge("http://localhost:8080", "localhost:8080") && judge("https://good.example", "127.0.0.1:8080"));
        assert!(!judge("https://evil.example", "127.0.0.1:8080") && !judge("null", "127.0.0.1:8080"));
        // a name of theirs for our address
        assert!(!judge("http://evil.example:8080", "evil.example:8080"));
        assert!(Gate::new(&[], &[], None, false).judge("/", &headers(&[]), Some("server.example")).is_ok());
    }

    #[test]
    fn hosts() {
        for here in ["localhost", "LocalHost:80", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:8080"] {
            assert!(is_here(here), "{here}");
        }
        for elsewhere in ["localhost.evil.example", "evil.example:80", "", "127.0.0.1.evil.example"] {
            assert!(!is_here(elsewhere), "{elsewhere}");
        }
    }
}
