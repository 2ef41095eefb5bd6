//! `bitnet eval`: how many questions of evaluation sets a model answers rightly.

use crate::console::Console;
use crate::failure::Interrupted;
use crate::interrupt::Watch;
use crate::model_args::{ModelArgs, positive};
use anyhow::Context;
use bitnet::models::Encoding;
use bitnet::{Engine, Question, Scorer, Tally, Windows};
use clap::Args;
use flate2::read::MultiGzDecoder;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// Measure a model on evaluation sets
///
/// A set is a file of JSON lines (.jsonl) in the form of ARC, PIQA, BoolQ, COPA, HellaSwag, Winograd, WinoGrande, LAMBADA or BLiMP, or
/// a text (.txt) whose perplexity is measured; either may be compressed (.gz). A question counts as answered rightly when the right
/// choice is the likeliest: as a whole (raw), and per character (by length). LAMBADA's words count when each of their tokens
/// is the model's first choice.
#[derive(Args, Debug)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Sets
    #[arg(value_name = "FILE", required = true)]
    sets: Vec<PathBuf>,
    /// Only the first N questions of every set
    #[arg(long, value_name = "N", value_parser = positive)]
    limit: Option<usize>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &EvalArgs, console: &Console) -> anyhow::Result<()> {
    // all sets are read before the first is measured: a slip of the pen in the last is said at once
    let sets = args.sets.iter().map(|path| read(path, args.limit)).collect::<anyhow::Result<Vec<_>>>()?;
    let engine = args.model.engine(console)?;
    let watch = Watch::start()?;
    let mut reports = Vec::new();
    let mut out = io::stdout().lock();
    for (path, set) in args.sets.iter().zip(&sets) {
        let report = match set {
            Set::Questions(questions) => answer(&engine, path, questions, &watch, console)?,
            Set::Text(text) => perplexity(&engine, text, &watch, console)?,
        };
        if !args.json {
            writeln!(out, "{}", line(path, &report))?;
            out.flush()?;
        }
        reports.push(json!({ "set": path.display().to_string(), "result": report }));
    }
    if args.json {
        writeln!(out, "{}", json!({ "model": args.model.files.path.name(), "sets": reports }))?;
        out.flush()?;
    }
    Ok(())
}

enum Set {
    Questions(Vec<Question>),
    Text(String),
}

fn read(path: &Path, limit: Option<usize>) -> anyhow::Result<Set> {
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| name.clone())?;
    let mut reader: Box<dyn BufRead> = match name.ends_with(".gz") {
        true => Box::new(BufReader::new(MultiGzDecoder::new(file))),
        false => Box::new(BufReader::new(file)),
    };
    let plain = name.trim_end_matches(".gz");
    if plain.ends_with(".txt") {
        let mut text = String::new();
        reader.read_to_string(&mut text).with_context(|| name.clone())?;
        return Ok(Set::Text(text));
    }
    anyhow::ensure!(
        plain.ends_with(".jsonl"),
        "{name}: expected questions (.jsonl) or a text (.txt), maybe compressed (.gz)"
    );
    let mut questions = Vec::new();
    for (number, line) in (1..).zip(reader.lines()) {
        let line = line.with_context(|| name.clone())?;
        if limit.is_some_and(|limit| questions.len() == limit) {
            break;
        }
        if !line.trim().is_empty() {
            questions.push(Question::parse(&line).with_context(|| format!("{name}, line {number}"))?);
        }
    }
    anyhow::ensure!(!questions.is_empty(), "{name} has no questions");
    Ok(Set::Questions(questions))
}

fn answer(
    engine: &Engine,
    path: &Path,
    questions: &[Question],
    watch: &Watch,
    console: &Console,
) -> anyhow::Result<Value> {
    let mut scorer = Scorer::new(engine)?;
    let mut tally = Tally::default();
    let bar = console.step_bar("questions", questions.len() as u64);
    for (number, question) in questions.iter().enumerate() {
        scorer.answer(question, &mut tally).with_context(|| format!("{}, question {}", path.display(), number + 1))?;
        bar.set_position(number as u64 + 1);
        if let Some(report) = tally.report() {
            bar.set_message(format!("{:.1} %", 100.0 * report.raw.accuracy));
        }
        if watch.asked() {
            bar.finish_and_clear();
            return Err(Interrupted.into());
        }
    }
    bar.finish_and_clear();
    Ok(serde_json::to_value(tally.report())?)
}

fn perplexity(engine: &Engine, text: &str, watch: &Watch, console: &Console) -> anyhow::Result<Value> {
    let ids = engine.require_tokenizer()?.encode(text, Encoding { bos: None, special: false })?;
    let windows = Windows { context: engine.context(), stride: engine.context() };
    let bar = console.step_bar("tokens", ids.len() as u64);
    let result = engine.perplexity(&ids, windows, &mut |so_far, done| {
        bar.set_position(done as u64);
        bar.set_message(format!("{:.3}", so_far.perplexity));
        !watch.asked()
    })?;
    bar.finish_and_clear();
    if watch.asked() {
        return Err(Interrupted.into());
    }
    Ok(json!({
        "tokens": result.tokens,
        "perplexity": result.perplexity,
        "perplexity_error": result.error,
        "bits_per_byte": result.bits_per_byte(ids.len(), text.len()),
    }))
}

/// A result as a line of text.
fn line(path: &Path, report: &Value) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_end_matches(".gz").trim_end_matches(".jsonl");
    if let Some(perplexity) = report["perplexity"].as_f64() {
        let bits = report["bits_per_byte"].as_f64().unwrap_or_default();
        return format!("{name:<28} perplexity {perplexity:.3}, {bits:.4} bits per byte");
    }
    let share = |key: &str| -> Option<String> {
        let number = |of: &str| report[key][of].as_f64().map(|x| 100.0 * x);
        Some(format!("{:5.1} % ({:.1} to {:.1})", number("accuracy")?, number("low")?, number("high")?))
    };
    let mut line = format!("{name:<28} {:>6}  {}", report["items"], share("raw").unwrap_or_default());
    if let Some(by_length) = share("by_length") {
        line += &format!(", by length {by_length}");
    }
    if let Some(perplexity) = report["word_perplexity"].as_f64() {
        line += &format!(", perplexity per word {perplexity:.1}");
    }
    if let Some(cut) = report["cut"].as_u64().filter(|&cut| cut > 0) {
        line += &format!(", {cut} cut to the context");
    }
    line
}
