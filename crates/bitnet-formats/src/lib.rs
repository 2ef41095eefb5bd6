//! Bytes on disk ⇄ named, typed, shaped tensors and metadata.
//!
//! [`Checkpoint::open`] takes a GGUF file (also split ones), a Hugging Face directory or a llama2.c `.bin`, checks it,
//! and hands out [`Tensor`]s whose bytes lie in the memory map. [`Encoding`] turns bytes into numbers and back.
//! This crate knows no network and no processor feature.

#![deny(unsafe_code)]

mod checkpoint;
mod encoding;
mod error;
pub mod gguf;
pub mod llama2c;
mod map;
pub mod safetensors;
mod scan;
mod tensor;

pub use checkpoint::{Checkpoint, OpenOptions, Source};
pub use encoding::{Encoding, I2sLayout, Scales, Ternary, TileParams};
pub use error::FormatError;
pub use map::map;
pub use scan::Scan;
pub use tensor::{Tensor, TensorSource};
