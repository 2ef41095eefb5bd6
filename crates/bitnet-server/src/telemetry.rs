//! Traces for an OpenTelemetry collector: one span per request, with the time in the queue, for the prompt and for the tokens inside.
//! Spans carry counts, times and names, never text.
//!
//! They leave in batches on a thread of their own, over OTLP/HTTP. Where the collector is away or slow, batches are tried again
//! for a while and then dropped, and the log says so; no request waits.

use crate::ServerOptions;
use crate::choices::finish_name;
use axum::http::{HeaderMap, HeaderValue, Method};
use bitnet_inference::{FinishReason, Usage};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span, SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use std::env;
use std::time::{Duration, SystemTime};
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

/// Where spans go; the first that is set counts, and none means that there are no traces.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const TIMEOUTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
/// What is spoken.
const PROTOCOL: &str = "http/protobuf";
/// For a batch, unless the environment says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// For the last batches at the end.
const LAST: Duration = Duration::from_secs(5);
/// Asked by machines, every few seconds: no spans.
const PROBES: [&str; 3] = ["/health", "/ready", "/metrics"];
/// Bytes of a collector's answer.
const ANSWER: u64 = 1 << 20;

/// Why no traces can be sent.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A protocol that is not spoken.
    #[error("{variable}={protocol} is not supported: spans go out as {PROTOCOL}")]
    Protocol {
        /// Where it was asked for.
        variable: &'static str,
        /// What was asked for.
        protocol: String,
    },
    /// A number of milliseconds that is none.
    #[error("{variable}={value} is not a number of milliseconds")]
    Timeout {
        /// Where it stands.
        variable: &'static str,
        /// What stands there.
        value: String,
    },
    /// An encrypted endpoint, and no cryptography.
    #[error("traces for {endpoint}: {missing}")]
    Tls {
        /// Where they were to go.
        endpoint: String,
        /// What is missing.
        missing: bitnet_tls::Missing,
    },
    /// The endpoint or another variable of the exporter.
    #[error("traces for {endpoint}: {source}")]
    Exporter {
        /// Where they were to go.
        endpoint: String,
        /// What is wrong.
        source: ExporterBuildError,
    },
}

/// The way to a collector.
#[derive(Clone, Debug)]
pub struct Telemetry {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Telemetry {
    /// As OpenTelemetry's variables ask for: `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` switches traces on;
    /// `OTEL_EXPORTER_OTLP_HEADERS` and `_TIMEOUT`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` and
    /// `OTEL_BSP_…` mean what they mean everywhere; `OTEL_SDK_DISABLED=true` and `OTEL_TRACES_EXPORTER=none` switch them off.
    ///
    /// # Errors
    /// A protocol that is not spoken, and variables that make no sense.
    pub fn from_env() -> Result<Option<Self>, TelemetryError> {
        let is = |name, value: &str| variable(name).is_some_and(|found| found.eq_ignore_ascii_case(value));
        let Some((_, endpoint)) = first(ENDPOINTS) else { return Ok(None) };
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return Ok(None);
        }
        if let Some((variable, protocol)) = first(PROTOCOLS).filter(|(_, protocol)| protocol != PROTOCOL) {
            return Err(TelemetryError::Protocol { variable, protocol });
        }
        let timeout = match first(TIMEOUTS) {
            None => TIMEOUT,
            Some((variable, value)) => match value.parse() {
                Ok(milliseconds) => Duration::from_millis(milliseconds),
                Err(_) => return Err(TelemetryError::Timeout { variable, value }),
            },
        };
        let client = Client::new(&endpoint, timeout)?;
        let exporter = SpanExporter::builder().with_http().with_http_client(client).build();
        let exporter = exporter.map_err(|source| TelemetryError::Exporter { endpoint, source })?;
        let mut resource =
            Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let attributes = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        if variable("OTEL_SERVICE_NAME").is_none() && !attributes.contains("service.name=") {
            resource = resource.with_service_name("bitnet");
        }
        let provider =
            SdkTracerProvider::builder().with_resource(resource.build()).with_batch_exporter(exporter).build();
        let tracer = provider.tracer("bitnet-server");
        Ok(Some(Telemetry { provider, tracer }))
    }

    /// Sends what is left, in bounded time. Blocks.
    pub(crate) fn end(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(LAST) {
            tracing::warn!(%error, "the last traces did not arrive");
        }
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn first(names: [&'static str; 2]) -> Option<(&'static str, String)> {
    names.into_iter().find_map(|name| Some((name, variable(name)?)))
}

/// Sends batches.
#[derive(Debug)]
struct Client(Agent);

impl Client {
    fn new(endpoint: &str, timeout: Duration) -> Result<Self, TelemetryError> {
        let tls = match bitnet_tls::provider() {
            Ok(provider) => {
                let config = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier);
                config.unversioned_rustls_crypto_provider(provider).build()
            }
            Err(missing) if endpoint.starts_with("https:") => {
                return Err(TelemetryError::Tls { endpoint: endpoint.to_owned(), missing });
            }
            Err(_) => TlsConfig::default(),
        };
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(timeout)).tls_config(tls);
        Ok(Client(config.build().into()))
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    /// Blocks: only the exporter's own thread comes here.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let (head, mut body) = self.0.run(Request::from_parts(head, &body[..]))?.into_parts();
        Ok(Response::from_parts(head, body.with_config().limit(ANSWER).read_to_vec()?.into()))
    }
}

/// The span of a request. It ends with the last copy, so that of a stream with its last token.
#[derive(Clone, Debug)]
pub(crate) struct Trace(Option<Traced>);

#[derive(Clone, Debug)]
struct Traced {
    tracer: SdkTracer,
    context: Context,
}

impl Trace {
    /// None at all.
    pub(crate) fn none() -> Self {
        Trace(None)
    }

    /// A request that arrives, as a part of the trace that its `traceparent` names.
    pub(crate) fn begin(
        options: &ServerOptions,
        id: &HeaderValue,
        method: &Method,
        route: &str,
        headers: &HeaderMap,
    ) -> Self {
        let telemetry = options.telemetry.as_ref().filter(|_| !PROBES.contains(&route));
        let traced = telemetry.map(|Telemetry { tracer, .. }| {
            let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers));
            let builder = tracer.span_builder(format!("{method} {route}")).with_kind(SpanKind::Server);
            let builder = builder.with_attributes([
                KeyValue::new("http.request.method", method.to_string()),
                KeyValue::new("http.route", route.to_owned()),
                KeyValue::new("bitnet.request.id", id.to_str().unwrap_or_default().to_owned()),
            ]);
            let context = parent.with_span(tracer.build_with_context(builder, &parent));
            Traced { tracer: tracer.clone(), context }
        });
        Trace(traced)
    }

    /// The response begins.
    pub(crate) fn responded(&self, status: u16) {
        let Some(Traced { context, .. }) = &self.0 else { return };
        context.span().set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if status >= 500 {
            self.failed(status.to_string());
        }
    }

    /// The answer failed, also after its response had begun.
    pub(crate) fn failed(&self, kind: String) {
        let Some(Traced { context, .. }) = &self.0 else { return };
        context.span().set_attribute(KeyValue::new("error.type", kind));
        context.span().set_status(Status::error(""));
    }

    /// A model answers.
    pub(crate) fn asked(&self, model: &str) {
        let Some(Traced { context, .. }) = &self.0 else { return };
        context.span().set_attribute(KeyValue::new("gen_ai.request.model", model.to_owned()));
    }

    /// One of the answers, which was put into the queue at `submitted`, came to its end.
    pub(crate) fn answered(&self, nth: usize, submitted: SystemTime, reason: FinishReason, usage: &Usage) {
        let Some(Traced { tracer, context }) = &self.0 else { return };
        let count = |name, tokens: usize| KeyValue::new(name, i64::try_from(tokens).unwrap_or(i64::MAX));
        let parts = [
            ("queue", usage.queue_time, vec![]),
            (
                "prompt",
                usage.prompt_time,
                vec![
                    count("gen_ai.usage.input_tokens", usage.prompt_tokens),
                    count("bitnet.usage.cached_tokens", usage.cached_tokens),
                ],
            ),
            (
                "decode",
                usage.decode_time,
                vec![
                    count("gen_ai.usage.output_tokens", usage.new_tokens),
                    count("bitnet.usage.drafted_tokens", usage.drafted_tokens),
                    KeyValue::new("bitnet.finish_reason", finish_name(reason)),
                ],
            ),
        ];
        let mut begin = submitted;
        for (name, time, mut attributes) in parts {
            attributes.push(count("bitnet.answer", nth));
            let end = begin.checked_add(time).unwrap_or(begin);
            let builder = tracer.span_builder(name).with_start_time(begin).with_attributes(attributes);
            tracer.build_with_context(builder, context).end_with_timestamp(end);
            begin = end;
        }
    }

    /// All answers have ended, or their client went away.
    pub(crate) fn done(&self, prompt: usize, new: usize, complete: bool) {
        let Some(Traced { context, .. }) = &self.0 else { return };
        let count = |name, tokens: usize| KeyValue::new(name, i64::try_from(tokens).unwrap_or(i64::MAX));
        context.span().set_attributes([
            count("gen_ai.usage.input_tokens", prompt),
            count("gen_ai.usage.output_tokens", new),
            KeyValue::new("bitnet.complete", complete),
        ]);
    }
}
