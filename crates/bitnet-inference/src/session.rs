//! A conversation with its cached past.

use crate::answer::{self, Answer};
use crate::sequence::Sequence;
use crate::{Engine, FinishReason, GenerateRequest, InferenceError, TokenEvent, Usage};
use std::time::Instant;

/// A sequence of tokens whose keys and values stay cached: the next request re-reads only what differs.
pub struct Session<'e> {
    engine: &'e Engine,
    sequence: Sequence,
    /// Of the last computed token.
    logits: Vec<f32>,
    /// False when only those are there that the sampler wanted.
    complete: bool,
}

impl<'e> Session<'e> {
    pub(crate) fn new(engine: &'e Engine) -> Self {
        Session {
            engine,
            sequence: Sequence::new(engine.context()),
            logits: vec![0.0; engine.model().config().vocab],
            complete: true,
        }
    }

    /// Tokens in the session so far.
    pub fn tokens(&self) -> &[u32] {
        self.sequence.tokens()
    }

    /// Forgets the tokens from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.engine.with_pool(|pool| self.sequence.truncate(len, pool));
    }

    /// Starts generating. The prompt is the whole past: its longest common prefix with the session (or with another
    /// cached prompt) is not computed again. Nothing is computed before the first token is asked for. Dropping the
    /// [`Generation`] cancels it; the session keeps the tokens made so far.
    ///
    /// # Errors
    /// Options outside their range, a prompt that does not fit, text without tokenizer.
    pub fn generate(&mut self, request: &GenerateRequest) -> Result<Generation<'_, 'e>, InferenceError> {
        let begin = Instant::now();
        let engine = self.engine;
        let ids = answer::prompt(engine, request, engine.context())?;
        let constraint = answer::constraint(engine, request)?;
        let mut answer = Answer::new(engine, request, &ids, constraint, engine.context(), begin)?;
        engine.with_pool(|pool| self.sequence.replace(&ids, pool));
        answer.usage.cached_tokens = self.sequence.computed();
        Ok(Generation { session: self, answer, failed: false })
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.truncate(0);
    }
}

/// A running generation: an iterator of token events.
pub struct Generation<'s, 'e> {
    session: &'s mut Session<'e>,
    answer: Answer<'e>,
    failed: bool,
}

impl Generation<'_, '_> {
    /// Why it ended; `None` while running, or after an error.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.answer.finish()
    }

    /// Counts and times so far.
    pub fn usage(&self) -> Usage {
        self.answer.usage.clone()
    }

    /// Reads one more chunk of the prompt; false when it is read. The first token does this by itself: this is for
    /// callers that show progress or may give up in between.
    ///
    /// # Errors
    /// [`InferenceError::CacheFull`].
    pub fn read_prompt_chunk(&mut self) -> Result<bool, InferenceError> {
        let Session { engine, sequence, logits, complete } = &mut *self.session;
        if sequence.computed() == sequence.tokens().len() {
            return Ok(false);
        }
        let start = Instant::now();
        *complete = engine.step(sequence, self.answer.wanted(sequence.tokens()), logits)?.complete;
        let usage = &mut self.answer.usage;
        let time = match usage.new_tokens {
            0 => &mut usage.prompt_time,
            _ => &mut usage.decode_time,
        };
        *time += start.elapsed();
        Ok(sequence.computed() < sequence.tokens().len())
    }

    /// The next token without its text: stop texts are not looked for. `None` after the last one. Allocates nothing.
    ///
    /// # Errors
    /// See [`InferenceError`]; nothing follows an error.
    pub fn next_token(&mut self) -> Option<Result<u32, InferenceError>> {
        if self.answer.finish().is_some() || self.failed {
            return None;
        }
        let token = self.choose();
        self.failed = token.is_err();
        Some(token)
    }

    fn choose(&mut self) -> Result<u32, InferenceError> {
        if let Some(range) = self.answer.slides(self.session.tokens().len()) {
            let Session { engine, sequence, .. } = &mut *self.session;
            engine.with_pool(|pool| sequence.remove(range.start, range.end, pool));
        }
        while self.read_prompt_chunk()? {}
        let start = Instant::now();
        let Session { sequence, logits, complete, .. } = &mut *self.session;
        let id = self.answer.choose(logits, *complete, sequence)?;
        self.answer.usage.decode_time += start.elapsed();
        Ok(id)
    }
}

impl Iterator for Generation<'_, '_> {
    type Item = Result<TokenEvent, InferenceError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_token()?.map(|id| self.answer.event(id, &self.session.logits)))
    }
}
