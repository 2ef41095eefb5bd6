//! `GET /metrics`: what the scheduler and the routes have done, in the text format of Prometheus.

use crate::app::App;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use bitnet_inference::Histogram;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// What the routes have done.
#[derive(Debug, Default)]
pub(crate) struct HttpMetrics {
    /// Requests whose response has not begun.
    pub(crate) active: AtomicUsize,
    /// Open connections.
    pub(crate) connections: AtomicUsize,
    /// Responses by route and status.
    responses: Mutex<BTreeMap<(String, u16), u64>>,
}

impl HttpMetrics {
    /// Counts a response. `route` is a pattern, of which there are few.
    pub(crate) fn count(&self, route: String, status: u16) {
        *self.responses.lock().unwrap_or_else(PoisonError::into_inner).entry((route, status)).or_default() += 1;
    }
}

pub(crate) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text(&app))
}

fn text(app: &App) -> String {
    let m = app.scheduler.metrics();
    let mut out = Exposition(String::with_capacity(8192));
    out.head("bitnet_build_info", "gauge", "Version and model.");
    let version = env!("CARGO_PKG_VERSION");
    let model = app.options.model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    out.line("bitnet_build_info", &format!("{{version=\"{version}\",model=\"{model}\"}}"), 1);

    out.one("bitnet_requests_waiting", "gauge", "Requests in the queue.", m.waiting.load(Relaxed));
    out.one("bitnet_requests_active", "gauge", "Requests that steps work on.", m.active.load(Relaxed));
    out.one("bitnet_kv_pages", "gauge", "KV pages in all.", m.pages);
    out.one("bitnet_kv_pages_held", "gauge", "KV pages held by requests.", m.pages_held.load(Relaxed));
    out.one("bitnet_kv_pages_cached", "gauge", "KV pages with reusable prefixes.", m.pages_cached.load(Relaxed));
    out.one("bitnet_requests_finished_total", "counter", "Requests answered to the end.", m.finished.load(Relaxed));
    out.one(
        "bitnet_requests_cancelled_total",
        "counter",
        "Requests whose client went away.",
        m.cancelled.load(Relaxed),
    );
    out.one("bitnet_requests_failed_total", "counter", "Requests that ended with an error.", m.failed.load(Relaxed));
    out.one("bitnet_requests_refused_total", "counter", "Requests refused: queue full.", m.refused.load(Relaxed));
    out.one(
        "bitnet_requests_preempted_total",
        "counter",
        "Requests sent back to the queue.",
        m.preempted.load(Relaxed),
    );
    out.one("bitnet_prompt_tokens_total", "counter", "Prompt tokens.", m.prompt_tokens.load(Relaxed));
    out.one(
        "bitnet_cached_tokens_total",
        "counter",
        "Prompt tokens found in the cache.",
        m.cached_tokens.load(Relaxed),
    );
    out.one("bitnet_new_tokens_total", "counter", "Tokens generated.", m.new_tokens.load(Relaxed));
    out.histogram("bitnet_batch_size", "Sequences per step.", &m.batch_size);
    out.histogram("bitnet_step_seconds", "Seconds per step.", &m.step_seconds);
    out.histogram("bitnet_first_token_seconds", "Seconds from arrival to first token.", &m.first_token_seconds);
    out.histogram("bitnet_token_gap_seconds", "Seconds between two tokens of a request.", &m.token_gap_seconds);

    out.one("bitnet_http_connections", "gauge", "Open connections.", app.http.connections.load(Relaxed));
    out.one("bitnet_http_requests_active", "gauge", "Requests not answered yet.", app.http.active.load(Relaxed));
    let name = "bitnet_http_responses_total";
    out.head(name, "counter", "Responses by route and status.");
    for ((route, status), count) in &*app.http.responses.lock().unwrap_or_else(PoisonError::into_inner) {
        out.line(name, &format!("{{route=\"{route}\",status=\"{status}\"}}"), count);
    }
    out.0
}

/// Lines of the text format.
struct Exposition(String);

impl Exposition {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n"); // a String takes everything
    }

    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.line(name, "", value);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let cumulative = histogram.cumulative();
        for &(bound, count) in &cumulative {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".into() };
            self.line(&format!("{name}_bucket"), &format!("{{le=\"{bound}\"}}"), count);
        }
        self.line(&format!("{name}_sum"), "", histogram.sum());
        self.line(&format!("{name}_count"), "", cumulative.last().map_or(0, |&(_, count)| count));
    }
}
