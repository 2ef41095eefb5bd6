//! safetensors containers (single and sharded) with `config.json` (formats.md §3).

use std::path::PathBuf;

/// A Hugging Face directory.
#[derive(Clone, Debug)]
pub struct HfConfig {
    /// The directory.
    pub dir: PathBuf,
    /// `config.json`; of a key that stands twice the last one counts.
    pub config: serde_json::Value,
    /// `1_Pooling/config.json` of sentence-transformers, when present.
    pub pooling: Option<serde_json::Value>,
}
