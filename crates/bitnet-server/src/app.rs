//! What all requests share, and the routes.

use crate::api_error::ApiError;
use crate::metrics::HttpMetrics;
use crate::models::{Lease, Models, NamedModel};
use crate::{
    ServerOptions, chat, completions, embeddings, gate, health, messages, metrics, model_list, observe, openapi,
    responses, server::ServerError, tokens, web_page,
};
use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// What all requests share.
pub(crate) struct App {
    pub(crate) models: Arc<Models>,
    pub(crate) options: ServerOptions,
    pub(crate) gate: gate::Gate,
    pub(crate) http: HttpMetrics,
    /// Seconds since 1970 at start.
    pub(crate) started: u64,
    /// Set when the server takes no new connections.
    pub(crate) draining: AtomicBool,
    /// Embedding requests that may be there, and the one that is computed.
    pub(crate) embedding_queue: Arc<Semaphore>,
    pub(crate) embedding: Arc<Semaphore>,
    /// Answers so far; with `salt` it names the next one.
    answers: AtomicU64,
    salt: u64,
}

impl App {
    pub(crate) fn new(
        models: Vec<NamedModel>,
        budget: u64,
        mut options: ServerOptions,
        loopback: bool,
    ) -> Result<Self, ServerError> {
        let keys = std::mem::take(&mut options.api_keys);
        Ok(App {
            models: Models::new(models, budget, options.queue)?,
            gate: gate::Gate::new(&keys, &options.cors_origins, options.rate_limit, loopback),
            http: HttpMetrics::default(),
            started: now(),
            draining: AtomicBool::new(false),
            embedding_queue: Arc::new(Semaphore::new(options.queue.clamp(1, Semaphore::MAX_PERMITS))),
            embedding: Arc::new(Semaphore::new(1)),
            answers: AtomicU64::new(0),
            salt: observe::random(),
            options,
        })
    }

    /// The model of this name for a request that came at `arrival`; it is waited for if it has to be opened.
    pub(crate) async fn model(&self, name: Option<&str>, arrival: Instant) -> Result<Lease, ApiError> {
        self.models.get(self.models.find(name)?, arrival + self.options.time_limit).await
    }

    /// A name for an answer.
    pub(crate) fn answer_id(&self, kind: &str) -> String {
        format!("{kind}{:016x}{:08x}", self.salt, self.answers.fetch_add(1, Relaxed))
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// The routes, with everything that stands before them.
pub(crate) fn router(app: &Arc<App>) -> Result<Router, ServerError> {
    let not_found =
        || async { ApiError::new(StatusCode::NOT_FOUND, Some("not_found"), "there is nothing at this path") };
    let not_allowed = || async {
        let message = "this path does not know this method";
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, Some("method_not_allowed"), message)
    };
    let routes = Router::new()
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/responses", post(responses::create))
        .route("/v1/messages", post(messages::create))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
        .route("/v1/embeddings", post(embeddings::embed))
        .route("/v1/models", get(model_list::list))
        .route("/v1/models/{model}", get(model_list::one))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/apply-template", post(tokens::apply_template))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(openapi::document))
        .merge(web_page::routes())
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .with_state(Arc::clone(app));
    Ok(routes
        .layer(from_fn_with_state(Arc::clone(app), gate::check))
        .layer(from_fn(messages::spell_errors))
        .layer(cors(&app.options.cors_origins)?)
        .layer(from_fn(observe::no_store))
        .layer(from_fn_with_state(Arc::clone(app), observe::observe)))
}

/// Without origins no header is sent, and browsers keep other sites' pages from reading answers.
fn cors(origins: &[String]) -> Result<CorsLayer, ServerError> {
    if origins.is_empty() {
        return Ok(CorsLayer::new());
    }
    let wrong = |origin: &str| ServerError::Origin(origin.to_owned());
    let allowed = match origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        false => {
            let value = |origin: &String| match origin.strip_suffix('/').unwrap_or(origin) {
                name if name.contains("://") => HeaderValue::from_str(name).map_err(|_| wrong(origin)),
                _ => Err(wrong(origin)),
            };
            AllowOrigin::list(origins.iter().map(value).collect::<Result<Vec<_>, _>>()?)
        }
    };
    let request_id = HeaderName::from_static(observe::REQUEST_ID);
    Ok(CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST])
        // the official clients send a dozen of their own, and more with every version
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([request_id, header::RETRY_AFTER]))
}
