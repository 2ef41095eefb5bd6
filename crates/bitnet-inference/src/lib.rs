//! What a request is: an [`Engine`] turns a [`GenerateRequest`] into a stream of [`TokenEvent`]s.
//!
//! An engine holds a model, its tokenizer and a pool of KV pages. A [`Session`] is a sequence whose past stays cached; a
//! [`Generation`] is one answer, an iterator. Requests run on the CPU backend; the [`sampler`] needs none.

#![forbid(unsafe_code)]

mod error;
mod request;
pub mod sampler;

mod bench;
mod engine;
mod evaluation;
mod fingerprint;
mod pages;
mod perplexity;
mod sequence;
mod session;
mod stop;

pub use bench::{BenchReport, BenchSpec, Spread, peak_memory};
pub use engine::{Engine, EngineOptions};
pub use perplexity::{Perplexity, Windows};
pub use session::{Generation, Session};

pub use error::InferenceError;
pub use request::{FinishReason, GenerateRequest, Prompt, REPEAT_LIMIT, Sampling, TokenEvent, TokenLogprob, Usage};
