//! Request ids, the log line of a request, and its count. What people write never comes into the log.

use crate::app::App;
use crate::telemetry::Trace;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// The header with the id, in requests that bring one and in all responses.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// Names a request in the log, and in traces if there are any.
#[derive(Clone, Debug)]
pub(crate) struct RequestId {
    value: HeaderValue,
    pub(crate) trace: Trace,
}

impl RequestId {
    /// A new one.
    pub(crate) fn new() -> Self {
        RequestId { value: new_value(), trace: Trace::none() }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.value.to_str().unwrap_or_default())
    }
}

fn new_value() -> HeaderValue {
    HeaderValue::try_from(format!("{:016x}", random())).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

/// 64 bits that nobody can foresee.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(Instant::now())
}

/// A request that is not answered yet; also over when its client goes away.
struct Active<'a>(&'a App);

impl<'a> Active<'a> {
    fn new(app: &'a App) -> Self {
        app.http.active.fetch_add(1, Relaxed);
        Active(app)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.http.active.fetch_sub(1, Relaxed);
    }
}

/// Gives the request an id, counts it, and logs it when its response begins.
pub(crate) async fn observe(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let plain = |id: &HeaderValue| id.len() <= 64 && id.as_bytes().iter().all(u8::is_ascii_graphic);
    let value = request.headers().get(REQUEST_ID).cloned().filter(plain).unwrap_or_else(new_value);
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let trace = Trace::begin(&app.options, &value, &method, &route, request.headers());
    let id = RequestId { value, trace };
    request.extensions_mut().insert(id.clone());

    let active = Active::new(&app);
    let mut response = next.run(request).await;
    drop(active);

    let status = response.status().as_u16();
    let seconds = begin.elapsed().as_secs_f64();
    tracing::info!(%id, %method, %route, status, seconds, "request");
    app.http.count(route, status);
    id.trace.responded(status);
    response.headers_mut().insert(REQUEST_ID, id.value);
    response
}

/// Answers are not for caches.
pub(crate) async fn no_store(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
