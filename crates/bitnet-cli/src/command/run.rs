//! `bitnet run`: continue a text.

use crate::console::Console;
use crate::failure::Interrupted;
use crate::interrupt::Watch;
use crate::model_args::{DraftArgs, ModelArgs, positive};
use crate::numbers;
use crate::sampling_args::SamplingArgs;
use crate::text_input;
use bitnet::{FinishReason, GenerateRequest, TokenEvent, Usage};
use clap::Args;
use serde_json::json;
use std::io::{self, IsTerminal, Write};

/// Continue a text: the continuation streams to standard output, statistics to standard error
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// What to continue; `-` or nothing reads standard input (less its final newline), empty starts from nothing
    prompt: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    draft: DraftArgs,
    /// At most this many new tokens
    #[arg(long, short = 'n', value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// Stop at this text, which is not printed (repeatable)
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    stop: Vec<String>,
    /// Go on after the model's own end-of-text tokens
    #[arg(long)]
    ignore_eos: bool,
    /// Do not put the begin-of-sequence token in front
    #[arg(long)]
    no_bos: bool,
    /// Recognise special tokens such as <|eot_id|> in the prompt
    #[arg(long)]
    special: bool,
    /// When the context is full, forget the oldest half of what follows the first KEEP tokens, and go on
    #[arg(long, value_name = "KEEP")]
    slide: Option<usize>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// One JSON object with text, ids and statistics instead of the text
    #[arg(long)]
    json: bool,
    /// With --json: the log-probability of every token and of the K most probable ones
    #[arg(long, value_name = "K", requires = "json", value_parser = positive)]
    logprobs: Option<usize>,
}

pub(crate) fn run(args: &RunArgs, console: &Console) -> anyhow::Result<()> {
    let mut prompt = text_input::text(args.prompt.as_deref(), "prompt")?;
    if args.prompt.as_deref().is_none_or(|p| p == "-") {
        prompt = text_input::without_final_newline(prompt);
    }
    let engine = args.model.engine_with(&args.draft, console)?;
    let mut request = GenerateRequest::new(prompt, args.max_tokens);
    request.special = args.special;
    request.bos = args.no_bos.then_some(false);
    request.sampling = args.sampling.sampling();
    request.stop.clone_from(&args.stop);
    request.stop_at_eos = !args.ignore_eos;
    request.logprobs = args.logprobs;
    request.slide = args.slide;

    let watch = Watch::start()?;
    let mut session = engine.session();
    let mut generation = session.generate(&request)?;
    let mut events = Vec::new();
    let mut out = io::stdout().lock();
    while !watch.asked() && generation.read_prompt_chunk()? {}
    while !watch.asked() {
        let Some(event) = generation.next() else { break };
        let event = event?;
        if args.json {
            events.push(event);
        } else if !event.text.is_empty() {
            out.write_all(event.text.as_bytes())?;
            out.flush()?;
        }
    }
    let (reason, usage) = (generation.finish_reason(), generation.usage());
    if args.json {
        writeln!(out, "{}", report(args, &events, reason, &usage, request.sampling.seed))?;
    } else if out.is_terminal() {
        writeln!(out)?;
    }
    out.flush()?;
    console.say(statistics(&usage, reason, Some(request.sampling.seed).filter(|_| request.sampling.temperature > 0.0)));
    if reason.is_none() { Err(Interrupted.into()) } else { Ok(()) }
}

fn report(
    args: &RunArgs,
    events: &[TokenEvent],
    reason: Option<FinishReason>,
    usage: &Usage,
    seed: u64,
) -> serde_json::Value {
    let mut report = json!({
        "model": args.model.files.path.name(),
        "text": events.iter().map(|e| e.text.as_str()).collect::<String>(),
        "ids": events.iter().map(|e| e.id).collect::<Vec<_>>(),
        "finish_reason": reason.map_or("interrupted", reason_name),
        "seed": seed,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "new_tokens": usage.new_tokens,
        "prompt_seconds": usage.prompt_time.as_secs_f64(),
        "decode_seconds": usage.decode_time.as_secs_f64(),
        "time_to_first_token_seconds": events.first().map(|e| e.elapsed.as_secs_f64()),
        "decode_tokens_per_second": numbers::rate(usage.new_tokens, usage.decode_time),
    });
    if args.draft.draft.is_some() {
        report["drafted_tokens"] = usage.drafted_tokens.into();
        report["drafted_right"] = usage.drafted_right.into();
    }
    if args.logprobs.is_some() {
        let per_token = |e: &TokenEvent| {
            let top: Vec<_> = e.top.iter().map(|t| json!({ "id": t.id, "logprob": t.logprob })).collect();
            json!({ "id": e.id, "text": e.text, "logprob": e.logprob, "top": top })
        };
        report["logprobs"] = events.iter().map(per_token).collect();
    }
    report
}

fn reason_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::EndOfText => "end_of_text",
        FinishReason::StopText => "stop_text",
        FinishReason::Complete => "complete",
        FinishReason::Length => "length",
        FinishReason::ContextFull => "context_full",
        FinishReason::Degenerate => "degenerate",
    }
}

/// One line for people: counts, speeds, why it ended, and the seed that repeats it.
pub(crate) fn statistics(usage: &Usage, reason: Option<FinishReason>, seed: Option<u64>) -> String {
    let part = |what: String, n: usize, time| {
        let speed = numbers::rate(n, time).map(|r| format!(" ({} tok/s)", numbers::digits(r))).unwrap_or_default();
        format!("{what} in {}{speed}", numbers::duration(time))
    };
    let read = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
    let mut prompt = format!("prompt {}", numbers::count(usage.prompt_tokens, "token"));
    if usage.cached_tokens > 0 {
        prompt += &format!(", {} cached,", usage.cached_tokens);
    }
    let prompt = part(prompt, read, usage.prompt_time);
    let mut new = part(numbers::count(usage.new_tokens, "new token"), usage.new_tokens, usage.decode_time);
    if usage.drafted_tokens > 0 {
        new += &format!(", {} of {} drafted right", usage.drafted_right, usage.drafted_tokens);
    }
    let ended = reason.map_or_else(|| "interrupted".to_owned(), |reason| reason.to_string());
    let seed = seed.map(|s| format!("; seed {s}")).unwrap_or_default();
    format!("[{prompt}; {new}; {ended}{seed}]")
}
