//! The commands: one file each, arguments beside the code that reads them.

#[cfg(feature = "serve")]
mod batch;
mod bench;
mod chat;
mod completions;
mod convert;
mod detokenize;
#[cfg(feature = "train")]
mod distill;
mod doctor;
mod embed;
mod eval;
mod explain_prompt;
#[cfg(feature = "train")]
mod export;
#[cfg(feature = "train")]
mod finetune;
#[cfg(feature = "serve")]
mod health;
mod inspect;
mod logits;
mod man;
#[cfg(feature = "pull")]
mod models;
mod perplexity;
#[cfg(feature = "pull")]
mod pull;
#[cfg(feature = "train")]
mod quantize;
mod run;
#[cfg(feature = "serve")]
mod serve;
#[cfg(feature = "serve")]
pub(crate) mod settings;
mod tokenize;
#[cfg(feature = "train")]
mod train;
mod verify;

use crate::console::{Console, Log};
use bitnet::Isa;
use clap::{Parser, Subcommand};

/// What stands under the list of commands.
fn environment() -> String {
    let tiers = Isa::ALL.map(Isa::name).join(", ");
    format!(
        "\
Environment:
  BITNET_SEED           seed when --seed is not given
  BITNET_ISA            instruction-set cap when --isa is not given: {tiers}
  HF_HOME               where pulled models lie; more in `bitnet pull --help`
  BITNET_API_KEYS       keys of `serve`, separated by commas
  BITNET_SERVE_PORT ... options of `serve`
  BITNET_DETERMINISTIC  accepted; results are always deterministic
  RAYON_NUM_THREADS     threads when --threads is not given
  BITNET_PERF_TRACK     1: time every operation, table and JSON at the end on standard error;
                        FILE.json: the JSON into this file
  RUST_LOG              log filter (standard error), for example debug
  NO_COLOR              no colours

Exit status: 0 done, 1 error, 2 wrong usage, 130 interrupted."
    )
}

/// Run, chat with, convert and measure ternary (1.58-bit, BitNet) language models
#[derive(Debug, Parser)]
#[command(name = "bitnet", version, after_help = environment(), propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Print results and errors only: no notes, statistics or progress
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<run::RunArgs>),
    Chat(Box<chat::ChatArgs>),
    #[cfg(feature = "serve")]
    Serve(Box<serve::ServeArgs>),
    #[cfg(feature = "serve")]
    Health(health::HealthArgs),
    #[cfg(feature = "serve")]
    Batch(Box<batch::BatchArgs>),
    #[cfg(feature = "pull")]
    Pull(pull::PullArgs),
    #[cfg(feature = "pull")]
    Models(models::ModelsArgs),
    Inspect(inspect::InspectArgs),
    Tokenize(tokenize::TokenizeArgs),
    Detokenize(detokenize::DetokenizeArgs),
    ExplainPrompt(explain_prompt::ExplainPromptArgs),
    Embed(embed::EmbedArgs),
    Convert(convert::ConvertArgs),
    #[cfg(feature = "train")]
    Train(train::TrainArgs),
    #[cfg(feature = "train")]
    Finetune(finetune::FinetuneArgs),
    #[cfg(feature = "train")]
    Distill(distill::DistillArgs),
    #[cfg(feature = "train")]
    Quantize(quantize::QuantizeArgs),
    #[cfg(feature = "train")]
    Export(export::ExportArgs),
    Perplexity(perplexity::PerplexityArgs),
    Eval(eval::EvalArgs),
    Logits(logits::LogitsArgs),
    Verify(verify::VerifyArgs),
    Bench(bench::BenchArgs),
    Doctor(doctor::DoctorArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

impl Command {
    /// What the log shows unless `RUST_LOG` says otherwise.
    pub(crate) fn log(&self) -> Log {
        match self {
            #[cfg(feature = "serve")]
            Command::Serve(_) => Log::Service,
            _ => Log::Warnings,
        }
    }

    pub(crate) fn run(self, console: &Console) -> anyhow::Result<()> {
        match self {
            Command::Run(args) => run::run(&args, console),
            Command::Chat(args) => chat::run(&args, console),
            #[cfg(feature = "serve")]
            Command::Serve(args) => serve::run(&args, console),
            #[cfg(feature = "serve")]
            Command::Health(args) => health::run(&args),
            #[cfg(feature = "serve")]
            Command::Batch(args) => batch::run(&args, console),
            #[cfg(feature = "pull")]
            Command::Pull(args) => pull::run(&args, console),
            #[cfg(feature = "pull")]
            Command::Models(args) => models::run(&args, console),
            Command::Inspect(args) => inspect::run(&args, console),
            Command::Tokenize(args) => tokenize::run(&args, console),
            Command::Detokenize(args) => detokenize::run(&args, console),
            Command::ExplainPrompt(args) => explain_prompt::run(&args, console),
            Command::Embed(args) => embed::run(&args, console),
            Command::Convert(args) => convert::run(&args, console),
            #[cfg(feature = "train")]
            Command::Train(args) => train::run(&args, console),
            #[cfg(feature = "train")]
            Command::Finetune(args) => finetune::run(&args, console),
            #[cfg(feature = "train")]
            Command::Distill(args) => distill::run(&args, console),
            #[cfg(feature = "train")]
            Command::Quantize(args) => quantize::run(&args, console),
            #[cfg(feature = "train")]
            Command::Export(args) => export::run(&args, console),
            Command::Perplexity(args) => perplexity::run(&args, console),
            Command::Eval(args) => eval::run(&args, console),
            Command::Logits(args) => logits::run(&args, console),
            Command::Verify(args) => verify::run(&args, console),
            Command::Bench(args) => bench::run(&args, console),
            Command::Doctor(args) => doctor::run(&args, console),
            Command::Completions(args) => completions::run(&args),
            Command::Man(args) => man::run(&args),
        }
    }
}
