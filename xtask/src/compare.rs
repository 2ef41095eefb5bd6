//! Our engine and llama.cpp, in turns.
//!
//! Machines change their speed from minute to minute, so the engines take turns repetition by repetition, and every ratio is
//! that of two neighbours. Both stay loaded all the time; the first repetition of each does not count.

use anyhow::{Context, bail, ensure};
use bitnet::models::Config;
use bitnet::{BenchReport, BenchSpec, Checkpoint, Engine, EngineOptions, LoadOptions, Spread};
use clap::Args;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

#[derive(Args)]
pub(crate) struct Compare {
    /// Our model, such as an I2_S GGUF file.
    #[arg(long)]
    model: PathBuf,
    /// A GGUF file of the same shape that llama.cpp reads, such as TQ2_0.
    #[arg(long)]
    peer_model: PathBuf,
    /// A Python with llama-cpp-python (`pip install llama-cpp-python` builds llama.cpp, which takes some minutes).
    #[arg(long, default_value = "python3")]
    python: PathBuf,
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
        same_shape(&self.model, &self.peer_model)?;
        let threads: Vec<_> = match &self.threads[..] {
            [] => vec![None],
            counts => counts.iter().copied().map(Some).collect(),
        };
        let runs: Vec<_> = threads.into_iter().map(|threads| self.measure(threads)).collect::<Result<_, _>>()?;
        if self.json {
            let runs: Vec<_> = runs.iter().map(Comparison::to_json).collect();
            println!(
                "{}",
                json!({"model": self.model, "peer_model": self.peer_model, "reps": self.reps, "runs": runs})
            );
        } else {
            self.table(&runs);
        }
        Ok(())
    }

    fn measure(&self, threads: Option<usize>) -> anyhow::Result<Comparison> {
        let spec = BenchSpec { prompt: self.prompt, new: self.new, reps: self.reps, ..BenchSpec::default() };
        let options = EngineOptions { threads, isa: self.isa.clone(), ..EngineOptions::default() };
        let engine = Engine::open(&self.model, spec.room(options))?;
        let mut peer = Peer::start(self, engine.model().backend().threads())?;
        let mut turns = Vec::new();
        let mut failure = None;
        let ours = engine.bench(spec, &mut |_| match peer.measure() {
            Ok(turn) => {
                turns.push(turn);
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
        turns.remove(0); // the warm-up
        let speeds = |tokens: usize, seconds: fn(&Turn) -> f64| {
            Spread::of(turns.iter().map(|turn| tokens as f64 / seconds(turn)).collect())
        };
        Ok(Comparison {
            ours,
            peer: peer.name.clone(),
            peer_prompt: speeds(self.prompt, |turn| turn.prompt),
            peer_decode: speeds(self.new - 1, |turn| turn.decode),
        })
    }

    fn table(&self, runs: &[Comparison]) {
        let Some(peer) = runs.first().map(|run| &run.peer) else { return };
        println!(
            "{} here and {} in {peer}, in turns; tokens per second, median (range) of {}",
            self.model.display(),
            self.peer_model.display(),
            self.reps
        );
        println!("{:>7} {:>10} {:>11} {:>24} {:>24} {:>21}", "threads", "isa", "", "here", "llama.cpp", "ratio");
        for run in runs {
            for (what, tokens, ours, peer) in run.rows() {
                println!(
                    "{:>7} {:>10} {:>11} {:>24} {:>24} {:>21}",
                    run.ours.threads,
                    run.ours.isa,
                    format!("{what} {tokens}"),
                    median(ours),
                    median(peer),
                    median(&ratios(ours, peer)),
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
            report[what] = json!({
                "tokens": tokens,
                "tokens_per_second": spread(ours),
                "peer_tokens_per_second": spread(peer),
                "ratio": spread(&ratios(ours, peer)),
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
    let digits = |x: f64| if x < 99.95 { format!("{x:.1}") } else { format!("{x:.0}") };
    format!("{} ({}–{})", digits(s.median), digits(s.min), digits(s.max))
}

/// Comparing speeds makes sense only for networks of the same size.
fn same_shape(a: &Path, b: &Path) -> anyhow::Result<()> {
    let shape = |path: &Path| {
        let (c, _) = Config::read(&Checkpoint::open(path)?, &LoadOptions::default())?;
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

/// Seconds.
struct Turn {
    prompt: f64,
    decode: f64,
}

/// `crossval/bench_llama_cpp.py`, running.
struct Peer {
    name: String,
    process: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    fn start(task: &Compare, threads: usize) -> anyhow::Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crossval/bench_llama_cpp.py");
        let mut process = Command::new(&task.python)
            .arg(script)
            .arg(&task.peer_model)
            .args(["--threads", &threads.to_string()])
            .args(["--prompt", &task.prompt.to_string()])
            .args(["--new", &task.new.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} does not start", task.python.display()))?;
        let input = process.stdin.take();
        let output = process.stdout.take().context("no pipe to the other engine")?;
        let mut peer = Peer { name: String::new(), process, input, output: BufReader::new(output).lines() };
        let about =
            peer.answer().context("llama.cpp does not start: pip install llama-cpp-python, and see --python")?;
        peer.name = about["engine"].as_str().unwrap_or_default().to_owned();
        Ok(peer)
    }

    fn measure(&mut self) -> anyhow::Result<Turn> {
        writeln!(self.input.as_mut().context("closed")?)?;
        let turn = self.answer()?;
        let seconds = |key: &str| turn[key].as_f64().with_context(|| format!("{key} is missing in {turn}"));
        Ok(Turn { prompt: seconds("prompt_seconds")?, decode: seconds("decode_seconds")? })
    }

    /// The next line that is an object: libraries may print remarks of their own.
    fn answer(&mut self) -> anyhow::Result<Value> {
        for line in self.output.by_ref() {
            if let Ok(value @ Value::Object(_)) = serde_json::from_str(&line?) {
                return Ok(value);
            }
        }
        bail!("the other engine ended")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.input = None; // the end of its input is the end of its work
        let _ = self.process.wait();
    }
}
