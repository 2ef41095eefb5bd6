//! `bitnet bench`: speed, and how near it comes to what memory allows.

use crate::console::Console;
use crate::failure::Interrupted;
use crate::interrupt::Watch;
use crate::model_args::{KvArgs, LoadArgs, ModelPath, load_engine, positive};
use crate::numbers::{bytes, count, digits, seconds};
use bitnet::inference::tracking::TrackReport;
use bitnet::kernels::Isa;
use bitnet::{BenchReport, BenchSpec, EngineOptions, Spread};
use clap::Args;
use serde_json::json;
use std::io::{self, Write};

/// Measure prompt and decode speed, time to first token, load time and memory
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    model: ModelPath,
    /// Tokens of the prompt
    #[arg(long, short, value_name = "N", value_parser = positive, default_value = "128")]
    prompt: usize,
    /// Tokens to generate (at least 2: the first comes with the prompt)
    #[arg(long, short, value_name = "N", value_parser = at_least_two, default_value = "64")]
    new: usize,
    /// Sequences that decode together; the decode speed is that of all
    #[arg(long, short, value_name = "N", value_parser = positive, default_value = "1")]
    batch: usize,
    /// Tokens in the cache before the prompt
    #[arg(long, short, value_name = "N", default_value = "0")]
    depth: usize,
    /// Thread counts to compare [default: RAYON_NUM_THREADS, or one per core]
    #[arg(long, short, value_name = "N,...", value_parser = positive, value_delimiter = ',')]
    threads: Vec<usize>,
    /// Repetitions, after one that does not count
    #[arg(long, short, value_name = "N", value_parser = positive, default_value = "5")]
    reps: usize,
    /// Tokens per prompt chunk [default: the engine's]
    #[arg(long, value_name = "N", value_parser = positive)]
    chunk: Option<usize>,
    /// Use at most this instruction set (see `bitnet doctor`) [default: BITNET_ISA, or the best]
    #[arg(long, value_name = "TIER")]
    isa: Option<Isa>,
    #[command(flatten)]
    kv: KvArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Time every operation of the forward pass and print where the time goes
    #[arg(long)]
    profile: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &BenchArgs, console: &Console) -> anyhow::Result<()> {
    let counts: Vec<Option<usize>> =
        if args.threads.is_empty() { vec![None] } else { args.threads.iter().copied().map(Some).collect() };
    let spec = BenchSpec { prompt: args.prompt, new: args.new, reps: args.reps, batch: args.batch, depth: args.depth };
    let mut reports: Vec<BenchReport> = Vec::new();
    let mut profiles: Vec<TrackReport> = Vec::new();
    let silent = Console::new(true);
    for (index, threads) in counts.into_iter().enumerate() {
        let options = spec.room(EngineOptions {
            threads,
            chunk: args.chunk,
            kv_format: args.kv.format,
            isa: args.isa.map(|isa| isa.to_string()),
            tokenizer: args.model.tokenizer.clone(),
            load: args.load.options(),
            track: args.profile,
            ..EngineOptions::default()
        });
        // what there is to say about the model is said once
        let engine = load_engine(&args.model, &args.load, options, if index == 0 { console } else { &silent })?;
        let bar = console.step_bar("repetitions", args.reps as u64);
        let watch = Watch::start()?;
        let report = engine.bench(spec, &mut |rep| {
            bar.set_position(rep as u64);
            !watch.asked()
        })?;
        reports.push(report);
        profiles.extend(engine.track_report().filter(|_| args.profile));
        bar.finish_and_clear();
        if watch.asked() {
            return Err(Interrupted.into());
        }
    }
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", report_json(args, &reports, &profiles))?;
    } else {
        table(args, &reports, &mut out)?;
        profiles.iter().try_for_each(|profile| write!(out, "\n{profile}"))?;
    }
    Ok(out.flush()?)
}

/// One object: the last run at the top, and all of them under `runs`.
fn report_json(args: &BenchArgs, reports: &[BenchReport], profiles: &[TrackReport]) -> serde_json::Value {
    let mut runs: Vec<_> = reports.iter().map(BenchReport::to_json).collect();
    runs.iter_mut().zip(profiles).for_each(|(run, profile)| run["profile"] = json!(profile));
    let mut report = runs.last().cloned().unwrap_or_default();
    report["model"] = json!(args.model.name());
    report["reps"] = json!(args.reps);
    report["runs"] = json!(runs);
    report
}

fn table(args: &BenchArgs, reports: &[BenchReport], out: &mut impl Write) -> io::Result<()> {
    write!(out, "{}: {} prompt + {} new tokens", args.model.name(), args.prompt, args.new)?;
    if args.depth > 0 {
        write!(out, " after {} cached", args.depth)?;
    }
    if args.batch > 1 {
        write!(out, ", {} sequences decoding together", args.batch)?;
    }
    writeln!(out, ", mean ± standard deviation of {}", args.reps)?;
    writeln!(
        out,
        "{:>7} {:>10} {:>24} {:>24} {:>22} {:>11}",
        "threads", "isa", "prompt tok/s", "decode tok/s", "first token", "of the bound"
    )?;
    for r in reports {
        writeln!(
            out,
            "{:>7} {:>10} {:>24} {:>24} {:>22} {:>10} %",
            r.threads,
            r.isa,
            spread(&r.prompt_speed, digits),
            spread(&r.decode_speed, digits),
            spread(&r.first_token, seconds),
            digits(r.decode_fraction * 100.0),
        )?;
    }
    for r in reports {
        writeln!(
            out,
            "with {}: opened in {}; the bound is {} tok/s: {} per token at {} GB/s, the speed of reading these weights and \
             nothing else ({} of them from the file map)",
            count(r.threads, "thread"),
            seconds(r.load),
            digits(r.decode_bound),
            bytes(r.bytes_per_token),
            digits(r.read_bandwidth / 1e9),
            bytes(r.mapped_weights),
        )?;
    }
    // the peak of a process never falls: the first engine's is its own
    if let Some((r, peak)) = reports.first().and_then(|r| Some((r, r.peak_memory?))) {
        writeln!(out, "peak memory {}, planned {}", bytes(peak), bytes(r.planned_memory))?;
    }
    Ok(())
}

fn spread(s: &Spread, number: fn(f64) -> String) -> String {
    format!("{} ± {}", number(s.mean), number(s.sd))
}

/// Decode speed is that of the tokens after the first.
fn at_least_two(text: &str) -> Result<usize, String> {
    positive(text).and_then(|n| if n < 2 { Err("must be at least 2".into()) } else { Ok(n) })
}
