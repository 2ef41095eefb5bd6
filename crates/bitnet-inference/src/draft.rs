//! A small model that guesses what a large one will say.
//!
//! The draft model has an engine of its own beside the large model's: weights, KV pages, a sequence for every one that
//! decodes. A sequence is read where the large model's is new to it, beside the decoding and in pieces, so that nobody waits long;
//! what was guessed wrong is forgotten. Where pages are lacking or the draft's context ends, no guesses are made.

use crate::engine::Run;
use crate::proposer::Asking;
use crate::sampler::argmax;
use crate::{Engine, EngineOptions, InferenceError};
use bitnet_formats::Checkpoint;
use bitnet_kernels::{Top, Wanted};
use bitnet_models::{Config, Tokenizer};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Tokens that the draft model reads between two steps of the large one.
const READ: usize = 64;
/// A text is not read for an answer that is so many times shorter: reading takes longer than the guesses save.
const WORTH_READING: usize = 16;
/// Only the best token of the draft model counts.
const BEST: Top<'static> = Top { count: 1, margin: 0.0, ids: &[] };

/// A draft model in use.
pub(crate) struct Draft {
    pub(crate) engine: Engine,
    /// Tokens of every guess; `None`: as many as pay.
    tokens: Option<usize>,
    /// `[sequences, vocab]`.
    logits: Mutex<Vec<f32>>,
    /// Of a step of the draft model, and of the large one.
    pace: [Pace; 2],
}

/// Seconds that a step took at its best of late, as bits; 0 before the first. The best, because whatever else the machine does
/// only makes steps longer.
#[derive(Default)]
struct Pace(AtomicU32);

impl Pace {
    fn seconds(&self) -> f32 {
        f32::from_bits(self.0.load(Relaxed))
    }

    fn note(&self, took: Duration) {
        let (took, before) = (took.as_secs_f32(), self.seconds());
        let now = if before > 0.0 && took > before { before + 0.1 * (took - before) } else { took };
        self.0.store(now.to_bits(), Relaxed); // should two threads write, one is lost
    }
}

/// The options of the draft model's engine beside an engine with `model`, `context` and `kv_pages`.
pub(crate) fn options(model: &EngineOptions, context: usize, kv_pages: usize, draft: &Config) -> EngineOptions {
    EngineOptions {
        context: Some(context.min(draft.context).max(1)),
        chunk: Some(READ),
        kv_pages: Some(kv_pages),
        kv_format: model.kv_format,
        sequences: model.sequences,
        threads: model.threads,
        isa: model.isa.clone(),
        ..EngineOptions::default()
    }
}

impl Draft {
    /// Opens the draft model at `path` for `model`, an engine with these options.
    pub(crate) fn open(path: &Path, model: &Engine, of: &EngineOptions) -> Result<Self, InferenceError> {
        let checkpoint = Checkpoint::open(path)?;
        let config = Config::read(&checkpoint, &EngineOptions::default().load)?.0;
        let options = options(of, model.context(), model.shape().kv_pages, &config);
        let refuse = |reason| InferenceError::Draft { path: path.to_owned(), reason };
        if config.pooling.is_some() {
            return Err(refuse("it is an embedding model, which says nothing".into()));
        }
        let engine = Engine::load(&checkpoint, &options, false)?;
        same_vocabulary(model, &engine).map_err(refuse)?;
        let logits = vec![0.0; engine.sequences() * engine.model().config().vocab];
        Ok(Draft { engine, tokens: of.draft_tokens, logits: Mutex::new(logits), pace: Default::default() })
    }

    /// Notes how long the large model took for a step in which all decode.
    pub(crate) fn model_took(&self, time: Duration) {
        self.pace[1].note(time);
    }

    /// What a step takes, as a part of one of the large model.
    fn cost(&self) -> f32 {
        match self.pace.each_ref().map(Pace::seconds) {
            [draft, model] if draft > 0.0 && model > 0.0 => draft / model,
            _ => 0.0,
        }
    }

    /// Guesses for those that have no guess yet, at most `free` tokens in all, `row` being what checking one costs.
    pub(crate) fn guess(&self, asking: &mut [Asking<'_>], mut free: usize, row: f32) {
        let cost = row + self.cost();
        let mut going: Vec<Going<'_, '_>> = Vec::with_capacity(asking.len());
        for asking in asking.iter_mut().filter(|asking| asking.proposer.guess.is_empty()) {
            // the last token of a guess is not computed here
            let room = asking.room.min((self.engine.context() + 1).saturating_sub(asking.tokens.len()));
            if room == 0 {
                continue;
            }
            let tokens = self.tokens.unwrap_or_else(|| asking.proposer.drafted.pays_or_tries(cost)).min(room);
            if tokens > 0 {
                let sequence = &mut asking.proposer.draft;
                self.engine.with_pool(|pool| sequence.replace(asking.tokens, pool));
                let missing = sequence.tokens().len() - sequence.computed();
                if missing <= asking.left.saturating_mul(WORTH_READING) {
                    going.push(Going { asking, tokens, missing, end: 0 });
                }
            }
        }
        let mut read = self.engine.shape().max_tokens;
        going.sort_unstable_by_key(|one| one.missing); // who was read is not kept waiting by who is not
        going.retain_mut(|one| {
            let part = one.missing.min(read);
            read -= part;
            one.tokens = if part == one.missing { one.tokens.min(free) } else { 0 }; // the rest comes next time
            free -= one.tokens;
            part > 0 && one.reserve(part, &self.engine)
        });
        // a step counts if it computes one token of each, or that and the one of the last guess that was not computed
        let mut short = going.iter().all(|one| one.missing <= 2);
        let mut logits = self.logits.lock().unwrap_or_else(PoisonError::into_inner);
        while !going.is_empty() {
            let begin = Instant::now();
            if self.step(&mut going, &mut logits).is_err() {
                // its pages were there; should it happen all the same, the large model goes on alone
                going.iter_mut().for_each(|one| one.give_up(&self.engine));
                return;
            }
            if short {
                self.pace[0].note(begin.elapsed());
            }
            short = true;
            going.retain(|one| one.asking.proposer.guess.len() < one.tokens);
        }
    }

    /// Computes what is missing of all, and the next token of those who are to have one.
    fn step(&self, going: &mut [Going<'_, '_>], logits: &mut [f32]) -> Result<(), InferenceError> {
        let rows = going.iter().filter(|one| one.tokens > 0).count();
        let mut runs: Vec<Run<'_>> = going
            .iter_mut()
            .map(|one| Run {
                end: one.end,
                logits: usize::from(one.tokens > 0),
                sequence: &mut one.asking.proposer.draft,
            })
            .collect();
        let wanted = if rows > 0 { Wanted::Top(&vec![BEST; rows]) } else { Wanted::All };
        self.engine.step_together(&mut runs, wanted, logits)?;
        let rows = logits.chunks_exact(self.engine.model().config().vocab);
        for (one, row) in going.iter_mut().filter(|one| one.tokens > 0).zip(rows) {
            one.guessed(argmax(row).unwrap_or(0));
        }
        Ok(())
    }
}

/// A sequence that the draft model computes.
struct Going<'a, 's> {
    asking: &'a mut Asking<'s>,
    /// So many tokens are to be guessed.
    tokens: usize,
    /// Not computed at the beginning.
    missing: usize,
    /// How far the next step gets.
    end: usize,
}

impl Going<'_, '_> {
    /// Takes the pages to compute `part` of what is missing, and all of the guess but its last token. False when there are none.
    fn reserve(&mut self, part: usize, engine: &Engine) -> bool {
        let sequence = &mut self.asking.proposer.draft;
        self.end = sequence.computed() + part;
        let there = engine.reserve(sequence, self.end + self.tokens.saturating_sub(1)).is_ok();
        if !there {
            self.give_up(engine);
        }
        there
    }

    fn guessed(&mut self, id: u32) {
        let proposer = &mut *self.asking.proposer;
        proposer.guess.push(id);
        if proposer.guess.len() == 1 {
            proposer.by_draft = true;
            proposer.drafted.guessed(Some(id));
        }
        if proposer.guess.len() < self.tokens {
            proposer.draft.push(id);
            self.end += 1;
        }
    }

    fn give_up(&mut self, engine: &Engine) {
        self.asking.proposer.guess.clear();
        engine.with_pool(|pool| self.asking.proposer.draft.suspend(pool));
    }
}

/// Guesses make sense only where a number means the same token.
fn same_vocabulary(model: &Engine, draft: &Engine) -> Result<(), String> {
    let [ours, theirs] = [model, draft].map(|engine| engine.model().config().vocab);
    if ours != theirs {
        return Err(format!("its vocabulary has {theirs} tokens, the model's {ours}"));
    }
    let tokenizer = |engine, whose| {
        let none = |error| format!("{whose} tokens cannot be compared: {error}");
        Engine::require_tokenizer(engine).map_err(none)
    };
    let [ours, theirs] = [tokenizer(model, "the model's")?, tokenizer(draft, "its")?];
    let ids = ours.vocab_size().max(theirs.vocab_size()) as u32;
    let token =
        |tokenizer: &'_ Tokenizer, id| (tokenizer.bytes(id).map(Vec::from), tokenizer.text(id).map(String::from));
    match (0..ids).find(|&id| token(ours, id) != token(theirs, id)) {
        None => Ok(()),
        Some(id) => {
            let spelled = |tokenizer: &Tokenizer| match tokenizer.text(id) {
                Some(text) => format!("{text:?}"),
                None => "nothing".into(),
            };
            Err(format!("token {id} is {} in its vocabulary and {} in the model's", spelled(theirs), spelled(ours)))
        }
    }
}
