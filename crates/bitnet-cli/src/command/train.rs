//! `bitnet train`: from text to a ternary model, as a recipe says.

use crate::console::Console;
use crate::failure::Interrupted;
use crate::interrupt::Watch;
use crate::numbers::digits;
use anyhow::Context;
use bitnet::{Engine, EngineOptions, GenerateRequest, LoadOptions, Sampling};
use bitnet_train::{Event, Outcome, Recipe, Trainer};
use clap::Args;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Tokens of a sample text.
const SAMPLE_TOKENS: usize = 60;

/// Train a ternary model on text
///
/// The recipe (TOML) names the text, the shape, the optimiser's settings and the seed: the same recipe gives the same
/// model. The best model so far lies in DIR/model and runs at once: `bitnet run --model DIR/model`. Ctrl-C stops after the step in
/// progress and keeps a checkpoint; --resume goes on from there as if nothing had happened.
#[derive(Args, Debug)]
pub(crate) struct TrainArgs {
    /// The recipe
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Directory of the run [default: the recipe's name without its ending]
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    follow: FollowArgs,
}

/// How a run is followed.
#[derive(Args, Debug)]
pub(super) struct FollowArgs {
    /// Go on with the run in the output directory
    #[arg(long)]
    resume: bool,
    /// Print every event as a line of JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &TrainArgs, console: &Console) -> anyhow::Result<()> {
    let recipe = Recipe::read(&args.config)?;
    let dir = args.output.clone().unwrap_or_else(|| args.config.with_extension(""));
    anyhow::ensure!(dir != args.config, "--output is missing: the recipe has no ending to leave away");
    follow(&recipe, &dir, &args.follow, console)
}

/// Trains as a recipe says, and tells about it.
pub(super) fn follow(recipe: &Recipe, dir: &Path, args: &FollowArgs, console: &Console) -> anyhow::Result<()> {
    console.say("reading the text …");
    let mut trainer = Trainer::new(recipe, dir, args.resume)?;
    let (tokens, bytes) = trainer.training_text();
    console.say(format!(
        "{} parameters; {tokens} tokens ({:.2} bytes each) per epoch, {:.1} epochs; best model in {}",
        trainer.network().parameters(),
        bytes as f64 / tokens as f64,
        (recipe.optimizer.steps * recipe.optimizer.batch * recipe.model.context) as f64 / tokens as f64,
        trainer.model_dir().display(),
    ));
    if args.resume && trainer.steps() == 0 {
        console.note(format!("{} has no checkpoint yet: starting from the beginning", dir.display()));
    }
    let watch = Watch::start()?;
    let model = trainer.model_dir();
    let bar = console.step_bar("steps", recipe.optimizer.steps as u64);
    bar.enable_steady_tick(Duration::from_secs(1));
    bar.set_position(trainer.steps() as u64);
    bar.reset_eta();
    let mut printed = Ok(());
    let mut last = None;
    let outcome = trainer.run(&mut |event| {
        if args.json && printed.is_ok() {
            printed = print_json(event);
        }
        match *event {
            Event::Step { step, loss, tokens_per_second, gflops, mfu, .. } => {
                bar.set_position(step as u64);
                let speed = format!(
                    "{} tok/s, {} GFLOP/s, MFU {:.0} %",
                    digits(tokens_per_second),
                    digits(gflops),
                    100.0 * mfu
                );
                bar.set_message(format!("loss {loss:.3}, {speed}"));
                last = Some((loss, speed));
            }
            Event::Validation { step, validation, best } => bar.suspend(|| {
                let (loss, speed) = last.clone().unwrap_or_default();
                console.say(format!(
                    "step {step}: training {loss:.4}, validation {:.4} nats per token, {:.4} bits per byte{} [{speed}]",
                    validation.nats_per_token,
                    validation.bits_per_byte,
                    if best { ", best so far" } else { "" },
                ));
                for prompt in recipe.run.samples.iter().filter(|_| best) {
                    match sample(recipe, &model, prompt) {
                        Ok(text) => console.say(format!("  {prompt}{text}")),
                        Err(error) => console.note(format!("no sample: {error:#}")),
                    }
                }
            }),
        }
        !watch.asked() && printed.is_ok()
    });
    bar.finish_and_clear();
    printed?;
    let Outcome { steps, best, interrupted } = outcome?;
    if interrupted {
        console.say(format!("stopped after step {steps}; --resume goes on"));
        return Err(Interrupted.into());
    }
    if let Some((bits, step)) = best {
        console.say(format!("{steps} steps; best: {bits:.4} bits per byte after step {step}"));
    }
    Ok(())
}

fn print_json(event: &Event) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(event)?)?;
    out.flush()?;
    Ok(())
}

/// What the model of the moment writes.
fn sample(recipe: &Recipe, model: &Path, prompt: &str) -> anyhow::Result<String> {
    let engine = match (&recipe.lora, &recipe.start) {
        (Some(_), Some(start)) => {
            let load = LoadOptions { lora: Some(model.to_owned()), ..LoadOptions::default() };
            Engine::open(start, EngineOptions { load, ..EngineOptions::default() })
        }
        _ => Engine::new(model),
    };
    let engine = engine.context("the exported model does not load")?;
    let request = GenerateRequest { sampling: Sampling::greedy(), ..GenerateRequest::new(prompt, SAMPLE_TOKENS) };
    let mut text = String::new();
    for event in engine.session().generate(&request)? {
        text += &event?.text;
    }
    Ok(text.replace('\n', " "))
}
