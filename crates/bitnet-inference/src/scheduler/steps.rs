//! The thread of the scheduler: what goes into a step, and who gets what it computed.
//!
//! Requests are admitted first come, first served, when the KV pages for their prompts are there. When a decoding request
//! needs a page and none is left, the youngest request gives up its pages and goes back to the head of the queue; it is
//! computed again later, to the same tokens. The oldest request never gives way and fits into the pool alone, so there is
//! always one that gets on.
//!
//! A step that reads prompts is left between two blocks of the network when somebody comes who can be admitted: the newcomers have a
//! step of their own, then it goes on. A step is left once at most, so that everyone gets on.
//!
//! While a step has room for more rows than there are sequences, those who decode guess how their text goes on (`proposer.rs`), and
//! have the guess computed with their last token.

use super::{Job, Sender, Update};
use crate::answer::Answer;
use crate::engine::Run;
use crate::proposer::{Asking, Proposer};
use crate::sequence::Sequence;
use crate::{Engine, InferenceError, Metrics};
use bitnet_kernels::{PAGE_LEN, Wanted};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Tokens per step of the prompts that go first, at most: what those who decode wait for. A prompt of 2,000 tokens takes a twentieth
/// longer than in steps of 256, and a third longer in steps of 32.
const PROMPT_STEP: usize = 64;

/// Tokens per step that longer prompts share while shorter ones are read.
const BESIDE_A_SHORTER_ONE: usize = 8;

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

/// A step that was left.
struct Left {
    /// Where it goes on.
    block: usize,
    /// So many of the oldest requests take part in it, and must stay as they are.
    requests: usize,
    /// Time that it has taken so far.
    spent: Duration,
}

/// The thread's state.
pub(super) struct Steps<'e> {
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
    left: Option<Left>,
    /// `[sequences, vocab]`.
    logits: Vec<f32>,
}

impl<'e> Steps<'e> {
    pub(super) fn new(engine: &'e Engine, metrics: &'e Metrics, context: usize) -> Self {
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
            left: None,
            logits: vec![0.0; shape.max_logits * engine.model().config().vocab],
        }
    }

    /// Until the scheduler is closed and everything is answered.
    pub(super) fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        loop {
            if self.active.is_empty() && self.waiting.is_empty() {
                match jobs.recv() {
                    Ok(job) => self.accept(job),
                    Err(mpsc::RecvError) => return,
                }
            }
            jobs.try_iter().for_each(|job| self.accept(job));
            if self.left.is_none() {
                self.drop_cancelled();
            }
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

    /// Those who take part in the next step: who came since the last one was left, if it was.
    fn newcomers(&self) -> Range<usize> {
        self.left.as_ref().map_or(0, |left| left.requests)..self.active.len()
    }

    /// Decides how far everyone gets in the next step: one token for those who decode, a share of the step for prompts.
    fn plan(&mut self) {
        let newcomers = self.newcomers();
        let mut prompts = Vec::new();
        for request in &mut self.active[newcomers] {
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
        let mut next = self.newcomers().start;
        while let Some(request) = self.active.get_mut(next) {
            let end = request.end;
            match self.engine.reserve(&mut request.sequence, end) {
                Ok(()) => next += 1,
                Err(_) if self.active.len() == 1 && self.engine.wait_for_a_text() => {}
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

    /// Computes the step that was planned, and then the rest of the one that was left for it.
    fn step(&mut self) {
        let newcomers = self.newcomers();
        match self.left.take() {
            None => self.compute(newcomers, None, self.waiting.is_empty() && self.active.len() < self.sequences),
            Some(left) => {
                self.compute(newcomers, None, false);
                self.compute(0..left.requests, Some(left), false);
            }
        }
    }

    /// Computes a step of some of the active requests, or the rest of one. It `may_leave` when it reads prompts, which takes long.
    fn compute(&mut self, members: Range<usize>, left: Option<Left>, may_leave: bool) {
        if members.is_empty() {
            return;
        }
        let start = Instant::now();
        let Steps { engine, metrics, .. } = *self;
        let (first, spent) = left.map_or((0, Duration::ZERO), |left| (left.block, left.spent));
        let requests = members.len();
        let active = &mut self.active[members];
        let mut wanted = Some(Vec::with_capacity(requests));
        let mut runs = Vec::with_capacity(requests);
        let mut rows = Vec::with_capacity(requests);
        let mut reads = false;
        for Request { sequence, answer, end, proposer, .. } in active.iter_mut() {
            let logits = if *end == sequence.tokens().len() { 1 + proposer.guess.len() } else { 0 };
            if logits > 0 {
                // what is wanted after a token is also wanted before it
                let top = answer.wanted(sequence.tokens());
                wanted = wanted.zip(top).map(|(mut tops, top)| {
                    tops.extend(std::iter::repeat_n(top, logits));
                    tops
                });
            }
            reads |= *end - sequence.computed() > logits;
            rows.push(logits);
            runs.push(Run { sequence, end: *end, logits });
        }
        let wanted = match &wanted {
            Some(tops) if !tops.is_empty() => Wanted::Top(tops),
            _ => Wanted::All,
        };
        let mut go_on = |block| match may_leave && reads && metrics.waiting.load(Relaxed) > 0 {
            true => Err(Left { block, requests, spent: start.elapsed() }),
            false => Ok(()),
        };
        let computed = match engine.step_from(first, &mut runs, wanted, &mut self.logits, &mut go_on) {
            Ok(Err(left)) => {
                metrics.left.fetch_add(1, Relaxed);
                self.left = Some(left);
                return;
            }
            Ok(Ok(computed)) => Ok(computed),
            Err(error) => Err(error),
        };
        for Request { sequence, proposer, .. } in active.iter_mut() {
            sequence.take_back(proposer.guess.len());
        }
        let computed = match computed {
            Ok(computed) => computed,
            Err(error) => {
                // all pages were reserved; should it happen all the same, one request less gets the others on
                if let Some(youngest) = active.last_mut() {
                    youngest.send(Err(error));
                    metrics.failed.fetch_add(1, Relaxed);
                }
                return;
            }
        };
        metrics.batch_size.add(requests as f64);
        metrics.step_seconds.add((spent + start.elapsed()).as_secs_f64());
        let vocab = engine.model().config().vocab;
        let mut logits = &self.logits[..];
        for (request, rows) in active.iter_mut().zip(rows) {
            let (own, rest) = logits.split_at(rows * vocab);
            logits = rest;
            tokens(request, own.chunks_exact(vocab), computed.complete, metrics);
        }
        let guessing = active.iter_mut().filter(|request| !request.proposer.guess.is_empty());
        engine.with_pool(|pool| guessing.for_each(|request| request.sequence.settle(pool)));
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
/// each. The one that lacks least goes first, so that a short prompt does not wait for a long one, and prompts that fit whole into what it
/// leaves go with it; the others get on too, slowly.
fn shares(missing: &[usize], room: usize) -> Vec<usize> {
    let mut left = PROMPT_STEP;
    let whole = missing.iter().take_while(|&&missing| {
        let fits = missing <= left;
        left = left.saturating_sub(missing);
        fits
    });
    let first = whole.count().max(1);
    let others = missing.len().saturating_sub(first).max(1);
    let mut room = room;
    let share = |(place, &missing): (usize, &usize)| {
        let share = if place < first { PROMPT_STEP } else { BESIDE_A_SHORTER_ONE / others };
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
        assert_eq!(shares(&[8; 7], 256), [8; 7], "short ones go together");
        assert_eq!(shares(&[10, 20, 34, 35], 256), [10, 20, 34, 8]);
        assert_eq!(shares(&[30; 16], 256), [vec![30; 2], vec![1; 14]].concat(), "nobody stands still");
        assert_eq!(shares(&[20, 30], 8), [8, 1], "a step holds so many, and one more of each other sequence");
        assert!(shares(&[], 256).is_empty());
    }
}
