//! llama2.c checkpoints, version 0 and 1 (float32), with named tensors in HF naming and `[rows, cols]` shapes.

/// Header of a llama2.c file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 0 (legacy, no magic) or 1 (`ak42`).
    pub version: u32,
    /// Hidden size.
    pub dim: usize,
    /// Feed-forward size.
    pub hidden_dim: usize,
    /// Decoder blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Vocabulary.
    pub vocab_size: usize,
    /// Context length.
    pub seq_len: usize,
    /// Output head shared with the embedding.
    pub shared_classifier: bool,
}
