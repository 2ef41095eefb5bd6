//! What a server is told at start.

use crate::{NamedModel, Opened, Tls};
use bitnet_inference::Engine;
use bitnet_models::ChatTemplate;
use std::sync::Arc;
use std::time::Duration;

/// Choices at start. Sequences, context and cache are those of the engine.
#[derive(Debug)]
pub struct ServerOptions {
    /// Name of the model in requests and answers, when there is one.
    pub model: String,
    /// Chat template to use instead of this model's.
    pub template: Option<ChatTemplate>,
    /// Requests that may wait; more are refused as busy.
    pub queue: usize,
    /// Speaks HTTPS and nothing else; `None` = plain HTTP.
    pub tls: Option<Tls>,
    /// Where traces of requests go.
    #[cfg(feature = "otel")]
    pub telemetry: Option<crate::Telemetry>,
    /// Keys, of which a client must show one; none = everybody may ask.
    pub api_keys: Vec<String>,
    /// Origins (`https://example.org`, or `*`) whose pages may read answers in a browser.
    pub cors_origins: Vec<String>,
    /// POST requests per minute and key (without keys, of all together); `None` = no limit.
    pub rate_limit: Option<u32>,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// Connections at once; more wait to be accepted.
    pub max_connections: usize,
    /// From a request's arrival to the end of its answer.
    pub time_limit: Duration,
    /// How long requests may take to finish after the signal to stop.
    pub drain_limit: Duration,
}

impl ServerOptions {
    /// The model of which they speak, opened already.
    pub(crate) fn one(mut self, engine: Arc<Engine>) -> (Vec<NamedModel>, Self) {
        let opened = Opened { engine, template: self.template.take().map(Arc::new) };
        let (name, context) = (self.model.clone(), opened.engine.context());
        let (check, open) = (Box::new(|| Ok(())), Box::new(move || Ok(opened.clone())));
        // an open model speaks for itself
        (vec![NamedModel { name, bytes: 0, context, parallel: 1, chat: false, check, open }], self)
    }

    /// Defaults for a model of this name: 64 requests wait, no keys, no origins, bodies of 4 MiB, 1024 connections, ten
    /// minutes for an answer, thirty seconds to finish at the end.
    pub fn new(model: impl Into<String>) -> Self {
        ServerOptions {
            model: model.into(),
            template: None,
            queue: 64,
            tls: None,
            #[cfg(feature = "otel")]
            telemetry: None,
            api_keys: Vec::new(),
            cors_origins: Vec::new(),
            rate_limit: None,
            max_body: 4 << 20,
            max_connections: 1024,
            time_limit: Duration::from_secs(600),
            drain_limit: Duration::from_secs(30),
        }
    }
}
