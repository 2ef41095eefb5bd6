//! Ternary (1.58-bit) language models in three lines of Rust.
//!
//! ```no_run
//! let engine = bitnet::Engine::new("path/to/model.gguf")?;
//! println!("{}", engine.generate("Once upon a time", 32)?);
//! # Ok::<(), bitnet::InferenceError>(())
//! ```
//!
//! PATH is a GGUF file, a Hugging Face directory or a llama2.c file. Without any file there is a small story model
//! inside this crate (feature `default-model`):
//!
//! ```
//! use bitnet::{Checkpoint, Engine, EngineOptions, GenerateRequest, Sampling, default_model};
//!
//! let model = Checkpoint::from_gguf_bytes(default_model().into())?;
//! let engine = Engine::from_checkpoint(&model, EngineOptions::default())?;
//! let story = engine.generate("Once upon a time", 32)?;
//! assert_eq!(story, engine.generate("Once upon a time", 32)?); // same seed, same text
//!
//! // Token by token, and continued without reading the past again:
//! let mut session = engine.session();
//! let mut text = String::from("The dragon");
//! for tokens in [12, 6] {
//!     let request = GenerateRequest { sampling: Sampling::greedy(), ..GenerateRequest::new(&text, tokens) };
//!     let mut answer = session.generate(&request)?;
//!     for event in &mut answer {
//!         text.push_str(&event?.text); // leaving the loop cancels
//!     }
//!     println!("{:?}: {:?}", answer.finish_reason(), answer.usage());
//! }
//! # assert!(text.len() > "The dragon".len());
//! # Ok::<(), bitnet::InferenceError>(())
//! ```
//!
//! The rooms behind the facade are re-exported whole: [`formats`] (files and encodings), [`kernels`] (arithmetic),
//! [`models`] (networks, tokenizers, chat templates, export) and [`inference`] (requests).

#![forbid(unsafe_code)]

#[cfg(not(feature = "cpu"))]
compile_error!("choose a backend: enable the feature `cpu`");

pub use bitnet_formats as formats;
pub use bitnet_inference as inference;
pub use bitnet_kernels as kernels;
pub use bitnet_models as models;

pub use bitnet_formats::Checkpoint;
pub use bitnet_inference::{Accuracy, Alternative, Question, Report, Score, Scorer, Tally};
pub use bitnet_inference::{
    BenchReport, BenchSpec, Engine, EngineOptions, Generation, Perplexity, Session, Spread, Windows, peak_memory,
};
pub use bitnet_inference::{
    FinishReason, GenerateRequest, Grammar, InferenceError, Prompt, Sampling, TokenEvent, TokenLogprob, Usage,
};
pub use bitnet_kernels::{Cpu, CpuOptions, Isa, KvFormat, read_bandwidth};
pub use bitnet_models::export::{Export, ExportOptions};
pub use bitnet_models::{ChatTemplate, LoadOptions, Message, Tokenizer};

/// How the story model is talked to, as a chat template: it was not trained to chat, so it continues what all messages say,
/// one after the other, as paragraphs.
#[cfg(feature = "default-model")]
pub const STORY_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% if not loop.last %}{{ '\n\n' }}{% endif %}{% endfor %}";

/// The story model of `assets/`, a GGUF file: about 7 million parameters, English, short simple stories. Whose it is and
/// how it was made stands in `assets/README.md`.
#[cfg(feature = "default-model")]
pub fn default_model() -> &'static [u8] {
    /// Weights are used where they lie, so the file begins on a cache line.
    #[repr(align(64))]
    struct Aligned<T: ?Sized>(T);
    static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../assets/default.gguf"));
    &MODEL.0
}
