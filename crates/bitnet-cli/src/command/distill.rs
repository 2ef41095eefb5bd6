//! `bitnet distill`: a ternary student learns from texts and from what a teacher makes of them.

use super::train::{FollowArgs, follow};
use crate::console::Console;
use bitnet_train::{Recipe, TeacherRecipe};
use clap::Args;
use std::path::PathBuf;

/// Train a student to imitate a teacher
///
/// As `bitnet train`, with targets that mix the next token with the teacher's probabilities of all tokens. The student has the
/// recipe's shape and the teacher's vocabulary. The teacher is a Hugging Face directory with float or master weights.
#[derive(Args, Debug)]
pub(crate) struct DistillArgs {
    /// Hugging Face directory of the teacher
    #[arg(long, value_name = "DIR")]
    teacher: PathBuf,
    /// The student's recipe
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Share of the teacher's probabilities in the targets, 0 to 1
    #[arg(long, value_name = "SHARE", default_value = "0.5")]
    share: f32,
    /// Directory of the run
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    follow: FollowArgs,
}

pub(crate) fn run(args: &DistillArgs, console: &Console) -> anyhow::Result<()> {
    let mut recipe = Recipe::read(&args.config)?;
    anyhow::ensure!(recipe.teacher.is_none(), "the recipe names a teacher already: train with it, or leave it away");
    if recipe.start.is_none() {
        recipe.tokenizer.file = Some(args.teacher.join("tokenizer.json"));
    }
    recipe.teacher = Some(TeacherRecipe { model: args.teacher.clone(), share: args.share });
    follow(&recipe, &args.output, &args.follow, console)
}
