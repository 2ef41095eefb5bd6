//! What a request is: an [`Engine`] turns a [`GenerateRequest`] into a stream of [`TokenEvent`]s.

#![forbid(unsafe_code)]

mod engine;
mod error;
mod request;
pub mod sampler;
mod session;

pub use engine::{Engine, EngineOptions};
pub use error::InferenceError;
pub use request::{FinishReason, GenerateRequest, Prompt, Sampling, TokenEvent, TokenLogprob, Usage};
pub use session::{Generation, Session};
