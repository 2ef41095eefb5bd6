//! Log-probabilities as OpenAI writes them.

use bitnet_inference::{TokenEvent, TokenLogprob};
use bitnet_models::Tokenizer;
use serde_json::{Map, Value, json};

/// Bytes of a token: its text where it stands for some, else its name.
fn bytes(tokenizer: Option<&Tokenizer>, id: u32) -> Vec<u8> {
    let tokenizer = tokenizer.filter(|tokenizer| (id as usize) < tokenizer.vocab_size());
    let own = tokenizer.and_then(|t| t.bytes(id).or_else(|| t.text(id).map(str::as_bytes)));
    own.map_or_else(|| format!("<{id}>").into_bytes(), <[u8]>::to_vec)
}

fn text(tokenizer: Option<&Tokenizer>, id: u32) -> String {
    String::from_utf8_lossy(&bytes(tokenizer, id)).into_owned()
}

/// Of a chat answer: a list with one entry per token.
pub(crate) fn chat(tokenizer: Option<&Tokenizer>, events: &[TokenEvent]) -> Value {
    let entry = |id: u32, logprob: f32| {
        let bytes = bytes(tokenizer, id);
        json!({ "token": String::from_utf8_lossy(&bytes), "logprob": logprob, "bytes": bytes })
    };
    let token = |event: &TokenEvent| {
        let mut value = entry(event.id, event.logprob.unwrap_or(0.0));
        value["top_logprobs"] = event.top.iter().map(|top| entry(top.id, top.logprob)).collect();
        value
    };
    json!({ "content": events.iter().map(token).collect::<Vec<_>>(), "refusal": null })
}

/// Of a completion: four lists side by side. `offset` is where the first token's text begins, in characters; it is
/// moved on.
pub(crate) fn completion(tokenizer: Option<&Tokenizer>, events: &[TokenEvent], offset: &mut usize) -> Value {
    let mut offsets = Vec::with_capacity(events.len());
    for event in events {
        offsets.push(*offset);
        *offset += text(tokenizer, event.id).chars().count();
    }
    let top = |tops: &[TokenLogprob]| {
        tops.iter().map(|top| (text(tokenizer, top.id), json!(top.logprob))).collect::<Map<_, _>>()
    };
    json!({
        "tokens": events.iter().map(|event| text(tokenizer, event.id)).collect::<Vec<_>>(),
        "token_logprobs": events.iter().map(|event| event.logprob).collect::<Vec<_>>(),
        "top_logprobs": events.iter().map(|event| top(&event.top)).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}
