//! What a network is: its [`Config`], its weights, one [`forward`](Model::forward) over the backend verbs, the
//! [`Tokenizer`], the [`ChatTemplate`], and a catalogue of published models with their known quirks.

#![forbid(unsafe_code)]

mod adapter;
mod block;
pub mod catalogue;
mod chat;
mod config;
mod error;
pub mod export;
mod inventory;
mod model;
pub mod names;
mod plan;
mod rope;
mod state;
mod tokenizer;
mod weights;

pub use adapter::side_car_files;
pub use chat::{CALL_BEGIN, CALL_END, ChatTemplate, Conversation, Message, Tool, ToolCall, Turn};
pub use config::{Activations, Config, Pooling, ProjectionForm, RopeScaling, Sliding};
pub use error::ModelError;
pub use model::{LoadOptions, Model, Stage};
pub use plan::MemoryPlan;
pub use state::{State, StateShape};
pub use tokenizer::{DecodeStream, Encoding, Tokenizer};
