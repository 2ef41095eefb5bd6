//! A conversation with its cached past.

use crate::sampler::{Sampler, logprobs};
use crate::sequence::Sequence;
use crate::stop::StopTexts;
use crate::{Engine, FinishReason, GenerateRequest, InferenceError, REPEAT_LIMIT, TokenEvent, TokenLogprob, Usage};
use bitnet_models::DecodeStream;
use std::time::Instant;

/// More alternatives than this are not reported.
const MAX_LOGPROBS: usize = 100;

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
        let engine = self.engine;
        let begin = Instant::now();
        let refuse = |option, reason: String| Err(InferenceError::Option { option, reason });
        let config = engine.model().config();
        if config.pooling.is_some() {
            return refuse("model", "is an embedding model: it gives vectors, not text".into());
        }
        if let Some(n) = request.logprobs.filter(|&n| n > MAX_LOGPROBS) {
            return refuse("logprobs", format!("{n} is more than {MAX_LOGPROBS}"));
        }
        if request.stop.iter().any(String::is_empty) {
            return refuse("stop", "an empty text stops everywhere".into());
        }
        if !request.stop.is_empty() {
            engine.require_tokenizer()?; // stop texts are looked for in text
        }
        let context = engine.context();
        if let Some(keep) = request.slide.filter(|&keep| keep + 2 > context) {
            return refuse("slide", format!("keeping {keep} tokens leaves nothing to slide in a context of {context}"));
        }
        let sampler = Sampler::new(config.vocab, &request.sampling)?;
        let mut ids = engine.prompt_ids(request)?;
        engine.check_ids(&ids, usize::MAX)?;
        // one position must be left for an answer
        while let Some(keep) = request.slide
            && ids.len() >= context
        {
            ids.drain(dropped(ids.len(), keep));
        }
        if ids.len() >= context {
            return Err(InferenceError::ContextFull { tokens: ids.len() + 1, context });
        }
        engine.with_pool(|pool| self.sequence.replace(&ids, pool));
        let mut decoder = engine.tokenizer().map(|tokenizer| tokenizer.stream());
        if let Some(decoder) = &mut decoder {
            // the decoder must know that the text goes on: word borders depend on it
            for &id in &ids {
                decoder.push(id);
            }
        }
        let stop_ids = engine.tokenizer().filter(|_| request.stop_at_eos).map_or(&[][..], |t| t.stop_ids());
        Ok(Generation {
            usage: Usage { prompt_tokens: ids.len(), cached_tokens: self.sequence.computed(), ..Usage::default() },
            session: self,
            sampler,
            decoder,
            stop: StopTexts::new(&request.stop),
            stop_ids: stop_ids.to_vec(),
            max_tokens: request.max_tokens,
            slide: request.slide,
            logprobs: request.logprobs,
            repeats: (u32::MAX, 0),
            finish: (request.max_tokens == 0).then_some(FinishReason::Length),
            failed: false,
            begin,
        })
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.truncate(0);
    }
}

/// Tokens to forget when `len` tokens are too many: the older half of those after the first `keep`.
fn dropped(len: usize, keep: usize) -> std::ops::Range<usize> {
    keep..keep + (len - keep).div_ceil(2)
}

/// A running generation: an iterator of token events.
pub struct Generation<'s, 'e> {
    session: &'s mut Session<'e>,
    sampler: Sampler,
    decoder: Option<DecodeStream<'e>>,
    stop: StopTexts,
    stop_ids: Vec<u32>,
    max_tokens: usize,
    slide: Option<usize>,
    logprobs: Option<usize>,
    /// The last token and how often it came in a row.
    repeats: (u32, usize),
    finish: Option<FinishReason>,
    failed: bool,
    begin: Instant,
    usage: Usage,
}

impl Generation<'_, '_> {
    /// Why it ended; `None` while running, or after an error.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    /// Counts and times so far.
    pub fn usage(&self) -> Usage {
        self.usage.clone()
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
        // log-probabilities need the sum over the vocabulary
        let wanted = if self.logprobs.is_some() { None } else { self.sampler.wanted(sequence.tokens()) };
        *complete = engine.step(sequence, wanted, logits)?.complete;
        let time = match self.usage.new_tokens {
            0 => &mut self.usage.prompt_time,
            _ => &mut self.usage.decode_time,
        };
        *time += start.elapsed();
        Ok(sequence.computed() < sequence.tokens().len())
    }

    /// The next token without its text: stop texts are not looked for. `None` after the last one. Allocates nothing.
    ///
    /// # Errors
    /// See [`InferenceError`]; nothing follows an error.
    pub fn next_token(&mut self) -> Option<Result<u32, InferenceError>> {
        if self.finish.is_some() || self.failed {
            return None;
        }
        let token = self.choose();
        self.failed = token.is_err();
        Some(token)
    }

    fn choose(&mut self) -> Result<u32, InferenceError> {
        let context = self.session.engine.context();
        if let Some(keep) = self.slide
            && self.session.tokens().len() >= context
        {
            let Session { engine, sequence, .. } = &mut *self.session;
            let range = dropped(sequence.tokens().len(), keep);
            engine.with_pool(|pool| sequence.remove(range.start, range.end, pool));
        }
        while self.read_prompt_chunk()? {}
        let start = Instant::now();
        let Session { sequence, logits, complete, .. } = &mut *self.session;
        let id = self.sampler.sample_computed(logits, *complete, sequence.tokens())?;
        sequence.push(id);
        self.usage.new_tokens += 1;
        self.usage.decode_time += start.elapsed();
        self.repeats = if self.repeats.0 == id { (id, self.repeats.1 + 1) } else { (id, 1) };
        self.finish = if self.stop_ids.contains(&id) {
            Some(FinishReason::EndOfText)
        } else if self.usage.new_tokens >= self.max_tokens {
            Some(FinishReason::Length)
        } else if self.repeats.1 >= REPEAT_LIMIT {
            Some(FinishReason::Degenerate)
        } else if self.slide.is_none() && sequence.tokens().len() >= context {
            Some(FinishReason::ContextFull)
        } else {
            None
        };
        Ok(id)
    }

    /// Text that became certain with `id`.
    fn text(&mut self, id: u32) -> String {
        let mut text = String::new();
        let Some(decoder) = &mut self.decoder else { return text };
        let mut stopped = false;
        if self.finish != Some(FinishReason::EndOfText) {
            stopped = self.stop.push(decoder.push(id), &mut text);
        }
        if self.finish.is_some() && !stopped {
            stopped = self.stop.push(decoder.finish(), &mut text);
            if !stopped {
                self.stop.finish(&mut text);
            }
        }
        if stopped {
            self.finish = Some(FinishReason::StopText);
        }
        text
    }
}

impl Iterator for Generation<'_, '_> {
    type Item = Result<TokenEvent, InferenceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let id = match self.next_token()? {
            Ok(id) => id,
            Err(error) => return Some(Err(error)),
        };
        let mut top: Vec<TokenLogprob> = Vec::new();
        let logprob = self.logprobs.map(|n| logprobs(&self.session.logits, id, n, &mut top));
        Some(Ok(TokenEvent { id, text: self.text(id), logprob, top, elapsed: self.begin.elapsed() }))
    }
}
