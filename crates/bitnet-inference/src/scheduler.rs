//! Continuous batching: many requests, one step at a time.
//!
//! One thread owns the steps. Requests come to it through one channel, and every request has a channel of its own on which
//! its tokens go out. A request joins and leaves between two steps; a step computes the next token of everyone who is
//! decoding, and a bounded part of the prompts that are still being read. Results do not depend on who shares a step.
//!
//! Requests are admitted first come, first served, when the KV pages for their prompts are there. When a decoding request
//! needs a page and none is left, the youngest request gives up its pages and goes back to the head of the queue; it is
//! computed again later, to the same tokens. The oldest request never gives way and fits into the pool alone, so there is
//! always one that gets on.
//!
//! While a step has room for more rows than there are sequences, those who decode guess how their text goes on (`proposer.rs`), and
//! have the guess computed with their last token.

use crate::answer::{self, Answer};
use crate::engine::Run;
use crate::grammar::Constraint;
use crate::proposer::{Asking, Proposer};
use crate::sequence::Sequence;
use crate::{Engine, FinishReason, GenerateRequest, InferenceError, Metrics, TokenEvent, Usage};
use bitnet_kernels::{PAGE_LEN, Wanted};
use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc as updates;

/// Tokens of one prompt per step, at most: what those who decode, and who comes next, wait for. A prompt of 2,000 tokens takes a twentieth
/// longer than in steps of 256; steps of 32 take a third longer, and a newcomer's first token comes later, not earlier.
const PROMPT_STEP: usize = 64;

/// Tokens per step that longer prompts share while a shorter one is read.
const BESIDE_A_SHORTER_ONE: usize = 8;

/// What a request hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// The next token.
    Token(TokenEvent),
    /// The last update.
    Finished(FinishReason, Usage),
}

type Sender = updates::Sender<Result<Update, InferenceError>>;

/// The updates of one request. As an iterator it blocks, and must not be used inside an asynchronous task; there, use
/// [`poll`](Self::poll). Dropping it cancels the request.
#[derive(Debug)]
pub struct Updates {
    receiver: updates::Receiver<Result<Update, InferenceError>>,
    prompt_tokens: usize,
    ended: bool,
}

impl Updates {
    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// The next update, when it is there; `None` after the last one.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Update, InferenceError>>> {
        match self.ended {
            true => Poll::Ready(None),
            false => self.receiver.poll_recv(context).map(|update| self.note(update)),
        }
    }

    /// Nothing follows an error or the end; a channel that closes before is an error.
    fn note(&mut self, update: Option<Result<Update, InferenceError>>) -> Option<Result<Update, InferenceError>> {
        let update = update.unwrap_or(Err(InferenceError::Stopped));
        self.ended = !matches!(update, Ok(Update::Token(_)));
        Some(update)
    }
}

impl Iterator for Updates {
    type Item = Result<Update, InferenceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let update = self.receiver.blocking_recv();
        self.note(update)
    }
}

/// Answers requests of many clients at once, on an engine that was opened for several sequences
/// ([`EngineOptions::sequences`](crate::EngineOptions::sequences)). Dropping it answers what was accepted, then ends.
pub struct Scheduler {
    engine: Arc<Engine>,
    inbox: Mutex<Option<mpsc::Sender<Job>>>,
    metrics: Arc<Metrics>,
    queue: usize,
    context: usize,
    thread: Option<JoinHandle<()>>,
}

/// A request on its way to the thread.
struct Job {
    request: GenerateRequest,
    ids: Vec<u32>,
    constraint: Option<Constraint>,
    updates: Sender,
    begin: Instant,
}

impl Scheduler {
    /// Starts the thread. At most `queue` requests wait; more are refused.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(engine: Arc<Engine>, queue: usize) -> Result<Self, InferenceError> {
        let pages = engine.shape().kv_pages;
        // a request must fit alone, with one page to copy a shared one to
        let context = engine.context().min(pages.saturating_sub(1) * PAGE_LEN);
        let metrics = Arc::new(Metrics::new(pages));
        let (inbox, jobs) = mpsc::channel();
        let thread = std::thread::Builder::new().name("bitnet-scheduler".into()).spawn({
            let (engine, metrics) = (Arc::clone(&engine), Arc::clone(&metrics));
            move || Steps::new(&engine, &metrics, context).run(&jobs)
        });
        let refused = |error: std::io::Error| InferenceError::Option { option: "threads", reason: error.to_string() };
        let thread = Some(thread.map_err(refused)?);
        Ok(Scheduler { engine, inbox: Mutex::new(Some(inbox)), metrics, queue, context, thread })
    }

    /// Puts a request into the queue. Text is tokenised and grammars are compiled here, on the caller's
    /// thread.
    ///
    /// # Errors
    /// [`InferenceError::Busy`] when the queue is full, [`InferenceError::Stopped`] after [`close`](Self::close), and at
    /// once what is wrong with the request: options outside their range, a prompt that does not fit.
    pub fn submit(&self, request: GenerateRequest) -> Result<Updates, InferenceError> {
        let begin = Instant::now();
        if request.slide.is_some() {
            let reason = "a sliding context needs a session of its own".into();
            return Err(InferenceError::Option { option: "slide", reason });
        }
        let ids = answer::prompt(&self.engine, &request, self.context)?;
        let constraint = answer::constraint(&self.engine, &request)?;
        let prompt_tokens = ids.len();
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let inbox = inbox.as_ref().ok_or(InferenceError::Stopped)?;
        let room = |waiting: usize| (waiting < self.queue).then_some(waiting + 1);
        if let Err(waiting) = self.metrics.waiting.fetch_update(Relaxed, Relaxed, room) {
            self.metrics.refused.fetch_add(1, Relaxed);
            return Err(InferenceError::Busy { waiting, retry_after: self.retry_after() });
        }
        // room for every token: a slow reader stops nobody, and holds no more than its own answer
        let (updates, receiver) = updates::channel(request.max_tokens.min(self.context) + 1);
        let job = Job { request, ids, constraint, updates, begin };
        inbox.send(job).map_err(|_| InferenceError::Stopped)?;
        Ok(Updates { receiver, prompt_tokens, ended: false })
    }

    /// Takes no more requests. Those accepted are answered.
    pub fn close(&self) {
        *self.inbox.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What it has done so far.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The engine that it runs on.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Positions that prompt and answer of one request have.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Requests that steps work on together, at most.
    pub fn sequences(&self) -> usize {
        self.engine.shape().max_logits
    }

    /// False when its thread is gone.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// One place in the queue becomes free per request: as long as requests took so far, on average.
    fn retry_after(&self) -> Duration {
        let done = self.metrics.finished.load(Relaxed).max(1);
        Duration::from_secs_f64((self.metrics.step_seconds.sum() / done as f64).ceil().clamp(1.0, 60.0))
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panic was reported already
        }
    }
}

/// A request inside the thread. It holds pages while it is active.
struct Request<'e> {
    sequence: Sequence,
    answer: Answer<'e>,
    updates: Sender,
    begin: Instant,
    /// Since it was first admitted.
    admitted: Option<Instant>,
    /// The last token.
    last: Option<Instant>,
    /// How far the next step gets.
    end: usize,
    /// Its guess stands at the end of the sequence during a step.
    proposer: Proposer,
    /// To be removed after the step.
    done: bool,
}

impl Request<'_> {
    /// Tokens not computed yet.
    fn missing(&self) -> usize {
        self.sequence.tokens().len() - self.sequence.computed()
    }

    /// Pages that its tokens still need, and one for what comes next: growth, or the copy of a shared page.
    fn lacking(&self) -> usize {
        self.sequence.tokens().len().div_ceil(PAGE_LEN).saturating_sub(self.sequence.pages().len()) + 1
    }

    fn send(&mut self, update: Result<Update, InferenceError>) {
        self.done |= !matches!(update, Ok(Update::Token(_)));
        // room for all updates was made: only a closed channel can refuse, and that request is over
        self.done |= self.updates.try_send(update).is_err();
    }
}

/// The thread's state.
struct Steps<'e> {
    engine: &'e Engine,
    metrics: &'e Metrics,
    context: usize,
    /// Sequences per step.
    sequences: usize,
    /// Tokens per step of which the logits are wanted.
    rows: usize,
    /// Prompt tokens that a step has room for, beside one token of every other sequence.
    chunk: usize,
    waiting: VecDeque<Request<'e>>,
    /// Oldest first.
    active: Vec<Request<'e>>,
    /// `[sequences, vocab]`.
    logits: Vec<f32>,
}

impl<'e> Steps<'e> {
    fn new(engine: &'e Engine, metrics: &'e Metrics, context: usize) -> Self {
        let shape = engine.shape();
        Steps {
            engine,
            metrics,
            context,
            sequences: engine.sequences(),
            rows: shape.max_logits,
            chunk: shape.max_tokens + 1 - shape.max_logits,
            waiting: VecDeque::new(),
            active: Vec::with_capacity(engine.sequences()),
            logits: vec![0.0; shape.max_logits * engine.model().config().vocab],
        }
    }

    /// Until the scheduler is closed and everything is answered.
    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        loop {
            if self.active.is_empty() && self.waiting.is_empty() {
                match jobs.recv() {
                    Ok(job) => self.accept(job),
                    Err(mpsc::RecvError) => return,
                }
            }
            jobs.try_iter().for_each(|job| self.accept(job));
            self.drop_cancelled();
            self.admit();
            self.plan();
            self.reserve();
            self.guess();
            self.step();
            self.remove_done();
        }
    }

    fn accept(&mut self, job: Job) {
        let Job { request, ids, constraint, updates, begin } = job;
        let mut answer = match Answer::new(self.engine, &request, &ids, constraint, self.context, begin) {
            Ok(answer) => answer,
            Err(error) => {
                self.metrics.waiting.fetch_sub(1, Relaxed);
                self.metrics.failed.fetch_add(1, Relaxed);
                let _ = updates.try_send(Err(error)); // nobody may be left to hear it
                return;
            }
        };
        if let Some(finish) = answer.finish() {
            self.metrics.waiting.fetch_sub(1, Relaxed);
            self.metrics.finished.fetch_add(1, Relaxed);
            let _ = updates.try_send(Ok(Update::Finished(finish, std::mem::take(&mut answer.usage))));
            return;
        }
        let mut sequence = Sequence::new(ids.len());
        ids.into_iter().for_each(|id| sequence.push(id));
        self.waiting.push_back(Request {
            sequence,
            answer,
            updates,
            begin,
            admitted: None,
            last: None,
            end: 0,
            proposer: Proposer::new(),
            done: false,
        });
    }

    fn drop_cancelled(&mut self) {
        let before = self.waiting.len();
        self.waiting.retain(|request| !request.updates.is_closed());
        let gone = before - self.waiting.len();
        self.metrics.waiting.fetch_sub(gone, Relaxed);
        self.metrics.cancelled.fetch_add(gone as u64, Relaxed);
        for request in self.active.iter_mut().filter(|request| request.updates.is_closed()) {
            request.done = true;
            self.metrics.cancelled.fetch_add(1, Relaxed);
        }
        self.remove_done();
    }

    /// Lets requests in from the head of the queue while there are pages for all of their tokens.
    fn admit(&mut self) {
        while self.active.len() < self.sequences
            && let Some(request) = self.waiting.front_mut()
        {
            let active = &self.active;
            let fits = self.engine.with_pool(|pool| {
                request.sequence.restore(pool);
                let promised: usize = active.iter().map(Request::lacking).sum();
                let fits = active.is_empty() || promised + request.lacking() <= pool.available();
                if !fits {
                    request.sequence.suspend(pool);
                }
                fits
            });
            let Some(mut request) = self.waiting.pop_front_if(|_| fits) else { break };
            // in this order, so that at every moment a request is seen in one place at least
            self.metrics.active.store(self.active.len() + 1, Relaxed);
            self.metrics.waiting.fetch_sub(1, Relaxed);
            if request.admitted.is_none() {
                let now = Instant::now();
                request.admitted = Some(now);
                let usage = &mut request.answer.usage;
                usage.queue_time = now - request.begin;
                usage.cached_tokens = request.sequence.computed();
                self.metrics.prompt_tokens.fetch_add(usage.prompt_tokens as u64, Relaxed);
                self.metrics.cached_tokens.fetch_add(usage.cached_tokens as u64, Relaxed);
            }
            self.active.push(request);
        }
    }

    /// Decides how far everyone gets in the next step: one token for those who decode, a share of the step for prompts.
    fn plan(&mut self) {
        let mut prompts = Vec::new();
        for request in &mut self.active {
            request.end = request.sequence.tokens().len();
            if request.missing() > 1 {
                prompts.push(request);
            }
        }
        prompts.sort_by_key(|request| request.missing());
        let missing: Vec<usize> = prompts.iter().map(|request| request.missing()).collect();
        for (request, share) in prompts.into_iter().zip(shares(&missing, self.chunk)) {
            request.end = request.sequence.computed() + share;
        }
    }

    /// Takes the pages of the next step, oldest request first; where they do not suffice, the youngest gives way.
    fn reserve(&mut self) {
        let mut next = 0;
        while let Some(request) = self.active.get_mut(next) {
            let end = request.end;
            match self.engine.reserve(&mut request.sequence, end) {
                Ok(()) => next += 1,
                // only sessions beside the scheduler can hold the pages
                Err(error) if self.active.len() == 1 => {
                    self.active[0].send(Err(error));
                    self.metrics.failed.fetch_add(1, Relaxed);
                    self.remove_done();
                }
                Err(_) => {
                    let Some(mut youngest) = self.active.pop() else { return };
                    self.engine.with_pool(|pool| youngest.sequence.suspend(pool));
                    youngest.proposer.suspend(self.engine);
                    self.metrics.waiting.fetch_add(1, Relaxed);
                    self.metrics.preempted.fetch_add(1, Relaxed);
                    self.waiting.push_front(youngest);
                }
            }
        }
    }

    /// Fills free rows of the step with guesses of those who decode, unless prompts are read.
    fn guess(&mut self) {
        let Steps { engine, metrics, context, rows, active, .. } = self;
        let free = *rows - active.len();
        let decoding = active.iter().all(|request| request.missing() == 1);
        let ask = active
            .iter_mut()
            .map(|Request { proposer, sequence, answer, .. }| Asking::new(proposer, sequence, *context, answer.left()));
        let mut asking: Vec<_> = ask.collect();
        if decoding {
            engine.guess(&mut asking, free);
        }
        for Request { sequence, answer, proposer, end, .. } in active {
            proposer.guess.iter().for_each(|&id| sequence.push(id));
            *end += proposer.guess.len();
            answer.drafted(proposer);
            let guessed = if proposer.by_draft { &metrics.drafted_tokens } else { &metrics.guessed_tokens };
            guessed.fetch_add(proposer.guess.len() as u64, Relaxed);
        }
    }

    fn step(&mut self) {
        if self.active.is_empty() {
            return;
        }
        let start = Instant::now();
        let mut wanted = Some(Vec::with_capacity(self.rows));
        let mut runs = Vec::with_capacity(self.active.len());
        let mut rows = Vec::with_capacity(self.active.len());
        for Request { sequence, answer, end, proposer, .. } in &mut self.active {
            let logits = if *end == sequence.tokens().len() { 1 + proposer.guess.len() } else { 0 };
            if logits > 0 {
                // what is wanted after a token is also wanted before it
                let top = answer.wanted(sequence.tokens());
                wanted = wanted.zip(top).map(|(mut tops, top)| {
                    tops.extend(std::iter::repeat_n(top, logits));
                    tops
                });
            }
            rows.push(logits);
            runs.push(Run { sequence, end: *end, logits });
        }
        let wanted = match &wanted {
            Some(tops) if !tops.is_empty() => Wanted::Top(tops),
            _ => Wanted::All,
        };
        let computed = self.engine.step_together(&mut runs, wanted, &mut self.logits);
        for Request { sequence, proposer, .. } in &mut self.active {
            sequence.take_back(proposer.guess.len());
        }
        let computed = match computed {
            Ok(computed) => computed,
            Err(error) => {
                // all pages were reserved; should it happen all the same, one request less gets the others on
                if let Some(youngest) = self.active.last_mut() {
                    youngest.send(Err(error));
                    self.metrics.failed.fetch_add(1, Relaxed);
                }
                return;
            }
        };
        self.metrics.batch_size.add(self.active.len() as f64);
        self.metrics.step_seconds.add(start.elapsed().as_secs_f64());
        let vocab = self.engine.model().config().vocab;
        let mut logits = &self.logits[..];
        for (request, rows) in self.active.iter_mut().zip(rows) {
            let (own, rest) = logits.split_at(rows * vocab);
            logits = rest;
            tokens(request, own.chunks_exact(vocab), computed.complete, self.metrics);
        }
        let guessing = self.active.iter_mut().filter(|request| !request.proposer.guess.is_empty());
        self.engine.with_pool(|pool| guessing.for_each(|request| request.sequence.settle(pool)));
    }

    /// Gives back the pages of those who are done.
    fn remove_done(&mut self) {
        let Steps { engine, metrics, active, .. } = self;
        active.iter_mut().filter(|request| request.done).for_each(|request| request.proposer.suspend(engine));
        engine.with_pool(|pool| {
            active.retain_mut(|request| {
                if request.done {
                    request.sequence.suspend(pool);
                }
                !request.done
            });
            metrics.pages_held.store(pool.len() - pool.available(), Relaxed);
            metrics.pages_cached.store(pool.available() - pool.free(), Relaxed);
        });
        metrics.active.store(active.len(), Relaxed);
    }
}

/// How many tokens of each prompt the next step computes, when they lack so many (ascending) and the step has room for `room`, beside one of
/// each. The one that lacks least goes first, so that a short prompt does not wait for a long one; the others get on too, slowly.
fn shares(missing: &[usize], room: usize) -> Vec<usize> {
    let others = missing.len().saturating_sub(1).max(1);
    let mut room = room;
    let share = |(place, &missing): (usize, &usize)| {
        let share = if place == 0 { PROMPT_STEP } else { BESIDE_A_SHORTER_ONE / others };
        let share = share.min(room).max(1).min(missing); // nobody stands still
        room = room.saturating_sub(share);
        share
    };
    missing.iter().enumerate().map(share).collect()
}

/// Chooses the next tokens of a request, as many as were guessed right and one more.
fn tokens<'l>(request: &mut Request<'_>, rows: impl Iterator<Item = &'l [f32]>, complete: bool, metrics: &Metrics) {
    for (nth, logits) in rows.enumerate() {
        token(request, logits, complete, metrics);
        let Some(&id) = request.sequence.tokens().last() else { return };
        if !request.proposer.came(nth, id) || request.done {
            return;
        }
        if request.proposer.by_draft {
            request.answer.usage.drafted_right += 1;
            metrics.drafted_right_tokens.fetch_add(1, Relaxed);
        } else {
            metrics.right_tokens.fetch_add(1, Relaxed);
        }
    }
}

/// Chooses the next token of a request and tells it.
fn token(request: &mut Request<'_>, logits: &[f32], complete: bool, metrics: &Metrics) {
    let Request { answer, sequence, .. } = request;
    let id = match answer.choose(logits, complete, sequence) {
        Ok(id) => id,
        Err(error) => {
            metrics.failed.fetch_add(1, Relaxed);
            return request.send(Err(error));
        }
    };
    let event = answer.event(id, logits);
    let now = Instant::now();
    match request.last.replace(now) {
        Some(last) => metrics.token_gap_seconds.add((now - last).as_secs_f64()),
        None => {
            metrics.first_token_seconds.add((now - request.begin).as_secs_f64());
            answer.usage.prompt_time = now - request.admitted.unwrap_or(request.begin);
        }
    }
    metrics.new_tokens.fetch_add(1, Relaxed);
    answer.usage.decode_time = now - request.admitted.unwrap_or(request.begin) - answer.usage.prompt_time;
    let finish = answer.finish().map(|finish| Update::Finished(finish, answer.usage.clone()));
    request.send(Ok(Update::Token(event)));
    if request.done {
        metrics.cancelled.fetch_add(1, Relaxed);
    } else if let Some(finished) = finish {
        metrics.finished.fetch_add(1, Relaxed);
        request.send(Ok(finished));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompt_that_lacks_least_goes_first() {
        assert_eq!(shares(&[1900], 256), [64], "a step is short, for whoever comes next");
        assert_eq!(shares(&[20, 1900], 256), [20, 8]);
        assert_eq!(shares(&[100, 1900, 2000], 256), [64, 4, 4]);
        assert_eq!(shares(&[30; 16], 256), [vec![30], vec![1; 15]].concat(), "nobody stands still");
        assert_eq!(shares(&[20, 30], 8), [8, 1], "a step holds so many, and one more of each other sequence");
        assert!(shares(&[], 256).is_empty());
    }
}
