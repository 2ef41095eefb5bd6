//! HTTP for engines: the routes that OpenAI's and Anthropic's clients speak, over one [`Scheduler`](bitnet_inference::Scheduler)
//! per model.
//!
//! Requests are read field by field, put into the scheduler's queue, and answered whole or as server-sent events. A wrong
//! value is refused with an error that names its field; a field that nobody knows is ignored; what is not supported is
//! refused, never ignored. A client that goes away cancels its request.
//!
//! ```no_run
//! use bitnet_inference::{Engine, EngineOptions};
//! use bitnet_server::{Server, ServerOptions};
//!
//! let engine = Engine::open("model.gguf", EngineOptions { sequences: Some(8), ..EngineOptions::default() })?;
//! let server = Server::bind(engine.into(), "127.0.0.1:8080", ServerOptions::new("model"))?;
//! println!("listening on http://{}", server.address());
//! server.run()?; // until Ctrl-C or SIGTERM
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod allowance;
mod api_error;
mod app;
mod asked;
mod body;
mod calling;
mod chat;
mod choices;
mod completions;
mod conversation;
mod embeddings;
mod event_stream;
mod fields;
mod gate;
mod head;
mod health;
mod local;
mod logprobs;
mod messages;
mod metrics;
mod model;
mod model_list;
mod models;
mod observe;
mod openapi;
mod options;
mod parameters;
mod responses;
mod server;
#[cfg(feature = "otel")]
mod telemetry;
#[cfg(not(feature = "otel"))]
#[path = "no_telemetry.rs"]
mod telemetry;
mod tls;
mod tokens;
mod web_page;

pub use local::{Local, Reply};
pub use models::{Check, NamedModel, Open, Opened};
pub use options::ServerOptions;
pub use server::{Server, ServerError};
#[cfg(feature = "otel")]
pub use telemetry::{Telemetry, TelemetryError};
pub use tls::{Tls, TlsError};
