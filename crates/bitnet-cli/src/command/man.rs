//! `bitnet man`: manual pages.

use crate::command::Cli;
use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_mangen::Man;
use std::io::{self, Write};
use std::path::PathBuf;

/// Print the manual page, or write one page per command into a directory
#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// Write bitnet.1, bitnet-run.1 … into this directory
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &ManArgs) -> anyhow::Result<()> {
    match &args.output {
        Some(directory) => {
            std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
            clap_mangen::generate_to(Cli::command(), directory).with_context(|| directory.display().to_string())
        }
        None => {
            let mut page = Vec::new();
            Man::new(Cli::command()).render(&mut page)?;
            let mut out = io::stdout().lock();
            out.write_all(&page)?;
            Ok(out.flush()?)
        }
    }
}
