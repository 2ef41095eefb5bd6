//! One answer in the making: from logits to tokens, text and the reason to end. Sessions and the scheduler both drive it.

use crate::grammar::Constraint;
use crate::proposer::Proposer;
use crate::sampler::{self, Sampler, logprobs};
use crate::sequence::Sequence;
use crate::stop::StopTexts;
use crate::tracking::Tracker;
use crate::{Engine, FinishReason, GenerateRequest, InferenceError, REPEAT_LIMIT, TokenEvent, TokenLogprob, Usage};
use bitnet_kernels::Top;
use bitnet_models::DecodeStream;
use std::ops::{Deref, Range};
use std::time::Instant;

/// More alternatives than this are not reported.
const MAX_LOGPROBS: usize = 100;

/// Checks a request and gives the tokens of its prompt, with room for an answer in `context` positions.
pub(crate) fn prompt(engine: &Engine, request: &GenerateRequest, context: usize) -> Result<Vec<u32>, InferenceError> {
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
    if let Some(keep) = request.slide.filter(|&keep| keep + 2 > context) {
        return refuse("slide", format!("keeping {keep} tokens leaves nothing to slide in a context of {context}"));
    }
    sampler::check(config.vocab, &request.sampling)?;
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
    Ok(ids)
}

/// Compiles the grammar of a request, if it has one. Takes long where grammars are large.
pub(crate) fn constraint(engine: &Engine, request: &GenerateRequest) -> Result<Option<Constraint>, InferenceError> {
    request.grammar.as_ref().map(|grammar| engine.grammars()?.compile(grammar)).transpose()
}

/// Tokens to forget when `len` tokens are too many: the older half of those after the first `keep`.
fn dropped(len: usize, keep: usize) -> Range<usize> {
    keep..keep + (len - keep).div_ceil(2)
}

/// What a request has come to so far.
pub(crate) struct Answer<'e> {
    /// Counts and times so far; who drives the answer keeps the times.
    pub(crate) usage: Usage,
    sampler: Sampler,
    constraint: Option<Constraint>,
    decoder: Option<DecodeStream<'e>>,
    stop: StopTexts,
    stop_ids: &'e [u32],
    max_tokens: usize,
    context: usize,
    slide: Option<usize>,
    logprobs: Option<usize>,
    /// The last token and how often it came in a row.
    repeats: (u32, usize),
    finish: Option<FinishReason>,
    begin: Instant,
    tracker: Option<&'e Tracker>,
}

impl<'e> Answer<'e> {
    /// The empty answer to a request that [`prompt`] has found good, `ids` being its prompt and `constraint` its grammar.
    pub(crate) fn new(
        engine: &'e Engine,
        request: &GenerateRequest,
        ids: &[u32],
        constraint: Option<Constraint>,
        context: usize,
        begin: Instant,
    ) -> Result<Self, InferenceError> {
        let mut decoder = engine.tokenizer().map(|tokenizer| tokenizer.stream());
        if let Some(decoder) = &mut decoder {
            // the decoder must know that the text goes on: word borders depend on it
            for &id in ids {
                decoder.push(id);
            }
        }
        Ok(Answer {
            usage: Usage { prompt_tokens: ids.len(), ..Usage::default() },
            sampler: Sampler::new(engine.model().config().vocab, &request.sampling)?,
            constraint,
            decoder,
            stop: StopTexts::new(&request.stop),
            stop_ids: engine.tokenizer().filter(|_| request.stop_at_eos).map_or(&[][..], |t| t.stop_ids()),
            max_tokens: request.max_tokens,
            context,
            slide: request.slide,
            logprobs: request.logprobs,
            repeats: (u32::MAX, 0),
            finish: (request.max_tokens == 0).then_some(FinishReason::Length),
            begin,
            tracker: engine.tracker().map(Deref::deref),
        })
    }

    /// Why it ended; `None` while it goes on.
    pub(crate) fn finish(&self) -> Option<FinishReason> {
        self.finish
    }

    /// How many more tokens it may have.
    pub(crate) fn left(&self) -> usize {
        self.max_tokens.saturating_sub(self.usage.new_tokens)
    }

    /// Notes a guess of the draft model.
    pub(crate) fn drafted(&mut self, proposer: &Proposer) {
        if proposer.by_draft {
            self.usage.drafted_tokens += proposer.guess.len();
        }
    }

    /// The tokens to forget before the next one, when there are `len` and the context is full.
    pub(crate) fn slides(&self, len: usize) -> Option<Range<usize>> {
        self.slide.filter(|_| len >= self.context).map(|keep| dropped(len, keep))
    }

    /// The logits that [`choose`](Self::choose) needs after `history`; `None`: all.
    pub(crate) fn wanted(&mut self, history: &[u32]) -> Option<Top<'_>> {
        match (self.logprobs, &self.constraint) {
            (Some(_), _) => None, // log-probabilities need the sum over the vocabulary
            (_, Some(_)) => None, // what a grammar allows may be anywhere
            (None, None) => self.sampler.wanted(history),
        }
    }

    /// Chooses the next token and appends it to the sequence. Allocates nothing, except for grammars.
    pub(crate) fn choose(
        &mut self,
        logits: &[f32],
        complete: bool,
        sequence: &mut Sequence,
    ) -> Result<u32, InferenceError> {
        let begin = self.tracker.map(|tracker| (tracker, Instant::now()));
        let (logits, complete) = match &mut self.constraint {
            Some(constraint) => {
                sampler::check_finite(logits)?;
                (constraint.restrict(logits)?, false)
            }
            None => (logits, complete),
        };
        let id = self.sampler.sample_computed(logits, complete, sequence.tokens())?;
        if let Some((tracker, begin)) = begin {
            tracker.sampled(begin.elapsed());
        }
        sequence.push(id);
        self.usage.new_tokens += 1;
        self.repeats = if self.repeats.0 == id { (id, self.repeats.1 + 1) } else { (id, 1) };
        let stops = self.stop_ids.contains(&id);
        let ended = match &mut self.constraint {
            Some(constraint) if !stops => constraint.accept(id)?,
            _ => false,
        };
        self.finish = if stops {
            Some(FinishReason::EndOfText)
        } else if ended {
            Some(FinishReason::Complete)
        } else if self.usage.new_tokens >= self.max_tokens {
            Some(FinishReason::Length)
        } else if self.repeats.1 >= REPEAT_LIMIT {
            Some(FinishReason::Degenerate)
        } else if self.slide.is_none() && sequence.tokens().len() >= self.context {
            Some(FinishReason::ContextFull)
        } else {
            None
        };
        Ok(id)
    }

    /// What to tell about the token that was just chosen from `logits`; may find a stop text.
    pub(crate) fn event(&mut self, id: u32, logits: &[f32]) -> TokenEvent {
        let mut top: Vec<TokenLogprob> = Vec::new();
        let logprob = self.logprobs.map(|n| logprobs(logits, id, n, &mut top));
        let (text, stop) = self.text(id);
        TokenEvent { id, text, logprob, top, stop, elapsed: self.begin.elapsed() }
    }

    /// Text that became certain with `id`, and the stop text that it completes.
    fn text(&mut self, id: u32) -> (String, Option<usize>) {
        let mut text = String::new();
        let Some(decoder) = &mut self.decoder else { return (text, None) };
        let mut stopped = None;
        if self.finish != Some(FinishReason::EndOfText) {
            stopped = self.stop.push(decoder.push(id), &mut text);
        }
        if self.finish.is_some() && stopped.is_none() {
            stopped = self.stop.push(decoder.finish(), &mut text);
            if stopped.is_none() {
                self.stop.finish(&mut text);
            }
        }
        if stopped.is_some() {
            self.finish = Some(FinishReason::StopText);
        }
        (text, stopped)
    }
}
