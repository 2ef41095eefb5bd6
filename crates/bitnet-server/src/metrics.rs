//! `GET /metrics`: what the schedulers and the routes have done, in the text format of Prometheus.

use crate::app::App;
use crate::model::Model;
use crate::models::Seen;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use bitnet_inference::{Histogram, Metrics};
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

/// Series of models carry the label `model` when there are several. Those of closed models are not there, and their counters
/// begin again when they are opened.
fn text(app: &App) -> String {
    app.models.look(|all| series(app, all))
}

/// Name, help, and where the value of a model is.
type Gauge = (&'static str, &'static str, fn(&Metrics) -> usize);
type Counter = (&'static str, &'static str, fn(&Metrics) -> &AtomicU64);
type Distribution = (&'static str, &'static str, fn(&Metrics) -> &Histogram);

fn series(app: &App, all: &[Seen<'_>]) -> String {
    let quoted = |name: &str| name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let mut out = Exposition(String::with_capacity(8192));
    let version = env!("CARGO_PKG_VERSION");
    out.head("bitnet_build_info", "gauge", "Version and model.");
    for (named, ..) in all {
        out.line("bitnet_build_info", &format!("version=\"{version}\",model=\"{}\"", quoted(&named.name)), 1);
    }
    out.head("bitnet_model_open", "gauge", "1 while the model is open.");
    for (named, _, open) in all {
        out.line("bitnet_model_open", &format!("model=\"{}\"", quoted(&named.name)), u8::from(open.is_some()));
    }
    out.head("bitnet_model_loads_total", "counter", "How often the model was opened.");
    for (named, loads, _) in all {
        out.line("bitnet_model_loads_total", &format!("model=\"{}\"", quoted(&named.name)), loads);
    }

    let label =
        |model: &Model| if app.models.is_one() { String::new() } else { format!("model=\"{}\"", quoted(&model.name)) };
    let open: Vec<(String, &Metrics)> =
        all.iter().filter_map(|&(_, _, open)| open).map(|model| (label(model), model.scheduler.metrics())).collect();
    let gauges: [Gauge; 5] = [
        ("requests_waiting", "Requests in the queue.", |m| m.waiting.load(Relaxed)),
        ("requests_active", "Requests that steps work on.", |m| m.active.load(Relaxed)),
        ("kv_pages", "KV pages in all.", |m| m.pages),
        ("kv_pages_held", "KV pages held by requests.", |m| m.pages_held.load(Relaxed)),
        ("kv_pages_cached", "KV pages with reusable prefixes.", |m| m.pages_cached.load(Relaxed)),
    ];
    let counters: &[Counter] = &[
        ("requests_finished_total", "Requests answered to the end.", |m| &m.finished),
        ("requests_cancelled_total", "Requests whose client went away.", |m| &m.cancelled),
        ("requests_failed_total", "Requests that ended with an error.", |m| &m.failed),
        ("requests_refused_total", "Requests refused: queue full.", |m| &m.refused),
        ("requests_preempted_total", "Requests sent back to the queue.", |m| &m.preempted),
        ("steps_left_total", "Steps left in the middle for requests that came.", |m| &m.left),
        ("prompt_tokens_total", "Prompt tokens.", |m| &m.prompt_tokens),
        ("cached_tokens_total", "Prompt tokens found in the cache.", |m| &m.cached_tokens),
        ("new_tokens_total", "Tokens generated.", |m| &m.new_tokens),
        ("guessed_tokens_total", "Tokens guessed from the text and computed in advance.", |m| &m.guessed_tokens),
        ("right_tokens_total", "Guessed tokens that were right.", |m| &m.right_tokens),
        ("drafted_tokens_total", "Tokens guessed by the draft model and computed in advance.", |m| &m.drafted_tokens),
        ("drafted_right_tokens_total", "Drafted tokens that were right.", |m| &m.drafted_right_tokens),
    ];
    let histograms: [Distribution; 4] = [
        ("batch_size", "Sequences per step.", |m| &m.batch_size),
        ("step_seconds", "Seconds per step.", |m| &m.step_seconds),
        ("first_token_seconds", "Seconds from arrival to first token.", |m| &m.first_token_seconds),
        ("token_gap_seconds", "Seconds between two tokens of a request.", |m| &m.token_gap_seconds),
    ];
    for (name, help, value) in gauges {
        out.each(&format!("bitnet_{name}"), "gauge", help, &open, value);
    }
    for (name, help, value) in [
        ("http_connections", "Open connections.", app.http.connections.load(Relaxed)),
        ("http_requests_active", "Requests not answered yet.", app.http.active.load(Relaxed)),
        ("requests_waiting_for_model", "Requests that wait for a model to be opened.", app.models.waiting()),
    ] {
        let name = format!("bitnet_{name}");
        out.head(&name, "gauge", help);
        out.line(&name, "", value);
    }
    for (name, help, value) in counters {
        out.each(&format!("bitnet_{name}"), "counter", help, &open, |m| value(m).load(Relaxed));
    }
    for (name, help, histogram) in histograms {
        let name = format!("bitnet_{name}");
        out.head(&name, "histogram", help);
        open.iter().for_each(|(label, metrics)| out.histogram(&name, label, histogram(metrics)));
    }
    let name = "bitnet_http_responses_total";
    out.head(name, "counter", "Responses by route and status.");
    for ((route, status), count) in &*app.http.responses.lock().unwrap_or_else(PoisonError::into_inner) {
        out.line(name, &format!("route=\"{route}\",status=\"{status}\""), count);
    }
    out.0
}

/// Lines of the text format.
struct Exposition(String);

impl Exposition {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n"); // a String takes everything
    }

    /// A value. Labels are `name="value"`, separated by commas.
    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    /// A value of every open model.
    fn each<T: Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        open: &[(String, &Metrics)],
        value: impl Fn(&Metrics) -> T,
    ) {
        self.head(name, kind, help);
        open.iter().for_each(|(label, metrics)| self.line(name, label, value(metrics)));
    }

    fn histogram(&mut self, name: &str, label: &str, histogram: &Histogram) {
        let comma = if label.is_empty() { "" } else { "," };
        let cumulative = histogram.cumulative();
        for &(bound, count) in &cumulative {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".into() };
            self.line(&format!("{name}_bucket"), &format!("{label}{comma}le=\"{bound}\""), count);
        }
        self.line(&format!("{name}_sum"), label, histogram.sum());
        self.line(&format!("{name}_count"), label, cumulative.last().map_or(0, |&(_, count)| count));
    }
}
