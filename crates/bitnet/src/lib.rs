//! Ternary (1.58-bit) language models in three lines of Rust.
//!
//! ```no_run
//! let engine = bitnet::Engine::new("path/to/model.gguf")?;
//! println!("{}", engine.generate("Once upon a time", 32)?);
//! # Ok::<(), bitnet::InferenceError>(())
//! ```
//!
//! The rooms behind the facade are re-exported whole: [`formats`] (files and encodings), [`kernels`] (arithmetic),
//! [`models`] (networks, tokenizers, chat templates) and [`inference`] (requests).
#![forbid(unsafe_code)]

pub use bitnet_formats as formats;
pub use bitnet_inference as inference;
pub use bitnet_kernels as kernels;
pub use bitnet_models as models;

pub use bitnet_formats::Checkpoint;
#[cfg(feature = "cpu")]
pub use bitnet_inference::{
    BenchReport, BenchSpec, Engine, EngineOptions, Generation, Perplexity, Session, Spread, Windows, peak_memory,
};
pub use bitnet_inference::{
    FinishReason, GenerateRequest, InferenceError, Prompt, Sampling, TokenEvent, TokenLogprob, Usage,
};
pub use bitnet_models::{ChatTemplate, LoadOptions, Message, Tokenizer};

/// The small story model inside this library, a GGUF file (feature `default-model`). Its licence and origin stand in
/// `assets/README.md`.
#[cfg(feature = "default-model")]
pub fn default_model() -> &'static [u8] {
    // Tensors are used in place: they must lie in memory as aligned as they lie in the file.
    #[repr(C, align(64))]
    struct Aligned<T: ?Sized>(T);
    static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../assets/default.gguf"));
    &MODEL.0
}
