//! Text embeddings: hidden states, pooled.

use super::{Engine, Run, Working};
use crate::InferenceError;
use crate::sequence::Sequence;
use crate::tracking::Phase;
use bitnet_kernels::PAGE_LEN;
use bitnet_models::{Encoding, Pooling};

/// Tokens of a chunk where others may wait for its end ([`Engine::sequences`]): as many as a scheduler's step reads of prompts.
const BESIDE_OTHERS: usize = 64;

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
        let chunk = if self.sequences > 1 { BESIDE_OTHERS.min(self.shape.max_tokens) } else { self.shape.max_tokens };
        let mut rows = vec![0.0; chunk.min(ids.len()) * hidden];
        let mut pooled = vec![0.0f64; hidden];
        let mut text = Text::begin(self, ids)?;
        for ids in ids.chunks(chunk) {
            if !go_on() {
                return Ok(None);
            }
            let rows = &mut rows[..ids.len() * hidden];
            text.hidden(ids.len(), rows)?;
            if pooling == Pooling::Last {
                pooled.fill(0.0);
            }
            let first = if pooling == Pooling::Last { rows.len() - hidden } else { 0 };
            for row in rows[first..].chunks_exact(hidden) {
                pooled.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
            }
        }
        normalize(&pooled).map(Some)
    }
}

/// A text on its way through the network. It holds all of its pages from the start, so that it always gets to its end,
/// for which others can wait; between its chunks others have their steps.
struct Text<'e> {
    engine: &'e Engine,
    sequence: Sequence,
}

impl<'e> Text<'e> {
    fn begin(engine: &'e Engine, ids: &[u32]) -> Result<Self, InferenceError> {
        let mut sequence = Sequence::new(ids.len());
        ids.iter().for_each(|&id| sequence.push(id)); // no look at cached pages: they hold no hidden states
        let mut working = engine.working();
        loop {
            let Working { state, pool, .. } = &mut *working;
            match sequence.reserve(ids.len(), pool, |from, to| engine.model.copy_page(state, from, to)) {
                Ok(()) => break,
                Err(error) => {
                    sequence.suspend(pool);
                    working = engine.after_a_text(working).ok_or(error)?;
                }
            }
        }
        working.texts += 1;
        Ok(Text { engine, sequence })
    }

    /// Computes the next `len` tokens and their hidden states, `[len, hidden]`.
    fn hidden(&mut self, len: usize, rows: &mut [f32]) -> Result<(), InferenceError> {
        let Text { engine, sequence } = self;
        let working = &mut *engine.working();
        let _step = engine.model.backend().step(Phase::Scoring, len);
        let end = sequence.computed() + len;
        working.batch.clear();
        working.push(&engine.model, &mut Run { sequence, end, logits: 0 })?;
        engine.model.hidden(&mut working.state, &working.batch, rows);
        sequence.advance(end, &mut working.pool);
        Ok(())
    }
}

impl Drop for Text<'_> {
    fn drop(&mut self) {
        let working = &mut *self.engine.working();
        self.sequence.truncate(0, &mut working.pool);
        working.texts -= 1;
        self.engine.text_ended.notify_all();
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
