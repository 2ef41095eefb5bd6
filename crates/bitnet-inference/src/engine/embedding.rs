//! Text embeddings: hidden states, pooled.

use super::{Engine, Run};
use crate::InferenceError;
use crate::sequence::Sequence;
use crate::tracking::Phase;
use bitnet_kernels::PAGE_LEN;
use bitnet_models::{Encoding, Pooling};

impl Engine {
    /// One L2-normalised vector per text: pooled as the model says, and over the mean of all tokens for models that are
    /// not embedding models.
    ///
    /// # Errors
    /// Text longer than the context.
    pub fn embed(&self, text: &str) -> Result<Vec<f32>, InferenceError> {
        self.embed_ids(&self.encode(text, Encoding { bos: None, special: false })?)
    }

    /// As [`embed`](Self::embed), from token ids.
    ///
    /// # Errors
    /// No ids, ids outside the vocabulary, or more than the context.
    pub fn embed_ids(&self, ids: &[u32]) -> Result<Vec<f32>, InferenceError> {
        self.embed_ids_while(ids, &|| true).map(Option::unwrap_or_default) // never told to stop
    }

    /// As [`embed_ids`](Self::embed_ids), as long as `go_on`, which is asked before each chunk, says so; `None` if it did not.
    ///
    /// # Errors
    /// As for [`embed_ids`](Self::embed_ids).
    pub fn embed_ids_while(&self, ids: &[u32], go_on: &dyn Fn() -> bool) -> Result<Option<Vec<f32>>, InferenceError> {
        self.check_ids(ids, self.context.min(self.shape.kv_pages.saturating_mul(PAGE_LEN)))?;
        let hidden = self.model.config().hidden;
        let pooling = self.model.config().pooling.unwrap_or(Pooling::Mean);
        let mut rows = vec![0.0; self.shape.max_tokens.min(ids.len()) * hidden];
        let mut pooled = vec![0.0f64; hidden];
        let mut sequence = Sequence::new(ids.len());
        let working = &mut *self.working();
        let result = (|| {
            ids.iter().for_each(|&id| sequence.push(id)); // no look at cached pages: they hold no hidden states
            while sequence.computed() < ids.len() {
                if !go_on() {
                    return Ok(false);
                }
                let (start, end) = (sequence.computed(), self.next_chunk(&sequence));
                let _step = self.model.backend().step(Phase::Scoring, end - start);
                working.batch.clear();
                working.push(&self.model, &mut Run { sequence: &mut sequence, end, logits: 0 })?;
                let rows = &mut rows[..(end - start) * hidden];
                self.model.hidden(&mut working.state, &working.batch, rows);
                sequence.advance(end, &mut working.pool);
                if pooling == Pooling::Last {
                    pooled.fill(0.0);
                }
                let first = if pooling == Pooling::Last { rows.len() - hidden } else { 0 };
                for row in rows[first..].chunks_exact(hidden) {
                    pooled.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
                }
            }
            Ok(true)
        })();
        sequence.truncate(0, &mut working.pool); // a scheduler beside it never sees them missing
        result.and_then(|whole: bool| whole.then(|| normalize(&pooled)).transpose())
    }
}

/// Divides by the Euclidean length.
fn normalize(vector: &[f64]) -> Result<Vec<f32>, InferenceError> {
    let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    if !(length.is_finite() && length > 0.0) {
        return Err(InferenceError::Degenerate(format!("the embedding has length {length}")));
    }
    Ok(vector.iter().map(|x| (x / length) as f32).collect())
}
