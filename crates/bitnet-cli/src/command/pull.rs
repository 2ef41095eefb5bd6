//! `bitnet pull`: a model from a hub.

use crate::console::Console;
use crate::failure::Interrupted;
use crate::interrupt::Watch;
use crate::numbers;
use bitnet_hub::{Hub, HubError, Location};
use clap::Args;
use std::io::Write;

/// Download a model from a hub; its path goes to standard output
///
/// A download that was interrupted goes on with the same command, and a file counts only when its hash is right. Models
/// lie in the cache that Hugging Face's tools share; afterwards every command takes the name: --model owner/name.
#[derive(Args, Debug)]
#[command(after_help = environment())]
pub(crate) struct PullArgs {
    /// owner/name of a repository with one model, or owner/name/file.gguf
    model: Location,
    /// Branch, tag or commit
    #[arg(long, value_name = "NAME", default_value = "main")]
    revision: String,
}

fn environment() -> String {
    let aliases: Vec<String> =
        Location::aliases().iter().map(|(short, long)| format!("  {short:<17} {long}")).collect();
    format!(
        "\
Short names:
{}

Environment:
  HF_ENDPOINT       the hub [default: https://huggingface.co]
  HF_TOKEN          token for models that ask for one
  HF_HOME           where tokens and models lie [default: ~/.cache/huggingface]
  HF_HUB_OFFLINE    1: never ask the network
  HTTPS_PROXY       proxy
  SSL_CERT_FILE     certificates to trust instead of the system's",
        aliases.join("\n")
    )
}

pub(crate) fn run(args: &PullArgs, console: &Console) -> anyhow::Result<()> {
    let hub = Hub::from_env()?;
    let bar = console.byte_bar("pull", 0);
    let watch = Watch::start()?;
    let mut total = 0;
    let pulled = hub.pull(&args.model, &args.revision, &mut |progress| {
        total = progress.total;
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        !watch.asked()
    });
    bar.finish_and_clear();
    let path = match pulled {
        Err(HubError::Cancelled) => {
            console.note("what came so far is kept; the same command goes on from there");
            return Err(Interrupted.into());
        }
        pulled => pulled?,
    };
    if total > 0 {
        console.say(format!("{} in {}", numbers::bytes(total), hub.cache().root().display()));
    }
    console.note(format!("run it: bitnet run \"Once upon a time\" --model {}", args.model));
    Ok(writeln!(std::io::stdout().lock(), "{}", path.display())?)
}
