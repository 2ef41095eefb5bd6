//! A byte-level BPE vocabulary of any size for synthetic models: 256 bytes, then merges of earlier tokens, then 256
//! special tokens, of which the first two begin and end a text.

use bitnet::formats::FormatError;
use bitnet::formats::gguf::{Array, StringArray, Value};
use std::collections::HashSet;

const SPECIAL: usize = 256;
/// No token is longer than this many bytes.
const LONGEST: usize = 16;
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// `tokenizer.*` keys for `vocab` tokens (at least 512).
pub(crate) fn metadata(vocab: usize) -> Result<Vec<(&'static str, Value)>, FormatError> {
    let mut tokens: Vec<String> = byte_characters().iter().map(|c| c.to_string()).collect();
    let mut known: HashSet<String> = tokens.iter().cloned().collect();
    let mut merges = Vec::new();
    // Every new token is an earlier one and a letter, shortest first.
    let letters: Vec<String> = "etaoinshrdlucmfwypvbgkjqxzĠ".chars().map(String::from).collect();
    let mut parts = letters.clone();
    let mut next = 0;
    'grow: while tokens.len() < vocab - SPECIAL {
        let left = parts[next].clone();
        next += 1;
        for right in &letters {
            // A space only begins a token.
            let merged = format!("{left}{right}");
            if right == "Ġ" || merged.chars().count() > LONGEST || !known.insert(merged.clone()) {
                continue;
            }
            merges.push(format!("{left} {right}"));
            parts.push(merged.clone());
            tokens.push(merged);
            if tokens.len() == vocab - SPECIAL {
                break 'grow;
            }
        }
    }
    let begin = tokens.len() as u32;
    tokens.extend(["<|begin_of_text|>".to_string(), "<|end_of_text|>".to_string()]);
    tokens.extend((2..SPECIAL).map(|i| format!("<|reserved_special_token_{i}|>")));
    let types = (0..tokens.len()).map(|id| if id < begin as usize { NORMAL } else { CONTROL }).collect();
    Ok(vec![
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("llama-bpe".into())),
        ("tokenizer.ggml.tokens", Value::Array(Array::String(StringArray::new(&tokens)?))),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(types))),
        ("tokenizer.ggml.merges", Value::Array(Array::String(StringArray::new(&merges)?))),
        ("tokenizer.ggml.bos_token_id", Value::U32(begin)),
        ("tokenizer.ggml.eos_token_id", Value::U32(begin + 1)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
    ])
}

/// The characters that stand for the 256 bytes in GPT-2 vocabularies: printable bytes for themselves, the others from
/// U+0100 on.
fn byte_characters() -> Vec<char> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0x100u32..;
    (0..=255u8)
        .map(
            |byte| {
                if printable(byte) {
                    byte as char
                } else {
                    others.next().and_then(char::from_u32).unwrap_or('\u{fffd}')
                }
            },
        )
        .collect()
}
