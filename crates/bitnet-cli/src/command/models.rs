//! `bitnet models`: what was pulled.

use crate::console::Console;
use crate::failure::wrong_usage;
use crate::numbers;
use bitnet_hub::{Cache, Location, Stored};
use clap::{Args, Subcommand};
use std::io::{self, Write};

/// List and remove models that were pulled
#[derive(Args, Debug)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Names, sizes and paths of the models in the cache (also without `list`)
    List {
        /// Print a JSON list
        #[arg(long)]
        json: bool,
    },
    /// Remove models from the cache, with all of their files and revisions
    #[command(visible_alias = "rm")]
    Remove {
        /// owner/name
        #[arg(required = true)]
        models: Vec<Location>,
    },
}

pub(crate) fn run(args: &ModelsArgs, console: &Console) -> anyhow::Result<()> {
    let cache = Cache::from_env()?;
    match &args.action {
        None => list(&cache, false, console),
        Some(Action::List { json }) => list(&cache, *json, console),
        Some(Action::Remove { models }) => remove(&cache, models, console),
    }
}

fn list(cache: &Cache, json: bool, console: &Console) -> anyhow::Result<()> {
    let models = cache.list()?;
    let mut out = io::stdout().lock();
    if json {
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&models)?)?);
    }
    if models.is_empty() {
        console.note(format!("no model in {}: bitnet pull owner/name brings one", cache.root().display()));
    }
    let width = models.iter().map(|model| model.repository.len()).max().unwrap_or(0);
    for Stored { repository, bytes, unfinished, model, .. } in &models {
        let what = match model {
            Some(path) => path.display().to_string(),
            None if *unfinished > 0 => "unfinished: pull it again".into(),
            None => "no model that bitnet opens by this name alone".into(),
        };
        writeln!(out, "{repository:<width$}  {:>9}  {what}", numbers::bytes(*bytes))?;
    }
    Ok(())
}

fn remove(cache: &Cache, models: &[Location], console: &Console) -> anyhow::Result<()> {
    if let Some(file) = models.iter().find(|model| model.file().is_some()) {
        let whole = file.repository();
        return Err(wrong_usage(format!("a repository is removed as a whole: bitnet models remove {whole}")));
    }
    for model in models {
        anyhow::ensure!(cache.remove(model)?, "{model} is not in {}", cache.root().display());
        console.say(format!("removed {model}"));
    }
    Ok(())
}
