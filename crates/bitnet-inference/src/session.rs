//! A conversation with its cached past.

use crate::answer::{self, Answer};
use crate::engine::Run;
use crate::proposer::{Asking, MOST, Proposer};
use crate::sequence::Sequence;
use crate::{Engine, FinishReason, GenerateRequest, InferenceError, TokenEvent, Usage};
use bitnet_kernels::{Top, Wanted};
use std::time::Instant;

/// A sequence of tokens whose keys and values stay cached: the next request re-reads only what differs.
pub struct Session<'e> {
    engine: &'e Engine,
    sequence: Sequence,
    /// Of the last computed token; with a draft model also of those that were guessed after it. `[rows, vocab]`.
    logits: Vec<f32>,
    /// The row of the next token.
    row: usize,
    proposer: Proposer,
    /// False when only those are there that the sampler wanted.
    complete: bool,
}

impl<'e> Session<'e> {
    pub(crate) fn new(engine: &'e Engine) -> Self {
        let rows = if engine.draft().is_some() { 1 + MOST } else { 1 };
        Session {
            engine,
            sequence: Sequence::new(engine.context()),
            logits: vec![0.0; rows * engine.model().config().vocab],
            row: 0,
            proposer: Proposer::new(),
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
        self.proposer.guess.clear();
        answer.usage.cached_tokens = self.sequence.computed();
        Ok(Generation { session: self, answer, failed: false })
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.truncate(0);
        self.proposer.suspend(self.engine);
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
        let Session { engine, sequence, logits, row, proposer, complete } = &mut *self.session;
        let len = sequence.tokens().len();
        if sequence.computed() == len {
            return Ok(false);
        }
        let start = Instant::now();
        *row = 0;
        let mut asking = [Asking::new(proposer, sequence, engine.context(), self.answer.left())];
        if engine.draft().is_some() && sequence.computed() + 1 == len {
            engine.guess(&mut asking, MOST);
        }
        if proposer.guess.is_empty() {
            *complete = engine.step(sequence, self.answer.wanted(sequence.tokens()), logits)?.complete;
        } else {
            self.answer.drafted(proposer);
            *complete = check(engine, sequence, &proposer.guess, &mut self.answer, logits)?;
        }
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
        let Session { engine, sequence, logits, row, proposer, complete } = &mut *self.session;
        let vocab = engine.model().config().vocab;
        let id = self.answer.choose(&logits[*row * vocab..(*row + 1) * vocab], *complete, sequence)?;
        if proposer.came(*row, id) {
            // it was computed with the token before it
            engine.with_pool(|pool| sequence.advance(sequence.tokens().len(), pool));
            self.answer.usage.drafted_right += usize::from(proposer.by_draft);
        }
        *row += 1;
        self.answer.usage.decode_time += start.elapsed();
        Ok(id)
    }
}

/// Computes the last token of a sequence and a guess of what follows it, and the logits of all of them. True when they are complete.
fn check(
    engine: &Engine,
    sequence: &mut Sequence,
    guess: &[u32],
    answer: &mut Answer<'_>,
    logits: &mut [f32],
) -> Result<bool, InferenceError> {
    let len = sequence.tokens().len();
    guess.iter().for_each(|&id| sequence.push(id));
    let end = sequence.tokens().len();
    // what is wanted after a token is also wanted before it
    let tops = answer.wanted(sequence.tokens()).map(|top| [top; 1 + MOST]);
    let rows = 1 + guess.len();
    let wanted = tops.as_ref().map_or(Wanted::All, |tops: &[Top<'_>; 1 + MOST]| Wanted::Top(&tops[..rows]));
    let computed = engine.step_together(&mut [Run { sequence, end, logits: rows }], wanted, logits);
    engine.with_pool(|pool| sequence.truncate(len, pool));
    Ok(computed?.complete)
}

impl Iterator for Generation<'_, '_> {
    type Item = Result<TokenEvent, InferenceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let id = self.next_token()?;
        let vocab = self.session.engine.model().config().vocab;
        let end = self.session.row * vocab;
        Some(id.map(|id| self.answer.event(id, &self.session.logits[end - vocab..end])))
    }
}
