//! Choices at start, and the memory that they ask for.

use crate::InferenceError;
use crate::draft;
use crate::proposer::MOST;
use bitnet_formats::Checkpoint;
use bitnet_kernels::{KvFormat, PAGE_LEN};
use bitnet_models::{Config, LoadOptions, MemoryPlan, StateShape};
use std::path::PathBuf;

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
    /// Times every operation ([`Engine::tracker`](crate::Engine::tracker)), as `BITNET_PERF_TRACK` asks of all engines.
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
    /// As for [`Engine::from_checkpoint`](crate::Engine::from_checkpoint), except for what only loading can notice.
    pub fn plan(&self, checkpoint: &Checkpoint) -> Result<MemoryPlan, InferenceError> {
        let (context, shape) = self.working_shape(Config::read(checkpoint, &self.load)?.0.context)?;
        let plan = MemoryPlan::of(checkpoint, &self.load, shape)?;
        let Some(path) = &self.draft else { return Ok(plan) };
        let checkpoint = Checkpoint::open(path)?;
        let config = Config::read(&checkpoint, &LoadOptions::default())?.0;
        Ok(plan + draft::options(self, context, shape.kv_pages, &config).plan(&checkpoint)?)
    }
}

fn check_range(option: &'static str, value: usize) -> Result<(), InferenceError> {
    match value {
        1..=MAX_POSITIONS => Ok(()),
        _ => Err(InferenceError::Option { option, reason: format!("{value} is not between 1 and {MAX_POSITIONS}") }),
    }
}
