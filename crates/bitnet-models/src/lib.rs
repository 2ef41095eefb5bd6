//! What a network is: its [`Config`], its weights, one [`forward`](Model::forward) over the backend verbs, the
//! [`Tokenizer`], the [`ChatTemplate`], and a catalogue of published models with their known quirks.

mod chat;
mod config;
mod error;
mod model;
mod tokenizer;

pub use chat::{ChatTemplate, Message};
pub use config::{Activations, Config, Pooling};
pub use error::ModelError;
pub use model::{LoadOptions, MemoryPlan, Model, State, StateShape};
pub use tokenizer::{DecodeStream, Encoding, Tokenizer};
