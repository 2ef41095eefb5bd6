//! Continuous batching: many requests, one step at a time.
//!
//! One thread owns the steps. Requests come to it through one channel, and every request has a channel of its own on which
//! its tokens go out. A request joins and leaves between two steps; a step computes the next token of everyone who is
//! decoding, and a bounded part of the prompts that are still being read. Results do not depend on who shares a step.
//!
//! How a step is made up: `scheduler/steps.rs`.

mod steps;

use crate::answer;
use crate::grammar::Constraint;
use crate::{Engine, FinishReason, GenerateRequest, InferenceError, Metrics, TokenEvent, Usage};
use bitnet_kernels::PAGE_LEN;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use steps::Steps;
use tokio::sync::mpsc as updates;

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
    /// Another scheduler works on the engine, or no thread can be started.
    pub fn start(engine: Arc<Engine>, queue: usize) -> Result<Self, InferenceError> {
        let pages = engine.shape().kv_pages;
        // a request must fit alone, with one page to copy a shared one to
        let context = engine.context().min(pages.saturating_sub(1) * PAGE_LEN);
        let metrics = Arc::new(Metrics::new(pages));
        let (inbox, jobs) = mpsc::channel();
        let refused = |option, reason| InferenceError::Option { option, reason };
        if engine.scheduled.swap(true, Relaxed) {
            return Err(refused("scheduler", "another one works on this engine".into()));
        }
        let thread = std::thread::Builder::new().name("bitnet-scheduler".into()).spawn({
            let (engine, metrics) = (Arc::clone(&engine), Arc::clone(&metrics));
            move || Steps::new(&engine, &metrics, context).run(&jobs)
        });
        let mut scheduler = Scheduler { engine, inbox: Mutex::new(Some(inbox)), metrics, queue, context, thread: None };
        scheduler.thread = Some(thread.map_err(|error| refused("threads", error.to_string()))?);
        Ok(scheduler)
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
        self.engine.sequences()
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
        self.engine.scheduled.store(false, Relaxed);
    }
}
