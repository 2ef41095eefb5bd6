//! What the vocabulary in the metadata must look like, whoever reads it (formats.md §1.4, checks 6 and 11).

use super::Metadata;
use crate::{FormatError, Tensor};
use std::collections::BTreeMap;

/// Checks types and lengths of the tokenizer arrays and that a declared vocabulary size has a vocabulary or an
/// embedding of that size.
pub(crate) fn check(metadata: &Metadata, tensors: &BTreeMap<String, Tensor>) -> Result<(), FormatError> {
    let error = |key: &str, reason: String| Err(FormatError::metadata(metadata.file(), key, reason));
    let tokens = metadata.strings("tokenizer.ggml.tokens")?.map(|tokens| tokens.len());
    metadata.strings("tokenizer.ggml.merges")?;
    let lengths = [
        ("tokenizer.ggml.scores", metadata.f32s("tokenizer.ggml.scores")?.map(<[f32]>::len)),
        ("tokenizer.ggml.token_type", metadata.i32s("tokenizer.ggml.token_type")?.map(<[i32]>::len)),
    ];
    for (key, len) in lengths {
        if let Some(len) = len
            && tokens != Some(len)
        {
            return error(key, format!("has {len} elements for {} tokens", tokens.unwrap_or(0)));
        }
    }
    let Some(arch) = metadata.string("general.architecture")? else { return Ok(()) };
    let key = format!("{arch}.vocab_size");
    let Some(declared) = metadata.u64(&key)? else { return Ok(()) };
    let rows = tensors.get("token_embd.weight").map(|embedding| embedding.matrix().0);
    if [tokens, rows].iter().flatten().all(|&n| n as u64 != declared) {
        let found = |n: Option<usize>| n.map_or_else(|| "none".to_owned(), |n| n.to_string());
        return error(
            &key,
            format!(
                "declares {declared} tokens, but tokenizer.ggml.tokens has {} and token_embd.weight has {} rows",
                found(tokens),
                found(rows)
            ),
        );
    }
    Ok(())
}
