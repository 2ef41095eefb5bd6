//! The arithmetic of one forward step.
//!
//! A network is a sequence of a few fused operations, the verbs of [`Backend`]. Each verb has one file with its
//! scalar oracle, and per-instruction-set tiers under `arch/`. Ternary × int8 sums are integers and float steps keep
//! one reduction order, so every tier, thread count and batch size gives the same bits.

#![deny(unsafe_code)] // allowed in `arch` and `threads` alone

mod add;
mod ahead;
mod aligned;
mod arch;
mod attend;
mod backend;
mod bandwidth;
mod batch;
mod bf16;
mod cores;
mod cpu;
mod dense_formats;
mod dense_matmul;
mod embed;
mod error;
mod exp;
mod gated_activation;
mod hand_over;
mod isa;
mod kv_format;
mod lanes;
mod logits;
mod norm;
mod peak;
mod planes;
mod portions;
mod quantize;
mod rope_store;
mod selection;
mod ternary_matmul;
mod threads;
mod weights;

pub use backend::{Activation, Backend, Computed, NormWeight, Top, Wanted};
pub use bandwidth::{read_bandwidth, weight_bandwidth};
pub use batch::{Batch, PAGE_LEN, Run};
pub use bf16::{Bf16Sums, Bf16Tile, Bf16Unit};
pub use cores::Cores;
pub use cpu::{Cpu, CpuOptions, Kv, Quantized, Rows, self_test};
pub use dense_matmul::Dense;
pub use error::KernelError;
pub use hand_over::hand_over_time;
pub use isa::Isa;
pub use kv_format::{KvFormat, KvShape};
pub use peak::{Peak, arithmetic_peak};
pub use selection::selection_bytes;
pub use ternary_matmul::Ternary;
pub use weights::{DenseFormat, DenseWeights, RopeStyle, RopeTable, TernaryScales, TernaryWeights};
