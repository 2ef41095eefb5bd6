//! What a request is: an [`Engine`] turns a [`GenerateRequest`] into a stream of [`TokenEvent`]s.
//!
//! An engine holds a model, its tokenizer and a pool of KV pages. A [`Session`] is a sequence whose past stays cached; a
//! [`Generation`] is one answer, an iterator. A [`Scheduler`] answers many requests at once. Requests run on the CPU backend; the [`sampler`] needs none.

#![forbid(unsafe_code)]

mod error;
mod request;
pub mod sampler;
pub mod tracking;

mod answer;
mod bench;
mod calls;
mod choices;
mod draft;
mod engine;
mod evaluation;
mod fingerprint;
mod grammar;
mod logits_diff;
mod lookup;
mod metrics;
mod pages;
mod perplexity;
mod proposer;
mod scheduler;
mod scoring;
mod sequence;
mod session;
mod stop;

pub use bench::{BenchReport, BenchSpec, Spread, peak_memory};
pub use calls::{CallReader, Piece, ToolChoice};
pub use choices::{Alternative, Question};
pub use engine::{Engine, EngineOptions};
pub use grammar::Grammar;
pub use logits_diff::{LogitsDiff, LogitsDiffReport};
pub use metrics::{Histogram, Metrics};
pub use pages::PageUse;
pub use perplexity::{Perplexity, Windows};
pub use scheduler::{Scheduler, Update, Updates};
pub use scoring::{Accuracy, Report, Score, Scorer, Tally};
pub use session::{Generation, Session};

pub use error::InferenceError;
pub use request::{FinishReason, GenerateRequest, Prompt, REPEAT_LIMIT, Sampling, TokenEvent, TokenLogprob, Usage};
