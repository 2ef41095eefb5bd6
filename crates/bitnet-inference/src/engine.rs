//! The engine: a model, its tokenizer and the pool of KV pages.

mod embedding;
mod options;

use crate::draft::Draft;
use crate::evaluation::Evaluation;
use crate::grammar::Grammars;
use crate::pages::{PagePool, PageUse};
use crate::sequence::Sequence;
use crate::tracking::{PerfTrack, Phase, TrackReport, Tracked, Tracker};
use crate::{FinishReason, GenerateRequest, InferenceError, Prompt, Sampling, Session, TokenEvent, Usage};
use bitnet_formats::Checkpoint;
use bitnet_kernels::{Batch, Computed, Cpu, CpuOptions, PAGE_LEN, Top, Wanted};
use bitnet_models::{Encoding, MemoryPlan, Model, State, StateShape, Tokenizer};
use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub use options::EngineOptions;

/// A loaded model that answers requests. Sessions share it; their steps run one after the other, each on all threads.
pub struct Engine {
    model: Model<Tracked<Cpu>>,
    tokenizer: Result<Tokenizer, String>,
    shape: StateShape,
    context: usize,
    sequences: usize,
    draft: Option<Box<Draft>>,
    load_time: Duration,
    grammars: OnceLock<Result<Grammars, String>>,
    working: Mutex<Working>,
    /// Who waits for `working`, one at a time: whoever has just let go of it comes after them.
    next: Mutex<()>,
    text_ended: Condvar,
    /// A [`Scheduler`](crate::Scheduler) leaves one step at a time: there can be but one.
    pub(crate) scheduled: AtomicBool,
}

/// Everything that a step changes.
struct Working {
    state: State<Tracked<Cpu>>,
    pool: PagePool,
    batch: Batch,
    /// Texts that are being embedded, and hold pages.
    texts: usize,
}

/// The part of a sequence that a step computes: from where it is computed to `end`.
pub(crate) struct Run<'s> {
    pub(crate) sequence: &'s mut Sequence,
    pub(crate) end: usize,
    /// The logits of so many of its last tokens are wanted.
    pub(crate) logits: usize,
}

impl Working {
    /// Adds a run to the batch, with its pages.
    fn push(&mut self, model: &Model<Tracked<Cpu>>, run: &mut Run<'_>) -> Result<(), InferenceError> {
        let Working { state, pool, batch, .. } = self;
        let (start, end) = (run.sequence.computed(), run.end);
        run.sequence.reserve(end, pool, |from, to| model.copy_page(state, from, to))?;
        batch.push(start, &run.sequence.tokens()[start..end], run.sequence.pages(), run.logits);
        Ok(())
    }
}

impl Engine {
    /// Opens a model with defaults: a GGUF file, a Hugging Face directory or a llama2.c file.
    ///
    /// # Errors
    /// Anything wrong with the file.
    pub fn new(path: impl AsRef<Path>) -> Result<Self, InferenceError> {
        Self::open(path, EngineOptions::default())
    }

    /// Opens a model with options.
    ///
    /// # Errors
    /// As for [`new`](Self::new), and options outside their range.
    pub fn open(path: impl AsRef<Path>, options: EngineOptions) -> Result<Self, InferenceError> {
        let start = Instant::now();
        let checkpoint = Checkpoint::open(path.as_ref())?;
        let mut engine = Self::from_checkpoint(&checkpoint, options)?;
        engine.load_time = start.elapsed();
        Ok(engine)
    }

    /// From an opened checkpoint (the embedded default model).
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn from_checkpoint(checkpoint: &Checkpoint, options: EngineOptions) -> Result<Self, InferenceError> {
        let start = Instant::now();
        let track = options.track || PerfTrack::from_env()?.is_on();
        let mut engine = Self::load(checkpoint, &options, track)?;
        if let Some(path) = &options.draft {
            engine.draft = Some(Box::new(Draft::open(path, &engine, &options)?));
        }
        engine.load_time = start.elapsed();
        Ok(engine)
    }

    /// Without a draft model.
    pub(crate) fn load(checkpoint: &Checkpoint, options: &EngineOptions, track: bool) -> Result<Self, InferenceError> {
        let mut cpu = CpuOptions::from_env()?;
        cpu.threads = options.threads.or(cpu.threads);
        if let Some(isa) = &options.isa {
            cpu.isa = Some(isa.parse()?);
        }
        let load_tokenizer = || match &options.tokenizer {
            Some(path) => Tokenizer::open(path),
            None => Tokenizer::from_checkpoint(checkpoint),
        };
        // a large vocabulary takes as long to read as the weights to check: side by side
        let (model, tokenizer) = std::thread::scope(|scope| {
            let tokenizer = scope.spawn(load_tokenizer);
            let model = Cpu::new(cpu)
                .map_err(InferenceError::from)
                .and_then(|cpu| Ok(Model::load(checkpoint, Tracked::new(cpu, track), &options.load)?));
            let tokenizer = tokenizer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (model, tokenizer)
        });
        let model = model?;
        // a tokenizer that was asked for must load; a model without one still works with ids
        let tokenizer = match (tokenizer, &options.tokenizer) {
            (Err(error), Some(_)) => return Err(error.into()),
            (result, _) => result.map_err(|error| error.to_string()),
        };

        let trained = model.config().context;
        let (context, shape) = options.working_shape(trained)?;
        if context > trained {
            tracing::warn!("the context of {context} exceeds the {trained} positions that the model was trained for");
        }
        let working = Working {
            state: model.state(shape)?,
            pool: PagePool::new(shape.kv_pages),
            batch: Batch::with_capacity(
                shape.max_tokens,
                shape.max_logits,
                context.div_ceil(PAGE_LEN).saturating_mul(shape.max_logits).min(1 << 20),
            ),
            texts: 0,
        };
        let working = Mutex::new(working);
        Ok(Engine {
            model,
            tokenizer,
            shape,
            context,
            sequences: options.sequences.unwrap_or(1),
            draft: None,
            load_time: Duration::ZERO,
            grammars: OnceLock::new(),
            working,
            next: Mutex::new(()),
            text_ended: Condvar::new(),
            scheduled: AtomicBool::new(false),
        })
    }

    /// The answer to a prompt, at once: [`Sampling::default`] with the seed of the environment variable `BITNET_SEED`,
    /// or 0, so that the same call gives the same text.
    ///
    /// # Errors
    /// See [`InferenceError`].
    pub fn generate(&self, prompt: &str, max_tokens: usize) -> Result<String, InferenceError> {
        let sampling = Sampling { seed: environment_seed()?, ..Sampling::default() };
        let request = GenerateRequest { sampling, ..GenerateRequest::new(prompt, max_tokens) };
        let mut text = String::new();
        self.stream(&request, &mut |event| {
            text.push_str(&event.text);
            true
        })?;
        Ok(text)
    }

    /// A new, empty session.
    pub fn session(&self) -> Session<'_> {
        Session::new(self)
    }

    /// One-shot request with a callback per event; return false from it to stop. The reason is `None` when the callback
    /// stopped it.
    ///
    /// # Errors
    /// See [`InferenceError`].
    pub fn stream(
        &self,
        request: &GenerateRequest,
        on_event: &mut dyn FnMut(&TokenEvent) -> bool,
    ) -> Result<(Option<FinishReason>, Usage), InferenceError> {
        let mut session = self.session();
        let mut generation = session.generate(request)?;
        for event in generation.by_ref() {
            if !on_event(&event?) {
                break;
            }
        }
        Ok((generation.finish_reason(), generation.usage()))
    }

    /// Logits at every position of `ids`, `[ids, vocab]`, row-major. Works beside the sessions, in memory of its own.
    ///
    /// # Errors
    /// Ids outside the vocabulary, or more than the context.
    pub fn logits(&self, ids: &[u32]) -> Result<Vec<f32>, InferenceError> {
        let mut all = Vec::new();
        Evaluation::new(self, ids.len())?.run(ids, 0, &mut |_, logits| all.extend_from_slice(logits))?;
        Ok(all)
    }

    /// The tokenizer, if there is one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref().ok()
    }

    /// The tokenizer, or why there is none.
    ///
    /// # Errors
    /// [`InferenceError::NoTokenizer`].
    pub fn require_tokenizer(&self) -> Result<&Tokenizer, InferenceError> {
        self.tokenizer.as_ref().map_err(|reason| InferenceError::NoTokenizer { reason: reason.clone() })
    }

    /// What grammars are compiled with; made when the first one is.
    pub(crate) fn grammars(&self) -> Result<&Grammars, InferenceError> {
        let made = self.grammars.get_or_init(|| {
            let tokenizer = self.require_tokenizer().map_err(|error| error.to_string())?;
            Grammars::new(tokenizer).map_err(|error| error.to_string())
        });
        made.as_ref().map_err(|reason| InferenceError::Option { option: "grammar", reason: reason.clone() })
    }

    /// The network: its config, notes, memory plan.
    pub fn model(&self) -> &Model<Tracked<Cpu>> {
        &self.model
    }

    /// Positions of a session.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Sequences that a [`Scheduler`](crate::Scheduler) computes together.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    /// The engine of the draft model, if there is one ([`EngineOptions::draft`]).
    pub fn draft(&self) -> Option<&Engine> {
        self.draft.as_ref().map(|draft| &draft.engine)
    }

    pub(crate) fn drafting(&self) -> Option<&Draft> {
        self.draft.as_deref()
    }

    /// Bytes that this engine was planned to need, its draft model included.
    pub fn plan(&self) -> MemoryPlan {
        let plan = self.model.plan(self.shape);
        self.draft().map_or(plan, |draft| plan + draft.plan())
    }

    /// How long opening took.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// The record of this engine, if it is tracked ([`EngineOptions::track`]).
    pub fn tracker(&self) -> Option<&Arc<Tracker>> {
        self.model.backend().tracker()
    }

    /// Where the time went so far, if this engine is tracked.
    pub fn track_report(&self) -> Option<TrackReport> {
        self.tracker().map(|tracker| tracker.report(self.load_time))
    }

    pub(crate) fn shape(&self) -> StateShape {
        self.shape
    }

    pub(crate) fn encode(&self, text: &str, how: Encoding) -> Result<Vec<u32>, InferenceError> {
        Ok(self.require_tokenizer()?.encode(text, how)?)
    }

    pub(crate) fn prompt_ids(&self, request: &GenerateRequest) -> Result<Vec<u32>, InferenceError> {
        match &request.prompt {
            Prompt::Ids(ids) => Ok(ids.clone()),
            Prompt::Text(text) => self.encode(text, Encoding { bos: request.bos, special: request.special }),
        }
    }

    /// Refuses an empty prompt, ids outside the vocabulary, and more than `context` of them.
    pub(crate) fn check_ids(&self, ids: &[u32], context: usize) -> Result<(), InferenceError> {
        let vocab = self.model.config().vocab;
        let refuse = |reason: String| Err(InferenceError::Option { option: "prompt", reason });
        if ids.is_empty() {
            return refuse("is empty, and the model has no begin-of-sequence token to start from".into());
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return refuse(format!("token {id} is not below the vocabulary size {vocab}"));
        }
        if ids.len() > context {
            return Err(InferenceError::ContextFull { tokens: ids.len(), context });
        }
        Ok(())
    }

    /// Computes the next chunk of what a sequence lacks; with its last token, those of its logits that are wanted, or all.
    pub(crate) fn step(
        &self,
        sequence: &mut Sequence,
        wanted: Option<Top<'_>>,
        logits: &mut [f32],
    ) -> Result<Computed, InferenceError> {
        let end = self.next_chunk(sequence);
        let wanted = match &wanted {
            Some(top) if end == sequence.tokens().len() => Wanted::Top(std::slice::from_ref(top)),
            _ => Wanted::All,
        };
        let rows = usize::from(end == sequence.tokens().len());
        self.step_together(&mut [Run { sequence, end, logits: rows }], wanted, logits)
    }

    /// Computes runs of several sequences in one step, and the wanted logits of each: one row after the other into `logits`,
    /// in the order of the runs.
    pub(crate) fn step_together(
        &self,
        runs: &mut [Run<'_>],
        wanted: Wanted<'_>,
        logits: &mut [f32],
    ) -> Result<Computed, InferenceError> {
        let Ok(computed) = self.step_from(0, runs, wanted, logits, &mut |_| Ok::<_, Infallible>(()))?;
        Ok(computed)
    }

    /// [`step_together`](Self::step_together) that can be left between two blocks ([`Model::forward_from`]), and goes on from
    /// block `first` when it is called with the same runs again.
    pub(crate) fn step_from<L>(
        &self,
        first: usize,
        runs: &mut [Run<'_>],
        wanted: Wanted<'_>,
        logits: &mut [f32],
        go_on: &mut impl FnMut(usize) -> Result<(), L>,
    ) -> Result<Result<Computed, L>, InferenceError> {
        let begin = Instant::now();
        let mut working = self.working();
        let lengths = || runs.iter().map(|run| run.end - run.sequence.computed());
        let decoding = runs.iter().zip(lengths()).all(|(run, length)| length == run.logits);
        let phase = if decoding { Phase::Decode } else { Phase::Prompt };
        // the tokens of a step that is left count once
        let _step = self.model.backend().step(phase, if first == 0 { lengths().sum() } else { 0 });
        working.batch.clear();
        while let Err(error) = runs.iter_mut().try_for_each(|run| working.push(&self.model, run)) {
            working = self.after_a_text(working).ok_or(error)?;
            working.batch.clear();
        }
        let working = &mut *working;
        let computed = match self.model.forward_from(first, &mut working.state, &working.batch, wanted, go_on) {
            Ok(computed) => computed,
            Err(left) => return Ok(Err(left)),
        };
        let rows = working.batch.logit_rows().len();
        if rows > 0 {
            self.model.read_logits(&working.state, &mut logits[..rows * self.model.config().vocab]);
        }
        for run in runs {
            run.sequence.advance(run.end, &mut working.pool);
        }
        if let Some(draft) = self.draft.as_ref().filter(|_| decoding) {
            draft.model_took(begin.elapsed());
        }
        Ok(Ok(computed))
    }

    /// Takes the pages that a sequence needs up to position `end`.
    pub(crate) fn reserve(&self, sequence: &mut Sequence, end: usize) -> Result<(), InferenceError> {
        let Working { state, pool, .. } = &mut *self.working();
        sequence.reserve(end, pool, |from, to| self.model.copy_page(state, from, to))
    }

    /// Waits until a text that is being embedded has given its pages back; false when there is none.
    pub(crate) fn wait_for_a_text(&self) -> bool {
        self.after_a_text(self.working()).is_some()
    }

    fn after_a_text<'w>(&self, working: MutexGuard<'w, Working>) -> Option<MutexGuard<'w, Working>> {
        (working.texts > 0).then(|| self.text_ended.wait(working).unwrap_or_else(PoisonError::into_inner))
    }

    /// How the KV pages are used at this moment.
    pub fn page_use(&self) -> PageUse {
        self.with_pool(|pool| pool.count())
    }

    /// Runs `change` on the page pool.
    pub(crate) fn with_pool<T>(&self, change: impl FnOnce(&mut PagePool) -> T) -> T {
        change(&mut self.working().pool)
    }

    fn next_chunk(&self, sequence: &Sequence) -> usize {
        sequence.tokens().len().min(sequence.computed() + self.shape.max_tokens)
    }

    /// A panic in another thread leaves nothing half-done that is used again: positions count as computed only after
    /// the step.
    fn working(&self) -> MutexGuard<'_, Working> {
        let _next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        self.working.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `BITNET_SEED`, or 0.
fn environment_seed() -> Result<u64, InferenceError> {
    match std::env::var("BITNET_SEED") {
        Err(_) => Ok(0),
        Ok(seed) => seed.trim().parse().map_err(|_| InferenceError::Option {
            option: "BITNET_SEED",
            reason: format!("{seed:?} is not a whole number between 0 and {}", u64::MAX),
        }),
    }
}
