//! Does the output compute what the input does?

use crate::{LoadOptions, Model, ModelError, StateShape};
use bitnet_formats::Checkpoint;
use bitnet_kernels::{Backend, Batch, KvFormat, PAGE_LEN};

/// Tokens of the comparison: enough to pass every block with attention over several positions.
const TOKENS: usize = 24;

/// How much the results of two models differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likeness {
    /// The results are the same bits.
    pub identical: bool,
    /// Largest absolute difference.
    pub largest_difference: f32,
    /// Cosine of the angle between all results taken as one vector.
    pub cosine: f64,
}

/// Runs both models on the same tokens and compares logits (of embedding models: hidden states) at every position. The
/// second is loaded after the first is gone; `backend` is asked for one backend each.
///
/// # Errors
/// When one of them cannot be loaded, or when they have different shapes.
pub fn compare_logits<B: Backend>(
    input: &Checkpoint,
    input_options: &LoadOptions,
    output: &Checkpoint,
    mut backend: impl FnMut() -> Result<B, ModelError>,
) -> Result<Likeness, ModelError> {
    let expected = results(input, input_options, backend()?)?;
    let found = results(output, &LoadOptions::default(), backend()?)?;
    if expected.len() != found.len() {
        let reason = format!("{} results where the input gives {}", found.len(), expected.len());
        return Err(ModelError::Config(reason));
    }
    let identical = expected.iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits());
    let (mut ab, mut aa, mut bb, mut largest) = (0f64, 0f64, 0f64, 0f32);
    for (&a, &b) in expected.iter().zip(&found) {
        ab += a as f64 * b as f64;
        aa += a as f64 * a as f64;
        bb += b as f64 * b as f64;
        largest = largest.max(if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() });
    }
    let cosine = if identical { 1.0 } else { ab / (aa.sqrt() * bb.sqrt()) };
    Ok(Likeness { identical, largest_difference: largest, cosine })
}

/// Logits `[TOKENS, vocab]`, or hidden states `[TOKENS, hidden]` of an embedding model.
fn results<B: Backend>(checkpoint: &Checkpoint, options: &LoadOptions, backend: B) -> Result<Vec<f32>, ModelError> {
    let model = Model::load(checkpoint, backend, options)?;
    let config = model.config();
    let tokens = TOKENS.min(config.context);
    // Spread over the vocabulary, so that rows at its end are compared too.
    let ids: Vec<u32> = (0..tokens).map(|i| (i * 7919 % config.vocab) as u32).collect();
    let pages: Vec<u32> = (0..tokens.div_ceil(PAGE_LEN) as u32).collect();
    let mut state = model.state(StateShape {
        max_tokens: tokens,
        max_logits: tokens,
        kv_pages: pages.len(),
        kv_format: KvFormat::F32,
    })?;
    let mut batch = Batch::default();
    if config.pooling.is_some() {
        batch.push(0, &ids, &pages, 0);
        let mut hidden = vec![0.0; tokens * config.hidden];
        model.hidden(&mut state, &batch, &mut hidden);
        return Ok(hidden);
    }
    batch.push(0, &ids, &pages, tokens);
    model.forward(&mut state, &batch);
    let mut logits = vec![0.0; tokens * config.vocab];
    model.read_logits(&state, &mut logits);
    Ok(logits)
}
