//! What a request is: an [`Engine`] turns a [`GenerateRequest`] into a stream of [`TokenEvent`]s.
//!
//! An engine holds a model, its tokenizer and a pool of KV pages. A [`Session`] is a sequence whose past stays cached; a
//! [`Generation`] is one answer, an iterator. Requests run on the CPU backend (feature `cpu`); the [`sampler`] needs
//! none.

#![forbid(unsafe_code)]

mod error;
mod request;
pub mod sampler;

#[cfg(feature = "cpu")]
mod bench;
#[cfg(feature = "cpu")]
mod engine;
#[cfg(feature = "cpu")]
mod evaluation;
#[cfg(feature = "cpu")]
mod fingerprint;
#[cfg(feature = "cpu")]
mod pages;
#[cfg(feature = "cpu")]
mod perplexity;
#[cfg(feature = "cpu")]
mod sequence;
#[cfg(feature = "cpu")]
mod session;
#[cfg(feature = "cpu")]
mod stop;

#[cfg(feature = "cpu")]
pub use bench::{BenchReport, BenchSpec, Spread, peak_memory};
#[cfg(feature = "cpu")]
pub use engine::{Engine, EngineOptions};
#[cfg(feature = "cpu")]
pub use perplexity::{Perplexity, Windows};
#[cfg(feature = "cpu")]
pub use session::{Generation, Session};

pub use error::InferenceError;
pub use request::{FinishReason, GenerateRequest, Prompt, REPEAT_LIMIT, Sampling, TokenEvent, TokenLogprob, Usage};
