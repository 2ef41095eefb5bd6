//! Logits at many positions, for scoring and comparing: a state of its own, beside the sessions.

use crate::tracking::{Phase, Tracked};
use crate::{Engine, InferenceError};
use bitnet_kernels::{Batch, Cpu, PAGE_LEN};
use bitnet_models::{State, StateShape};

/// Working memory with logits for a whole chunk.
pub(crate) struct Evaluation<'e> {
    engine: &'e Engine,
    state: State<Tracked<Cpu>>,
    batch: Batch,
    pages: Vec<u32>,
    logits: Vec<f32>,
    chunk: usize,
    positions: usize,
}

impl<'e> Evaluation<'e> {
    /// For sequences of up to `positions` tokens.
    pub(crate) fn new(engine: &'e Engine, positions: usize) -> Result<Self, InferenceError> {
        let config = engine.model().config();
        if config.pooling.is_some() {
            let reason = "is an embedding model: it has no output head, and gives vectors instead of logits".into();
            return Err(InferenceError::Option { option: "model", reason });
        }
        let context = engine.context().max(config.context);
        if positions > context {
            return Err(InferenceError::ContextFull { tokens: positions, context });
        }
        let chunk = engine.shape().max_tokens.min(positions.max(1));
        let pages = positions.div_ceil(PAGE_LEN).max(1);
        let shape = StateShape { max_tokens: chunk, max_logits: chunk, kv_pages: pages, ..engine.shape() };
        Ok(Evaluation {
            engine,
            state: engine.model().state(shape)?,
            batch: Batch::with_capacity(chunk, 1, pages),
            pages: (0..pages as u32).collect(),
            logits: vec![0.0; chunk * config.vocab],
            chunk,
            positions,
        })
    }

    /// Runs `ids` from an empty past and hands the logits of positions `from..` to `each`, in order.
    pub(crate) fn run(
        &mut self,
        ids: &[u32],
        from: usize,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), InferenceError> {
        self.engine.check_ids(ids, self.positions)?;
        let vocab = self.engine.model().config().vocab;
        let mut start = 0;
        for tokens in ids.chunks(self.chunk) {
            let end = start + tokens.len();
            let first = from.clamp(start, end);
            let step = self.engine.model().backend().step(Phase::Scoring, tokens.len());
            self.batch.clear();
            self.batch.push(start, tokens, &self.pages[..end.div_ceil(PAGE_LEN)], end - first);
            self.engine.model().forward(&mut self.state, &self.batch);
            let logits = &mut self.logits[..(end - first) * vocab];
            self.engine.model().read_logits(&self.state, logits);
            drop(step);
            for (position, row) in (first..end).zip(logits.chunks_exact(vocab)) {
                each(position, row);
            }
            start = end;
        }
        Ok(())
    }
}
