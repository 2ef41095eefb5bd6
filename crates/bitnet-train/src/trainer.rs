//! The loop: windows, loss, gradients, step; validation, checkpoint, best model.

use crate::checkpoint::{self, Progress};
use crate::loss_plot;
use crate::matmul::peak;
use crate::measure::{Validation, measure};
use crate::network::{Network, Weights};
use crate::optimizer::{Optimizer, norm_of_gradients};
use crate::pass::{Pass, Teacher};
use crate::schedule::rate;
use crate::tensorboard::EventFile;
use crate::tokenizer::Vocabulary;
use crate::tokens::{Tokens, Windows, learned};
use crate::whole_file::write_whole;
use crate::{ModelRecipe, Recipe, TeacherRecipe, TrainError, export};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a run tells while it goes on, and writes as a line of `metrics.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An optimiser step.
    Step {
        /// Counted from 1.
        step: usize,
        /// Mean cross-entropy in nats per token.
        loss: f64,
        /// Learning rate.
        lr: f64,
        /// Norm of the gradient before clipping.
        gradient_norm: f64,
        /// Tokens learned per second.
        tokens_per_second: f64,
        /// Floating-point operations of the model per second, in 10⁹.
        gflops: f64,
        /// Model-FLOPs utilisation: the share of what this machine's matrix unit, or its vectors, do with operands in the nearest cache, as
        /// measured when the run begins.
        #[serde(default)]
        mfu: f64,
    },
    /// A measurement on the validation text.
    Validation {
        /// Steps done.
        step: usize,
        /// What was measured.
        #[serde(flatten)]
        validation: Validation,
        /// Whether it is the best so far, which is now in `model/`.
        best: bool,
    },
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Steps done.
    pub steps: usize,
    /// Bits per byte of the best model, and its step.
    pub best: Option<(f64, usize)>,
    /// True when the observer stopped it: it can be resumed.
    pub interrupted: bool,
}

/// A training run in a directory: `recipe.toml`, `tokenizer.json`, `checkpoint.safetensors`, `metrics.jsonl`,
/// `loss.svg`, and the best model so far as a Hugging Face directory `model/`.
pub struct Trainer {
    recipe: Recipe,
    dir: PathBuf,
    vocabulary: Vocabulary,
    train: Tokens,
    validation: Tokens,
    network: Network,
    optimizer: Optimizer,
    progress: Progress,
    pass: Pass,
    teacher: Option<Teacher>,
    /// The matrices of a network that stays as it is.
    frozen: Option<Weights>,
    /// Floating-point operations per second that this machine does at most; measured at the start of a run.
    peak: f64,
}

impl Trainer {
    /// Reads the text, makes or reads the vocabulary, and starts from random weights or, with `resume`, from the
    /// directory's checkpoint.
    ///
    /// # Errors
    /// A recipe or text that cannot be used; a directory that already holds a run, without `resume`; a checkpoint of
    /// another recipe.
    pub fn new(recipe: &Recipe, dir: &Path, resume: bool) -> Result<Trainer, TrainError> {
        recipe.check()?;
        let found = checkpoint::exists(dir);
        if found && !resume {
            let reason = "there is a run in this directory already: resume it, or train into another one".into();
            return Err(TrainError::Checkpoint { path: dir.to_owned(), reason });
        }
        std::fs::create_dir_all(dir).map_err(TrainError::file(dir))?;
        let vocabulary = if found { Vocabulary::of_run(dir, recipe)? } else { Vocabulary::make(recipe)? };
        if !found {
            vocabulary.keep(dir)?;
            let text = toml::to_string(recipe).map_err(|e| TrainError::Recipe(e.to_string()))?;
            write_whole(&dir.join("recipe.toml"), text.as_bytes())?;
        }
        let train = Tokens::mapped(&dir.join("train.tokens"), &recipe.data.train, &vocabulary)?;
        let validation = Tokens::mapped(&dir.join("validation.tokens"), &recipe.data.validation, &vocabulary)?;
        Windows::new(&train, recipe.model.context, recipe.run.seed)?; // too little text is said before the first step
        let mut network = Network::new(&recipe.model, vocabulary.len(), recipe.run.seed);
        if let Some(start) = recipe.start.as_ref().filter(|_| !found || recipe.lora.is_some()) {
            network.take(start)?;
        }
        let mut frozen = None;
        if let Some(lora) = &recipe.lora {
            network.adapt(lora, recipe.run.seed);
            frozen = Some(Weights::new(&network, 1.0)?);
        }
        let teacher = recipe.teacher.as_ref().map(|teacher| Teacher::read(teacher, recipe, &vocabulary)).transpose()?;
        let mut optimizer = Optimizer::new(&recipe.optimizer, network.trained());
        let mut progress = Progress::default();
        if found {
            progress = checkpoint::load(dir, recipe, &mut network, &mut optimizer)?;
        }
        Ok(Trainer {
            recipe: recipe.clone(),
            dir: dir.to_owned(),
            vocabulary,
            train,
            validation,
            network,
            optimizer,
            progress,
            pass: Pass::default(),
            teacher,
            frozen,
            peak: f64::INFINITY,
        })
    }

    /// The network as it is now.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Steps done.
    pub fn steps(&self) -> usize {
        self.progress.step
    }

    /// Tokens and bytes of one epoch of training text.
    pub fn training_text(&self) -> (usize, usize) {
        (self.train.len(), self.train.bytes)
    }

    /// Where the best model is written, or the best side-car.
    pub fn model_dir(&self) -> PathBuf {
        self.dir.join(if self.recipe.lora.is_some() { "adapter" } else { "model" })
    }

    /// Trains to the end of the recipe, or until the observer returns false.
    ///
    /// # Errors
    /// A loss that is no number (the last checkpoint stays), and files that cannot be written.
    pub fn run(&mut self, observe: &mut dyn FnMut(&Event) -> bool) -> Result<Outcome, TrainError> {
        let mut log = Log::open(&self.dir, self.progress.step)?;
        self.peak = peak();
        let steps = self.recipe.optimizer.steps;
        let mut go_on = true;
        while go_on && self.progress.step < steps && !self.has_stalled() {
            // on a thread of the pool, which its operations then need not wake first
            let event = rayon::scope(|_| self.step())?;
            log.write(&event)?;
            go_on = observe(&event);
            let step = self.progress.step;
            if step.is_multiple_of(self.recipe.run.validate_every) || step == steps {
                let event = self.validate()?;
                log.write(&event)?;
                go_on &= observe(&event);
            }
            if !go_on || step.is_multiple_of(self.recipe.run.checkpoint_every) || step == steps || self.has_stalled() {
                checkpoint::save(&self.dir, &self.recipe, &self.network, &self.optimizer, self.progress)?;
                log.plot()?;
            }
        }
        let Progress { step, best, .. } = self.progress;
        Ok(Outcome { steps: step, best, interrupted: step < steps && !self.has_stalled() })
    }

    fn has_stalled(&self) -> bool {
        let patience = self.recipe.run.patience;
        patience > 0 && self.progress.without_gain >= patience
    }

    fn step(&mut self) -> Result<Event, TrainError> {
        let start = Instant::now();
        let Recipe { model, optimizer: o, run, .. } = &self.recipe;
        let rate = rate(o, self.progress.step);
        let mut windows = Windows::new(&self.train, model.context, run.seed)?;
        let first = (self.progress.step * o.batch) as u64;
        let batch: Vec<&[u32]> = (first..first + o.batch as u64).map(|index| windows.get(index)).collect();
        let tokens = o.batch * model.context;
        // a batch of nothing but questions moves nothing
        let learned = batch.iter().map(|window| learned(&window[1..])).sum::<usize>().max(1);
        self.network.check_lora()?;
        let made;
        let weights = match &self.frozen {
            Some(frozen) => frozen,
            None => {
                made = Weights::new(&self.network, rate.quantization)?;
                &made
            }
        };
        let mut nats = 0.0;
        for part in batch.chunks(o.batch / o.accumulate) {
            nats += self.pass.learn(&mut self.network, weights, part, 1.0 / learned as f32, self.teacher.as_mut());
        }
        let loss = nats / learned as f64;
        let gradient_norm = norm_of_gradients(self.network.trained());
        let step = self.progress.step + 1;
        if !loss.is_finite() || !gradient_norm.is_finite() {
            return Err(TrainError::Diverged { step, loss, gradient_norm });
        }
        self.optimizer.step(self.network.trained_mut(), gradient_norm, rate);
        self.network.clear_frozen();
        self.progress.step = step;
        let tokens_per_second = tokens as f64 / start.elapsed().as_secs_f64();
        let flops = tokens_per_second * self.network.flops_per_token();
        let (gflops, mfu) = (flops / 1e9, flops / self.peak);
        Ok(Event::Step { step, loss, lr: rate.lr, gradient_norm, tokens_per_second, gflops, mfu })
    }

    /// Exchanges the weights with their running mean, where there is one.
    fn exchange(&mut self) {
        let weights = self.network.trained_mut().iter_mut().map(|param| &mut param.values);
        weights.zip(&mut self.optimizer.average).for_each(|(weights, average)| std::mem::swap(weights, average));
    }

    fn validate(&mut self) -> Result<Event, TrainError> {
        self.exchange();
        let event = self.measure_and_keep();
        self.exchange();
        event
    }

    fn measure_and_keep(&mut self) -> Result<Event, TrainError> {
        let validation = self.measure()?;
        let step = self.progress.step;
        let best = self.progress.best.is_none_or(|(bits, _)| validation.bits_per_byte < bits);
        if best {
            self.progress.best = Some((validation.bits_per_byte, step));
            self.progress.without_gain = 0;
            export::write(&self.network, &self.vocabulary, &self.model_dir())?;
        } else {
            self.progress.without_gain += 1;
        }
        Ok(Event::Validation { step, validation, best })
    }

    /// Measures the network, or the mean of its weights where the recipe asks for one, on the validation text.
    ///
    /// # Errors
    /// Weights that are not finite.
    pub fn validation(&mut self) -> Result<Validation, TrainError> {
        self.exchange();
        let validation = self.measure();
        self.exchange();
        validation
    }

    fn measure(&mut self) -> Result<Validation, TrainError> {
        measure(&mut self.pass, &self.network, &self.validation, self.recipe.model.context)
    }

    /// Writes the network as it is now as a Hugging Face directory.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn export(&self, dir: &Path) -> Result<(), TrainError> {
        export::write(&self.network, &self.vocabulary, dir)
    }
}

impl Teacher {
    fn read(teacher: &TeacherRecipe, recipe: &Recipe, vocabulary: &Vocabulary) -> Result<Teacher, TrainError> {
        let shape = ModelRecipe::of(&teacher.model)?;
        if shape.context < recipe.model.context {
            let reason =
                format!("was trained for {} positions, the recipe has {}", shape.context, recipe.model.context);
            return Err(TrainError::Model { path: teacher.model.clone(), reason });
        }
        if !vocabulary.is_that_of(&teacher.model)? {
            let reason = "has another vocabulary than the run: its tokenizer.json belongs into tokenizer.file".into();
            return Err(TrainError::Model { path: teacher.model.clone(), reason });
        }
        let mut network = Network::new(&shape, vocabulary.len(), 0);
        network.take(&teacher.model)?;
        let weights = Weights::new(&network, 1.0)?;
        Ok(Teacher { network, weights, pass: Pass::default(), share: teacher.share })
    }
}

/// `metrics.jsonl`, its picture, and an event file for TensorBoard.
struct Log {
    dir: PathBuf,
    file: File,
    events: EventFile,
    training: Vec<(usize, f64)>,
    validation: Vec<(usize, f64)>,
}

impl Log {
    /// Goes on with the log of `dir` after `step`; lines of later steps, which are computed again, are removed.
    fn open(dir: &Path, step: usize) -> Result<Log, TrainError> {
        let path = dir.join("metrics.jsonl");
        let mut kept = String::new();
        let mut events = Vec::new();
        if path.exists() {
            let text = std::fs::read_to_string(&path).map_err(TrainError::file(&path))?;
            // a line that was being written when the process died is no JSON
            for (line, event) in text.lines().filter_map(|line| Some((line, serde_json::from_str(line).ok()?))) {
                let (Event::Step { step: at, .. } | Event::Validation { step: at, .. }) = event;
                if at <= step {
                    kept += line;
                    kept.push('\n');
                    events.push(event);
                }
            }
        }
        write_whole(&path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(TrainError::file(&path))?;
        let board = EventFile::create(dir).map_err(TrainError::file(dir))?;
        let mut log = Log { dir: dir.to_owned(), file, events: board, training: Vec::new(), validation: Vec::new() };
        events.iter().for_each(|event| log.remember(event));
        Ok(log)
    }

    fn remember(&mut self, event: &Event) {
        match *event {
            Event::Step { step, loss, .. } => self.training.push((step, loss)),
            Event::Validation { step, validation, .. } => self.validation.push((step, validation.nats_per_token)),
        }
    }

    fn write(&mut self, event: &Event) -> Result<(), TrainError> {
        self.remember(event);
        let path = self.dir.join("metrics.jsonl");
        let line = serde_json::to_string(event).map_err(|e| TrainError::Recipe(e.to_string()))?;
        writeln!(self.file, "{line}").map_err(TrainError::file(path))?;
        let (step, scalars) = match *event {
            Event::Step { step, loss, lr, gradient_norm, tokens_per_second, gflops, mfu } => (
                step,
                vec![
                    ("training/loss", loss),
                    ("training/lr", lr),
                    ("training/gradient_norm", gradient_norm),
                    ("speed/tokens_per_second", tokens_per_second),
                    ("speed/gflops", gflops),
                    ("speed/mfu", mfu),
                ],
            ),
            Event::Validation { step, validation: Validation { nats_per_token, bits_per_byte }, .. } => {
                (step, vec![("validation/nats_per_token", nats_per_token), ("validation/bits_per_byte", bits_per_byte)])
            }
        };
        self.events.scalars(step, &scalars).map_err(TrainError::file(&self.dir))
    }

    fn plot(&self) -> Result<(), TrainError> {
        write_whole(&self.dir.join("loss.svg"), loss_plot::svg(&self.training, &self.validation).as_bytes())
    }
}
