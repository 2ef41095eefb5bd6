//! The routes without a listener, for programs that have requests in another form.

use crate::app::{App, router};
use crate::{ServerError, ServerOptions};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use bitnet_inference::Engine;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Answers requests as a [`Server`](crate::Server) would, inside this process: the same fields, the same answers, the same
/// errors.
pub struct Local {
    runtime: Runtime,
    routes: Router,
    stopped: watch::Sender<bool>,
}

/// What a route answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Names the request in the log.
    pub request_id: String,
    /// The answer, or an object with `error`.
    pub body: Value,
}

impl Local {
    /// Takes an engine into service. Keys and origins do not matter: nobody comes from outside.
    ///
    /// # Errors
    /// No threads.
    pub fn new(engine: Arc<Engine>, options: ServerOptions) -> Result<Self, ServerError> {
        let options = ServerOptions { api_keys: Vec::new(), ..options };
        let (models, options) = options.one(engine);
        let app = Arc::new(App::new(models, u64::MAX, options, true)?);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Local { runtime, routes: router(&app)?, stopped: watch::Sender::new(false) })
    }

    /// Sends `body` to the route at `path` and waits for the answer; many threads may do so at once, and their requests are
    /// computed together. `None` after [`stop`](Self::stop). Not for use inside an asynchronous task, and not for streams.
    pub fn post(&self, path: &str, body: &Value) -> Option<Reply> {
        let mut stopped = self.stopped.subscribe();
        self.runtime.block_on(async {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => None,
                reply = self.answer(path, body) => Some(reply),
            }
        })
    }

    /// Cancels what is being answered and what is still asked.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    async fn answer(&self, path: &str, body: &Value) -> Reply {
        let request = match Request::post(path).body(Body::from(body.to_string())) {
            Ok(request) => request,
            Err(error) => return failed(StatusCode::NOT_FOUND, &format!("{path:?} is no path: {error}")),
        };
        let Ok(response) = TowerToHyperService::new(self.routes.clone()).call(request).await;
        let status = response.status();
        let id = response.headers().get(crate::observe::REQUEST_ID).and_then(|id| id.to_str().ok());
        let request_id = id.unwrap_or_default().to_owned();
        let bytes = to_bytes(response.into_body(), usize::MAX).await;
        let body = bytes.map_err(|error| error.to_string());
        match body.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string())) {
            Ok(body) => Reply { status: status.as_u16(), request_id, body },
            Err(error) => failed(
                StatusCode::INTERNAL_SERVER_ERROR,
                &format!("the answer of {path} is not one JSON value: {error}"),
            ),
        }
    }
}

fn failed(status: StatusCode, message: &str) -> Reply {
    let body = crate::api_error::ApiError::new(status, Some("not_answered"), message).json();
    Reply { status: status.as_u16(), request_id: String::new(), body }
}
