//! The arithmetic of one forward step.
//!
//! A network is a sequence of a few fused operations, the verbs of [`Backend`]. Each verb has one file with its
//! scalar oracle, and per-instruction-set tiers under `arch/`. Ternary × int8 sums are integers and float steps keep
//! one reduction order, so every tier, thread count and batch size gives the same bits.

mod backend;
mod batch;
mod error;
mod weights;

pub use backend::{Activation, Backend, KvShape, NormWeight};
pub use batch::{Batch, PAGE_LEN, Run};
pub use error::KernelError;
pub use weights::{DenseFormat, DenseWeights, RopeStyle, RopeTable, TernaryScales, TernaryWeights};
