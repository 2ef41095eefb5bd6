//! From text to a ternary model: quantisation-aware training with straight-through estimators.
//!
//! The forward pass computes with ternary weights (absmean) and int8 activations (absmax), exactly those that the engine
//! computes with; gradients pass both roundings unchanged and reach float master weights, which the optimiser moves.
//! What comes out is a Hugging Face directory that `bitnet-models` reads like any other checkpoint.
//!
//! ```text
//! text ──► corpus ──► tokens ──► network ──► loss ──► adamw ──► checkpoint ──► export
//! ```

#![forbid(unsafe_code)]

mod adamw;
mod checkpoint;
mod compensation;
mod corpus;
mod error;
mod export;
mod lora;
mod loss_plot;
mod low_rank;
mod matmul;
mod measure;
mod muon;
mod network;
mod ops;
mod optimizer;
mod pass;
mod quantize;
mod random;
mod recipe;
mod schedule;
mod shard;
mod start;
mod tensorboard;
mod tokenizer;
mod tokens;
mod trainer;
mod vectorized;
mod whole_file;

pub use error::TrainError;
pub use export::export_last;
pub use measure::Validation;
pub use network::Network;
pub use quantize::{QuantizeOptions, Quantizer, Sensitivity};
pub use recipe::{
    DataRecipe, Family, LoraRecipe, Method, ModelRecipe, OptimizerRecipe, Recipe, RunRecipe, Source, TeacherRecipe,
    TokenizerRecipe,
};
pub use trainer::{Event, Outcome, Trainer};
