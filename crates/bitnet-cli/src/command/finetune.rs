//! `bitnet finetune`: an existing model goes on learning, from texts or conversations.

use super::train::{FollowArgs, follow};
use crate::console::Console;
use crate::model_args::positive;
use bitnet_train::{
    DataRecipe, LoraRecipe, Method, ModelRecipe, OptimizerRecipe, Recipe, RunRecipe, Source, TokenizerRecipe,
};
use clap::Args;
use std::path::PathBuf;

/// Steps over which the learning rate rises.
const WARMUP: usize = 20;

/// Go on training a model on texts or conversations
///
/// The model is a Hugging Face directory with master weights, such as `bitnet train` writes. All weights are trained through the
/// quantisation that they run with. A dense model becomes a ternary one with --ternary: quantisation then fades in over the first third
/// of the steps. Of a conversation (JSON lines: messages; question, answer; instruction, input, output) only what the assistant says
/// is learned, in the model's own chat template. The best model by validation lies in DIR/model, the best side-car of --lora in DIR/adapter.
#[derive(Args, Debug)]
pub(crate) struct FinetuneArgs {
    /// Hugging Face directory of the model
    #[arg(long, short, value_name = "DIR")]
    model: PathBuf,
    /// Texts or conversations to learn (repeatable)
    #[arg(long, value_name = "FILE", required = true)]
    data: Vec<PathBuf>,
    /// Texts or conversations to choose the best model by (repeatable)
    #[arg(long, value_name = "FILE", required = true)]
    validation: Vec<PathBuf>,
    /// Directory of the run
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    /// Make a dense model ternary
    #[arg(long, conflicts_with = "lora")]
    ternary: bool,
    /// Train a side-car of this rank (LoRA) beside the weights, which stay as they are; the best one lies in DIR/adapter and runs with
    /// `bitnet run --model MODEL --lora DIR/adapter`
    #[arg(long, value_name = "RANK", value_parser = positive)]
    lora: Option<usize>,
    /// Strength of the side-car: it is multiplied with ALPHA / RANK [default: twice the rank]
    #[arg(long, value_name = "ALPHA", requires = "lora")]
    lora_alpha: Option<f64>,
    /// Chat template (Jinja) instead of the model's
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// Optimiser steps
    #[arg(long, value_name = "N", default_value = "300", value_parser = positive)]
    steps: usize,
    /// Sequences per step
    #[arg(long, value_name = "N", default_value = "8", value_parser = positive)]
    batch: usize,
    /// Positions of a sequence [default: the model's, at most 512]
    #[arg(long, value_name = "N", value_parser = positive)]
    context: Option<usize>,
    /// Largest learning rate
    #[arg(long, value_name = "RATE", default_value = "3e-4")]
    lr: f64,
    /// Decides the order of the data
    #[arg(long, default_value = "42")]
    seed: u64,
    #[command(flatten)]
    follow: FollowArgs,
}

pub(crate) fn run(args: &FinetuneArgs, console: &Console) -> anyhow::Result<()> {
    let shape = ModelRecipe::of(&args.model)?;
    let becomes_ternary = args.ternary && !shape.ternary;
    let sources = |paths: &[PathBuf]| paths.iter().map(|path| Source { path: path.clone(), repeat: 1 }).collect();
    let recipe = Recipe {
        start: Some(args.model.clone()),
        lora: args.lora.map(|rank| LoraRecipe { rank, alpha: args.lora_alpha.unwrap_or(2.0 * rank as f64) }),
        model: ModelRecipe {
            ternary: shape.ternary || args.ternary,
            context: args.context.unwrap_or(shape.context.min(512)),
            ..shape
        },
        data: DataRecipe { train: sources(&args.data), validation: sources(&args.validation) },
        tokenizer: TokenizerRecipe { chat_template: args.chat_template.clone(), ..TokenizerRecipe::default() },
        optimizer: OptimizerRecipe {
            method: Method::Adamw,
            steps: args.steps,
            batch: args.batch,
            accumulate: 1,
            peak_lr: args.lr,
            second_lr: args.lr / 2.0,
            warmup: WARMUP.min(args.steps / 10),
            weight_decay: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            clip: 1.0,
            quantization_warmup: if becomes_ternary { args.steps / 3 } else { 0 },
            average: 0.0,
        },
        run: RunRecipe {
            seed: args.seed,
            validate_every: (args.steps / 10).max(1),
            checkpoint_every: (args.steps / 10).max(1),
            ..RunRecipe::default()
        },
        teacher: None,
    };
    follow(&recipe, &args.output, &args.follow, console)
}
