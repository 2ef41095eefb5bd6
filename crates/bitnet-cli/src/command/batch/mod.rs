//! `bitnet batch`: a file of prompts in, a file of results out.

mod input;
mod output;
mod question;

use crate::console::Console;
use crate::failure::Interrupted;
use crate::interrupt::Watch;
use crate::numbers;
use crate::service_args::ServiceArgs;
use anyhow::bail;
use bitnet_server::{Local, ServerOptions};
use clap::Args;
use input::{Format, Record, Records};
use output::Output;
use question::Defaults;
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Answer a file of prompts, many at a time
///
/// Every result is a line of JSON with the id of its line: {"id", "text", "finish_reason", "usage"} or {"id", "error"};
/// lines of OpenAI's batch service get their answers in its form. Results come in the order in which they are ready. With
/// --output a run that was interrupted goes on where it was: ids that the file has are not asked again.
#[derive(Args, Debug)]
pub(crate) struct BatchArgs {
    /// The prompts: JSONL, CSV or TXT; `-` is standard input
    input: PathBuf,
    /// File for the results; what it has already is kept and not asked again [default: `-`, standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How the input is written [default: as its file name ends]
    #[arg(long = "format", value_name = "FORMAT")]
    written: Option<Format>,
    #[command(flatten)]
    service: ServiceArgs,
    /// Ask prompts as messages, by the model's chat template
    #[arg(long, help_heading = "Requests")]
    chat: bool,
    /// What the model is told before every conversation
    #[arg(long, value_name = "TEXT", help_heading = "Requests")]
    system: Option<String>,
    /// At most this many new tokens, where a line does not say how many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 256, help_heading = "Requests")]
    max_tokens: usize,
    /// Temperature, where a line has none; 0 is greedy [default: 0.8]
    #[arg(long, visible_alias = "temp", value_name = "T", help_heading = "Requests")]
    temperature: Option<f32>,
    /// Seed, where a line has none: same seed, same text [default: another for every line]
    #[arg(long, env = "BITNET_SEED", value_name = "S", help_heading = "Requests")]
    seed: Option<u64>,
    /// Any other field of requests, as `bitnet serve` takes it, for example top_p=0.9 (repeatable)
    #[arg(long, value_name = "FIELD=VALUE", value_parser = field, help_heading = "Requests")]
    set: Vec<(String, Value)>,
}

/// A name and JSON, or text that is none.
fn field(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("expected FIELD=VALUE, for example top_p=0.9")?;
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

/// No answer takes so long; whoever waits presses Ctrl-C.
const TIME_LIMIT: Duration = Duration::from_secs(30 * 24 * 3600);

/// What the threads share.
struct Work<'a> {
    local: Local,
    defaults: &'a Defaults,
    records: Mutex<Records>,
    output: Mutex<Output>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Ids with a result, or with an answer under way.
    taken: HashSet<String>,
    answered: usize,
    failed: usize,
    skipped: usize,
    /// Lines whose id an earlier line has.
    doubled: Vec<(u64, String)>,
    tokens: u64,
}

pub(crate) fn run(args: &BatchArgs, console: &Console) -> anyhow::Result<()> {
    let records = Records::open(&args.input, args.written)?;
    let (output, there) = Output::open(args.output.as_deref())?;
    let engine = args.service.engine(console)?;
    let options = ServerOptions {
        template: args.service.template(&engine, console)?,
        queue: usize::MAX >> 1, // the threads below are the limit
        max_body: usize::MAX,
        time_limit: TIME_LIMIT,
        ..ServerOptions::new(args.service.served.name())
    };
    let defaults = args.defaults();
    let before = there.clone();
    let work = Work {
        local: Local::new(engine.into(), options)?,
        defaults: &defaults,
        records: Mutex::new(records),
        output: Mutex::new(output),
        state: Mutex::new(State { taken: there, ..State::default() }),
    };
    let begin = Instant::now();
    let bar = console.byte_bar("batch", lock(&work.records).progress().1.unwrap_or(0));
    let watch = Watch::start()?;
    let result = std::thread::scope(|scope| {
        // twice as many as are computed together: one is always there to take a place that becomes free
        let ask = || work.ask(&before).inspect_err(|_| work.local.stop());
        let threads: Vec<_> = (0..args.service.parallel.saturating_mul(2)).map(|_| scope.spawn(ask)).collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            if watch.asked() {
                work.local.stop();
            } else if let Ok(records) = work.records.try_lock() {
                bar.set_position(records.progress().0);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    bar.finish_and_clear();
    result?;
    lock(&work.output).sync()?;
    let state = lock(&work.state);
    console.say(summary(&state, begin.elapsed()));
    for (line, id) in &state.doubled {
        console.error(format!("line {line}: another line has the id {id}; not asked"));
    }
    if watch.asked() {
        if args.output.is_some() {
            console.note("the same command goes on from here");
        }
        return Err(Interrupted.into());
    }
    match state.failed + state.doubled.len() {
        0 => Ok(()),
        failed => bail!("{} failed; their results say why", numbers::count(failed, "line")),
    }
}

impl BatchArgs {
    fn defaults(&self) -> Defaults {
        let mut fields = Map::from_iter([("max_tokens".to_owned(), Value::from(self.max_tokens))]);
        self.temperature.map(|temperature| fields.insert("temperature".into(), temperature.into()));
        self.seed.map(|seed| fields.insert("seed".into(), seed.into()));
        fields.extend(self.set.iter().cloned());
        Defaults { fields, chat: self.chat, system: self.system.clone() }
    }
}

impl Work<'_> {
    /// Asks record after record until there is none, or until it is told to stop. `before` are the ids of earlier runs.
    fn ask(&self, before: &HashSet<String>) -> anyhow::Result<()> {
        while let Some(record) = self.next()? {
            let number = record.0;
            let question = question::read(record, self.defaults);
            let id = match &question {
                Ok(question) => &question.id,
                Err(result) => result.get("custom_id").unwrap_or(&result["id"]),
            };
            let key = output::key(id);
            {
                let mut state = lock(&self.state);
                if before.contains(&key) {
                    state.skipped += 1;
                    continue;
                }
                if !state.taken.insert(key.clone()) {
                    state.doubled.push((number, key));
                    continue;
                }
            }
            let result = match question {
                Err(result) => result,
                Ok(question) => match self.local.post(&question.path, &question.body) {
                    Some(reply) => question.result(reply),
                    None => return Ok(()),
                },
            };
            lock(&self.output).write(&result)?;
            let mut state = lock(&self.state);
            state.tokens += question::new_tokens(&result);
            *(if question::failed(&result) { &mut state.failed } else { &mut state.answered }) += 1;
        }
        Ok(())
    }

    fn next(&self) -> anyhow::Result<Option<Record>> {
        Ok(lock(&self.records).next()?)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `[30 answered, 2 failed, 5 were there before; 4,321 new tokens in 12.3 s (351 tok/s)]`
fn summary(state: &State, time: Duration) -> String {
    let mut parts = vec![format!("{} answered", state.answered)];
    if state.failed > 0 {
        parts.push(format!("{} failed", state.failed));
    }
    if state.skipped > 0 {
        parts.push(format!("{} were there before", state.skipped));
    }
    let tokens = usize::try_from(state.tokens).unwrap_or(usize::MAX);
    let speed =
        numbers::rate(tokens, time).map(|rate| format!(" ({} tok/s)", numbers::digits(rate))).unwrap_or_default();
    let tokens = numbers::count(tokens, "new token");
    format!("[{}; {tokens} in {}{speed}]", parts.join(", "), numbers::duration(time))
}
