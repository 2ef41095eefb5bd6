//! `GET /metrics`: what the scheduler and the routes have done, in the text format of Prometheus.

use crate::app::App;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use bitnet_inference::Histogram;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
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

    let gauges: [(&str, &str, usize); 7] = [
        ("requests_waiting", "Requests in the queue.", m.waiting.load(Relaxed)),
        ("requests_active", "Requests that steps work on.", m.active.load(Relaxed)),
        ("kv_pages", "KV pages in all.", m.pages),
        ("kv_pages_held", "KV pages held by requests.", m.pages_held.load(Relaxed)),
        ("kv_pages_cached", "KV pages with reusable prefixes.", m.pages_cached.load(Relaxed)),
        ("http_connections", "Open connections.", app.http.connections.load(Relaxed)),
        ("http_requests_active", "Requests not answered yet.", app.http.active.load(Relaxed)),
    ];
    let counters: [(&str, &str, &AtomicU64); 10] = [
        ("requests_finished_total", "Requests answered to the end.", &m.finished),
        ("requests_cancelled_total", "Requests whose client went away.", &m.cancelled),
        ("requests_failed_total", "Requests that ended with an error.", &m.failed),
        ("requests_refused_total", "Requests refused: queue full.", &m.refused),
        ("requests_preempted_total", "Requests sent back to the queue.", &m.preempted),
        ("prompt_tokens_total", "Prompt tokens.", &m.prompt_tokens),
        ("cached_tokens_total", "Prompt tokens found in the cache.", &m.cached_tokens),
        ("new_tokens_total", "Tokens generated.", &m.new_tokens),
        ("guessed_tokens_total", "Tokens guessed from the text and computed in advance.", &m.guessed_tokens),
        ("right_tokens_total", "Guessed tokens that were right.", &m.right_tokens),
    ];
    let histograms: [(&str, &str, &Histogram); 4] = [
        ("batch_size", "Sequences per step.", &m.batch_size),
        ("step_seconds", "Seconds per step.", &m.step_seconds),
        ("first_token_seconds", "Seconds from arrival to first token.", &m.first_token_seconds),
        ("token_gap_seconds", "Seconds between two tokens of a request.", &m.token_gap_seconds),
    ];
    for (name, help, value) in gauges {
        out.one(&format!("bitnet_{name}"), "gauge", help, value);
    }
    for (name, help, value) in counters {
        out.one(&format!("bitnet_{name}"), "counter", help, value.load(Relaxed));
    }
    for (name, help, histogram) in histograms {
        out.histogram(&format!("bitnet_{name}"), help, histogram);
    }
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
