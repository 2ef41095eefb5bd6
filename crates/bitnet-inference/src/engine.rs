//! The engine: a model, its tokenizer and the pool of KV pages.

use crate::draft::{self, Draft};
use crate::evaluation::Evaluation;
use crate::grammar::Grammars;
use crate::pages::{PagePool, PageUse};
use crate::proposer::MOST;
use crate::sequence::Sequence;
use crate::tracking::{PerfTrack, Phase, TrackReport, Tracked, Tracker};
use crate::{FinishReason, GenerateRequest, InferenceError, Prompt, Sampling, Session, TokenEvent, Usage};
use bitnet_formats::Checkpoint;
use bitnet_kernels::{Batch, Computed, Cpu, CpuOptions, KvFormat, PAGE_LEN, Top, Wanted};
use bitnet_models::{Config, Encoding, LoadOptions, MemoryPlan, Model, Pooling, State, StateShape, Tokenizer};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Contexts longer than this are made only on request: KV memory is proportional to them.
const DEFAULT_CONTEXT: usize = 4096;

/// Bound of contexts and pools: far beyond any model, and small enough that no size computed from it overflows.
const MAX_POSITIONS: usize = 1 << 24;

/// Tokens per prompt chunk unless the options say otherwise.
const DEFAULT_CHUNK: usize = 256;

/// Choices at start.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Context length of a session; `None` = the model's, at most 4096 unless more is asked for.
    pub context: Option<usize>,
    /// Tokens per prompt chunk; `None` = 256.
    pub chunk: Option<usize>,
    /// KV pages of [`PAGE_LEN`] positions that all sessions share; `None` = enough for one full context. Sessions take
    /// pages as they grow, and pages that nobody uses keep prompt prefixes until they are needed.
    pub kv_pages: Option<usize>,
    /// What the KV pages hold.
    pub kv_format: KvFormat,
    /// Sequences that a [`Scheduler`](crate::Scheduler) computes together; `None` = 1. Sessions go one by one.
    pub sequences: Option<usize>,
    /// Threads; `None` = `RAYON_NUM_THREADS` or all cores.
    pub threads: Option<usize>,
    /// Instruction-set cap; `None` = `BITNET_ISA` or the best.
    pub isa: Option<String>,
    /// Another tokenizer than the model's.
    pub tokenizer: Option<PathBuf>,
    /// How weights are read.
    pub load: LoadOptions,
    /// A smaller model with the same vocabulary, which guesses the next tokens: the model checks several of them in one step.
    /// What it says is the same with and without.
    pub draft: Option<PathBuf>,
    /// Tokens that the draft model guesses at a time, 1 to 8; `None` = as many as pay, by how often they are right and how long
    /// a step of each model takes.
    pub draft_tokens: Option<usize>,
    /// Times every operation ([`Engine::tracker`]), as `BITNET_PERF_TRACK` asks of all engines.
    pub track: bool,
}

impl EngineOptions {
    /// Positions of a session, and the working memory of an engine, for a model trained on `trained` positions: what
    /// [`MemoryPlan::of`] needs to plan an engine that is not loaded yet.
    ///
    /// # Errors
    /// Options that are zero.
    pub fn working_shape(&self, trained: usize) -> Result<(usize, StateShape), InferenceError> {
        let context = self.context.unwrap_or(trained.min(DEFAULT_CONTEXT));
        let chunk = self.chunk.unwrap_or(DEFAULT_CHUNK).min(context);
        let kv_pages = self.kv_pages.unwrap_or(context.div_ceil(PAGE_LEN) + 1); // one to copy a shared page to
        let sequences = self.sequences.unwrap_or(1);
        check_range("context", context)?;
        check_range("sequences", sequences)?;
        check_range("chunk", chunk)?;
        check_range("kv_pages", kv_pages)?;
        if let Some(tokens) = self.draft_tokens {
            let refuse = |reason| Err(InferenceError::Option { option: "draft_tokens", reason });
            match self.draft {
                None => return refuse("there is no draft model to guess them".into()),
                Some(_) if !(1..=MOST).contains(&tokens) => {
                    return refuse(format!("{tokens} is not between 1 and {MOST}"));
                }
                Some(_) => {}
            }
        }
        // a guess is checked whole even if there is but one sequence
        let max_logits = if self.draft.is_some() { sequences.max(1 + MOST) } else { sequences };
        Ok((
            context,
            StateShape { max_tokens: chunk + max_logits - 1, max_logits, kv_pages, kv_format: self.kv_format },
        ))
    }

    /// Bytes that an engine on this checkpoint will take with these options, its draft model included.
    ///
    /// # Errors
    /// As for [`Engine::from_checkpoint`], except for what only loading can notice.
    pub fn plan(&self, checkpoint: &Checkpoint) -> Result<MemoryPlan, InferenceError> {
        let (context, shape) = self.working_shape(Config::read(checkpoint, &self.load)?.0.context)?;
        let plan = MemoryPlan::of(checkpoint, &self.load, shape)?;
        let Some(path) = &self.draft else { return Ok(plan) };
        let checkpoint = Checkpoint::open(path)?;
        let config = Config::read(&checkpoint, &LoadOptions::default())?.0;
        Ok(plan + draft::options(self, context, shape.kv_pages, &config).plan(&checkpoint)?)
    }
}

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
}

/// Everything that a step changes.
struct Working {
    state: State<Tracked<Cpu>>,
    pool: PagePool,
    batch: Batch,
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
        let Working { state, pool, batch } = self;
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
        self.check_ids(ids, self.context)?;
        let hidden = self.model.config().hidden;
        let pooling = self.model.config().pooling.unwrap_or(Pooling::Mean);
        let mut rows = vec![0.0; self.shape.max_tokens.min(ids.len()) * hidden];
        let mut pooled = vec![0.0f64; hidden];
        let mut sequence = Sequence::new(ids.len());
        let working = &mut *self.working();
        let result = (|| {
            ids.iter().for_each(|&id| sequence.push(id)); // no look at cached pages: they hold no hidden states
            while sequence.computed() < ids.len() {
                let (start, end) = (sequence.computed(), self.next_chunk(&sequence));
                let _step = self.model.backend().step(Phase::Scoring, end - start);
                working.batch.clear();
                working.push(&self.model, &mut Run { sequence: &mut sequence, end, logits: 0 })?;
                let rows = &mut rows[..(end - start) * hidden];
                self.model.hidden(&mut working.state, &working.batch, rows);
                sequence.advance(end, &mut working.pool);
                if pooling == Pooling::Last {
                    pooled.fill(0.0);
                }
                let first = if pooling == Pooling::Last { rows.len() - hidden } else { 0 };
                for row in rows[first..].chunks_exact(hidden) {
                    pooled.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
                }
            }
            Ok(())
        })();
        sequence.truncate(0, &mut working.pool); // a scheduler beside it never sees them missing
        result.and_then(|()| normalize(&pooled))
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
        let working = &mut *self.working();
        let lengths = || runs.iter().map(|run| run.end - run.sequence.computed());
        let decoding = runs.iter().zip(lengths()).all(|(run, length)| length == run.logits);
        let phase = if decoding { Phase::Decode } else { Phase::Prompt };
        // the tokens of a step that is left count once
        let _step = self.model.backend().step(phase, if first == 0 { lengths().sum() } else { 0 });
        working.batch.clear();
        for run in runs.iter_mut() {
            working.push(&self.model, run)?;
        }
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
        self.working.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_range(option: &'static str, value: usize) -> Result<(), InferenceError> {
    match value {
        1..=MAX_POSITIONS => Ok(()),
        _ => Err(InferenceError::Option { option, reason: format!("{value} is not between 1 and {MAX_POSITIONS}") }),
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

/// Divides by the Euclidean length.
fn normalize(vector: &[f64]) -> Result<Vec<f32>, InferenceError> {
    let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    if !(length.is_finite() && length > 0.0) {
        return Err(InferenceError::Degenerate(format!("the embedding has length {length}")));
    }
    Ok(vector.iter().map(|x| (x / length) as f32).collect())
}
