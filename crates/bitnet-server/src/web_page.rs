//! `GET /`: a page to talk to the model with, from the program itself. It asks this server and nobody else.

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};

/// What browsers let the page do: run its own scripts, ask this server. `require-trusted-types-for` makes every way by which
/// text could become markup an error.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// Path, type and content.
type File = (&'static str, &'static str, &'static str);

/// A file of `web/`.
macro_rules! file {
    ($kind:expr, $name:literal) => {
        (concat!("/web/", $name), $kind, include_str!(concat!("../web/", $name)))
    };
}

const FILES: [File; 13] = [
    ("/", HTML, include_str!("../web/index.html")),
    file!(PICTURE, "icon.svg"),
    file!(STYLE, "style.css"),
    file!(SCRIPT, "theme.js"),
    file!(SCRIPT, "app.js"),
    file!(SCRIPT, "api.js"),
    file!(SCRIPT, "conversation.js"),
    file!(SCRIPT, "element.js"),
    file!(SCRIPT, "highlight.js"),
    file!(SCRIPT, "markdown.js"),
    file!(SCRIPT, "settings.js"),
    file!(SCRIPT, "sidebar.js"),
    file!(SCRIPT, "transcript.js"),
];

/// True for the files of the page, which hold no secret and need no key.
pub(crate) fn has(path: &str) -> bool {
    FILES.iter().any(|&(own, ..)| own == path)
}

/// The routes of its files.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        let tag = tag(text);
        router.route(path, get(async move |headers: HeaderMap| respond(kind, text, &tag, &headers)))
    })
}

/// Names a content.
fn tag(text: &str) -> String {
    let digest = Sha256::digest(text);
    let hex: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

/// The file, or the news that the browser has it already.
fn respond(kind: &'static str, text: &'static str, tag: &str, headers: &HeaderMap) -> Response {
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let known = known.flat_map(|list| list.split(',')).map(str::trim);
    let fresh = known.map(|one| one.strip_prefix("W/").unwrap_or(one)).any(|one| one == tag || one == "*");
    let mut response = match fresh {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response(),
    };
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    for (name, value) in [
        (header::CACHE_CONTROL, "no-cache"), // kept, but asked for again: a new program has a new page
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
