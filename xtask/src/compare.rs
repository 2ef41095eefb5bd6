//! Our engine and another, in turns: speed, and whether both say the same.
//!
//! Machines change their speed from minute to minute, so the engines take turns repetition by repetition, and every ratio is
//! that of two neighbours. Engines with a script stay loaded all the time; the first repetition of each does not count.

use crate::peer::{CommandPeer, Engine as PeerEngine, Peer};
use crate::{fixture, interval};
use anyhow::{Context, bail, ensure};
use bitnet::inference::{LogitsDiff, LogitsDiffReport};
use bitnet::kernels::Activation;
use bitnet::models::Config;
use bitnet::{BenchReport, BenchSpec, Checkpoint, Engine, EngineOptions, LoadOptions, Spread};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Positions at which logits are compared.
const POSITIONS: u32 = 48;

#[derive(Args)]
pub(crate) struct Compare {
    /// Our model [default: a small synthetic I2_S file, made if absent].
    #[arg(long)]
    model: Option<PathBuf>,
    /// The same weights in a form that the other engine reads [default: the synthetic model in TQ2_0; with transformers our model].
    #[arg(long)]
    peer_model: Option<PathBuf>,
    /// The other engine.
    #[arg(long, value_enum, default_value = "llama-cpp")]
    peer: PeerEngine,
    /// Any other engine: its command line with places for {model}, {threads}, {prompt}, {new}, run once per repetition.
    #[arg(long, requires = "peer_pattern", value_name = "TEMPLATE")]
    peer_cmd: Option<String>,
    /// A regular expression with groups `prompt` and `decode` for the tokens per second in what --peer-cmd prints.
    #[arg(long, requires = "peer_cmd", value_name = "REGEX")]
    peer_pattern: Option<String>,
    /// A Python that has the other engine [default: one that crossval/peers.py finds].
    #[arg(long)]
    python: Option<PathBuf>,
    /// Install the other engine from the package registry when it is not there.
    #[arg(long)]
    install: bool,
    /// Tokens of the prompt.
    #[arg(long, short, default_value_t = 128)]
    prompt: usize,
    /// Tokens to generate.
    #[arg(long, short, default_value_t = 64)]
    new: usize,
    /// Thread counts [default: one per core].
    #[arg(long, short, value_delimiter = ',')]
    threads: Vec<usize>,
    /// Repetitions, after one that does not count.
    #[arg(long, short, default_value_t = 5)]
    reps: usize,
    /// Instruction-set tier of our engine [default: the best].
    #[arg(long)]
    isa: Option<String>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// What is compared.
struct Models {
    ours: PathBuf,
    theirs: PathBuf,
    python: PathBuf,
}

/// What was measured with one number of threads.
struct Comparison {
    ours: BenchReport,
    peer: String,
    /// Tokens per second of the peer.
    peer_prompt: Spread,
    peer_decode: Spread,
}

impl Compare {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        ensure!(self.new > 1, "--new must be at least 2: the first token comes with the prompt");
        let models = self.models()?;
        let threads: Vec<_> = match &self.threads[..] {
            [] => vec![None],
            counts => counts.iter().copied().map(Some).collect(),
        };
        let likeness = if self.peer_cmd.is_none() { Some(self.likeness(&models)?) } else { None };
        let runs: Vec<_> = threads.into_iter().map(|t| self.measure(&models, t)).collect::<Result<_, _>>()?;
        if self.json {
            let runs: Vec<_> = runs.iter().map(Comparison::to_json).collect();
            let Models { ours, theirs, .. } = models;
            let report =
                json!({"model": ours, "peer_model": theirs, "reps": self.reps, "runs": runs, "likeness": likeness});
            println!("{report}");
        } else {
            self.table(&models, &runs);
            if let Some(l) = likeness {
                println!(
                    "logits at {} positions: the same best token at {:.1} %, cosine {:.5} (least {:.5}), mean KL {:.2e}",
                    l.positions,
                    100.0 * l.argmax_agreement,
                    l.mean_cosine,
                    l.min_cosine,
                    l.mean_kl
                );
            }
        }
        Ok(())
    }

    fn models(&self) -> anyhow::Result<Models> {
        let synthetic = |encoding: &str| {
            let folder = crate::root().join("crossval/fixtures");
            let path = folder.join(format!("bitnet-small-{encoding}.gguf"));
            if !path.exists() {
                fixture::write(fixture::Size::Small, &folder, encoding.parse()?, 0)?;
            }
            anyhow::Ok(path)
        };
        let ours = self.model.clone().map_or_else(|| synthetic("i2_s"), Ok)?;
        let theirs = match (&self.peer_model, &self.model) {
            (Some(path), _) => path.clone(),
            (None, Some(path)) if self.peer == PeerEngine::Transformers || self.peer_cmd.is_some() => path.clone(),
            (None, None) if self.peer == PeerEngine::LlamaCpp => synthetic("tq2_0")?,
            (None, _) => bail!("--peer-model: which file does the other engine read?"),
        };
        if self.peer_cmd.is_none() {
            same_shape(&ours, &theirs)?;
        }
        let python = match &self.python {
            _ if self.peer_cmd.is_some() => PathBuf::new(),
            Some(python) => python.clone(),
            None => self.peer.python(self.install)?,
        };
        Ok(Models { ours, theirs, python })
    }

    fn arguments(&self, threads: usize) -> Vec<String> {
        let pairs = [("--threads", threads), ("--prompt", self.prompt), ("--new", self.new)];
        pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_string()]).collect()
    }

    /// Whether both engines compute the same network. llama.cpp has SiLU in its `bitnet` graph, so ours takes it too; what is left is
    /// its rounding of activations in blocks.
    fn likeness(&self, models: &Models) -> anyhow::Result<LogitsDiffReport> {
        let activation = (self.peer == PeerEngine::LlamaCpp).then_some(Activation::Silu);
        let load = LoadOptions { activation, ..LoadOptions::default() };
        let engine = Engine::open(&models.ours, EngineOptions { load, ..EngineOptions::default() })?;
        let vocab = engine.model().config().vocab as u32;
        let ids: Vec<u32> = (0..POSITIONS).map(|i| (i * 7919 + 1) % vocab).collect();
        let mut arguments = self.arguments(1);
        arguments.push("--logits".into());
        let mut peer = Peer::start(self.peer, &models.python, &models.theirs, &arguments)?;
        let theirs = peer.logits(std::slice::from_ref(&ids))?;
        let mut diff = LogitsDiff::default();
        let rows = |logits: &[f32]| logits.len() / vocab as usize;
        let ours = engine.logits(&ids)?;
        ensure!(rows(&theirs[0]) == rows(&ours), "the other engine gave {} rows of logits", rows(&theirs[0]));
        for (theirs, ours) in theirs[0].chunks_exact(vocab as usize).zip(ours.chunks_exact(vocab as usize)) {
            diff.add(theirs, ours);
        }
        Ok(diff.report())
    }

    fn measure(&self, models: &Models, threads: Option<usize>) -> anyhow::Result<Comparison> {
        let spec = BenchSpec { prompt: self.prompt, new: self.new, reps: self.reps, ..BenchSpec::default() };
        let options = EngineOptions { threads, isa: self.isa.clone(), ..EngineOptions::default() };
        let engine = Engine::open(&models.ours, spec.room(options))?;
        let (name, mut turn) = self.peer_turns(models, engine.model().backend().threads())?;
        let (mut prompts, mut decodes) = (Vec::new(), Vec::new());
        let mut failure = None;
        let ours = engine.bench(spec, &mut |_| match turn() {
            Ok((prompt, decode)) => {
                prompts.push(prompt);
                decodes.push(decode);
                true
            }
            Err(error) => {
                failure = Some(error);
                false
            }
        })?;
        if let Some(error) = failure {
            return Err(error);
        }
        // the warm-up
        prompts.remove(0);
        decodes.remove(0);
        Ok(Comparison { ours, peer: name, peer_prompt: Spread::of(prompts), peer_decode: Spread::of(decodes) })
    }

    /// The other engine's name, and what gives its speeds of one turn.
    #[allow(clippy::type_complexity)] // named once
    fn peer_turns(
        &self,
        models: &Models,
        threads: usize,
    ) -> anyhow::Result<(String, Box<dyn FnMut() -> anyhow::Result<(f64, f64)>>)> {
        if let (Some(template), Some(pattern)) = (&self.peer_cmd, &self.peer_pattern) {
            let values = [
                ("model", models.theirs.display().to_string()),
                ("threads", threads.to_string()),
                ("prompt", self.prompt.to_string()),
                ("new", self.new.to_string()),
            ];
            let peer = CommandPeer::new(template, pattern, &values)?;
            return Ok((template.clone(), Box::new(move || peer.measure())));
        }
        let mut peer = Peer::start(self.peer, &models.python, &models.theirs, &self.arguments(threads))?;
        let (prompt, decoded) = (self.prompt as f64, (self.new - 1) as f64);
        let name = peer.name.clone();
        Ok((
            name,
            Box::new(move || {
                let turn = peer.bench()?;
                Ok((prompt / turn.prompt, decoded / turn.decode))
            }),
        ))
    }

    fn table(&self, models: &Models, runs: &[Comparison]) {
        let Some(peer) = runs.first().map(|run| &run.peer) else { return };
        println!(
            "{} here and {} in {peer}, in turns; tokens per second, median (range) of {}; ratio: median (95 % interval)",
            models.ours.display(),
            models.theirs.display(),
            self.reps
        );
        println!("{:>7} {:>10} {:>11} {:>24} {:>24} {:>21}", "threads", "isa", "", "here", "there", "ratio");
        for run in runs {
            for (what, tokens, ours, peer) in run.rows() {
                let ratios = ratios(ours, peer);
                let (low, high) = interval::of_median(&ratios.values);
                println!(
                    "{:>7} {:>10} {:>11} {:>24} {:>24} {:>21}",
                    run.ours.threads,
                    run.ours.isa,
                    format!("{what} {tokens}"),
                    median(ours),
                    median(peer),
                    format!("{} ({}–{})", digits(ratios.median), digits(low), digits(high)),
                );
            }
        }
    }
}

impl Comparison {
    fn rows(&self) -> [(&'static str, usize, &Spread, &Spread); 2] {
        let BenchReport { prompt_tokens, decode_tokens, prompt_speed, decode_speed, .. } = &self.ours;
        [
            ("prompt", *prompt_tokens, prompt_speed, &self.peer_prompt),
            ("decode", *decode_tokens, decode_speed, &self.peer_decode),
        ]
    }

    fn to_json(&self) -> Value {
        let spread = |s: &Spread| json!({"median": s.median, "min": s.min, "max": s.max, "values": s.values});
        let mut report = json!({"threads": self.ours.threads, "isa": self.ours.isa, "peer": self.peer});
        for (what, tokens, ours, peer) in self.rows() {
            let ratios = ratios(ours, peer);
            let (low, high) = interval::of_median(&ratios.values);
            report[what] = json!({
                "tokens": tokens,
                "tokens_per_second": spread(ours),
                "peer_tokens_per_second": spread(peer),
                "ratio": spread(&ratios),
                "ratio_interval": [low, high],
            });
        }
        report
    }
}

/// Neighbour by neighbour.
fn ratios(ours: &Spread, peer: &Spread) -> Spread {
    Spread::of(ours.values.iter().zip(&peer.values).map(|(ours, peer)| ours / peer).collect())
}

fn median(s: &Spread) -> String {
    format!("{} ({}–{})", digits(s.median), digits(s.min), digits(s.max))
}

fn digits(x: f64) -> String {
    if x < 9.995 {
        format!("{x:.2}")
    } else if x < 99.95 {
        format!("{x:.1}")
    } else {
        format!("{x:.0}")
    }
}

/// Comparing speeds makes sense only for networks of the same size.
fn same_shape(a: &Path, b: &Path) -> anyhow::Result<()> {
    let shape = |path: &Path| {
        let checkpoint = Checkpoint::open(path).with_context(|| path.display().to_string())?;
        let (c, _) = Config::read(&checkpoint, &LoadOptions::default())?;
        let sizes = [c.hidden, c.ffn, c.layers, c.heads, c.kv_heads, c.head_dim, c.vocab];
        anyhow::Ok(sizes)
    };
    let (found, expected) = (shape(b)?, shape(a)?);
    if found != expected {
        let names = "hidden, feed-forward, blocks, heads, key/value heads, head size, vocabulary";
        bail!("{}: {names} are {found:?}, but {expected:?} in {}", b.display(), a.display());
    }
    Ok(())
}
