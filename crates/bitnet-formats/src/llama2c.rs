//! llama2.c checkpoints, version 0 and 1 (float32), with named tensors in HF naming and `[rows, cols]` shapes.
//!
//! The rows of q and k stay in the order of the file: llama2.c rotates neighbouring pairs (interleaved RoPE).

use crate::{Encoding, FormatError, Tensor};
use bytes::Bytes;
use std::collections::BTreeMap;

/// `ak42` as a little-endian number.
const MAGIC: &[u8; 4] = b"24ka";
/// Header of version 1, padded.
const HEADER_V1: usize = 256;
/// Header of version 0: seven i32.
const HEADER_V0: usize = 28;
/// More layers than any model has.
const MAX_LAYERS: usize = 512;

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

/// Where a stack of tensors lies in the file.
struct Piece {
    name: &'static str,
    /// One per layer, `name` following `model.layers.N.`; otherwise a single tensor.
    per_layer: bool,
    /// Shape of one tensor; empty for a table to be skipped.
    shape: Vec<usize>,
    /// Values of one tensor (below 2^63, as every header field is at most 2^31).
    len: u64,
}

/// The header if the file is a llama2.c checkpoint: version 1 by its magic, version 0, which has none, by a plausible
/// header that explains the file size to the byte.
///
/// # Errors
/// A version-1 file that is damaged, or a later version.
pub(crate) fn recognise(file: &str, bytes: &[u8]) -> Result<Option<Header>, FormatError> {
    let error = |reason: String| FormatError::container(file, reason);
    if !bytes.starts_with(MAGIC) {
        let header = ints::<7>(bytes, 0).and_then(|ints| header(0, ints, ints[5] > 0));
        return Ok(header.filter(|header| file_len(header) == Some(bytes.len() as u64)));
    }
    let version = ints::<1>(bytes, 4).map(|[version]| version);
    match version {
        Some(1) => {}
        Some(2) => {
            return Err(error(
                "llama2.c version 2 (int8 groups) is not supported; export the model again as version 1 (float32)"
                    .to_owned(),
            ));
        }
        Some(other) => return Err(error(format!("llama2.c version {other} is unknown; 0 and 1 can be read"))),
        None => return Err(error(format!("llama2.c file of {} bytes: the header is cut off", bytes.len()))),
    }
    let Some((ints, &shared)) = ints::<7>(bytes, 8).zip(bytes.get(36)) else {
        return Err(error(format!("llama2.c file of {} bytes: the header is cut off", bytes.len())));
    };
    let Some(header) = header(1, ints, shared != 0) else {
        return Err(error(format!("llama2.c header with impossible sizes {ints:?}; the file is damaged")));
    };
    match file_len(&header) {
        Some(len) if len == bytes.len() as u64 => Ok(Some(header)),
        len => Err(error(format!(
            "has {} bytes where its llama2.c header needs {}; it is damaged or cut off",
            bytes.len(),
            len.map_or_else(|| "more than can be counted".to_owned(), |len| len.to_string())
        ))),
    }
}

fn ints<const N: usize>(bytes: &[u8], at: usize) -> Option<[i32; N]> {
    let words = bytes.get(at..at.checked_add(4 * N)?)?.as_chunks::<4>().0;
    Some(std::array::from_fn(|i| i32::from_le_bytes(words[i])))
}

/// The header, if its sizes belong to a model.
fn header(version: u32, ints: [i32; 7], shared_classifier: bool) -> Option<Header> {
    // A negative vocabulary is the sign of version 0 for an output head of its own.
    let sizes = ints.map(|n| if version == 0 { n.unsigned_abs() } else { u32::try_from(n).unwrap_or(0) } as usize);
    let negative = ints.iter().enumerate().any(|(i, &n)| n <= 0 && !(version == 0 && i == 5 && n < 0));
    let [dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len] = sizes;
    let plausible = !negative
        && n_layers <= MAX_LAYERS
        && dim % n_heads == 0
        && n_heads % n_kv_heads == 0
        && (dim / n_heads) % 2 == 0;
    plausible.then_some(Header {
        version,
        dim,
        hidden_dim,
        n_layers,
        n_heads,
        n_kv_heads,
        vocab_size,
        seq_len,
        shared_classifier,
    })
}

/// All tensors in the order of the file (llama2.c `run.c` for version 0, `export.py` for version 1).
fn pieces(h: &Header) -> Vec<Piece> {
    let piece = |name, per_layer, shape: &[usize]| Piece {
        name,
        per_layer,
        shape: shape.to_vec(),
        len: shape.iter().map(|&n| n as u64).product(),
    };
    let kv_dim = h.dim / h.n_heads * h.n_kv_heads;
    let embedding = piece("model.embed_tokens.weight", false, &[h.vocab_size, h.dim]);
    let attention_norm = piece("input_layernorm.weight", true, &[h.dim]);
    let ffn_norm = piece("post_attention_layernorm.weight", true, &[h.dim]);
    let norm = piece("model.norm.weight", false, &[h.dim]);
    let attention = [
        piece("self_attn.q_proj.weight", true, &[h.dim, h.dim]),
        piece("self_attn.k_proj.weight", true, &[kv_dim, h.dim]),
        piece("self_attn.v_proj.weight", true, &[kv_dim, h.dim]),
        piece("self_attn.o_proj.weight", true, &[h.dim, h.dim]),
    ];
    let ffn = [
        piece("mlp.gate_proj.weight", true, &[h.hidden_dim, h.dim]),
        piece("mlp.down_proj.weight", true, &[h.dim, h.hidden_dim]),
        piece("mlp.up_proj.weight", true, &[h.hidden_dim, h.dim]),
    ];
    let mut all = Vec::new();
    if h.version == 0 {
        all.extend([embedding, attention_norm]);
        all.extend(attention);
        all.push(ffn_norm);
        all.extend(ffn);
        all.push(norm);
        // cos and sin of every position, which the model computes itself
        let angles = h.seq_len as u64 * (h.dim / h.n_heads / 2) as u64;
        all.push(Piece { name: "freq_cis", per_layer: false, shape: Vec::new(), len: 2 * angles });
    } else {
        all.extend([attention_norm, ffn_norm, norm, embedding]);
        all.extend(attention);
        all.extend(ffn);
    }
    if !h.shared_classifier {
        all.push(piece("lm_head.weight", false, &[h.vocab_size, h.dim]));
    }
    all
}

fn header_len(h: &Header) -> usize {
    if h.version == 0 { HEADER_V0 } else { HEADER_V1 }
}

/// Size of the whole file; `None` when it overflows.
fn file_len(h: &Header) -> Option<u64> {
    pieces(h).iter().try_fold(header_len(h) as u64, |sum, piece| {
        let count = if piece.per_layer { h.n_layers as u64 } else { 1 };
        sum.checked_add(piece.len.checked_mul(count)?.checked_mul(4)?)
    })
}

/// The tensors; `header` must have been recognised in `bytes`.
pub(crate) fn tensors(header: &Header, bytes: &Bytes) -> BTreeMap<String, Tensor> {
    let mut tensors = BTreeMap::new();
    let mut at = header_len(header);
    for piece in pieces(header) {
        for layer in 0..if piece.per_layer { header.n_layers } else { 1 } {
            let end = at + 4 * piece.len as usize;
            if !piece.shape.is_empty() {
                let name = match piece.per_layer {
                    true => format!("model.layers.{layer}.{}", piece.name),
                    false => piece.name.to_owned(),
                };
                let (shape, bytes) = (piece.shape.clone(), bytes.slice(at..end));
                tensors.insert(name.clone(), Tensor { name, shape, encoding: Encoding::F32, bytes });
            }
            at = end;
        }
    }
    tensors
}
