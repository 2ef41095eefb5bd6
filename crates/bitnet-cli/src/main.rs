//! `bitnet`: run, chat with, convert, inspect, verify and measure ternary language models.
//!
//! Standard output carries results only; notes, statistics and progress go to standard error. Exit status: 0 done,
//! 1 error, 2 wrong usage, 130 interrupted.
#![forbid(unsafe_code)]

mod chat_prompt;
mod command;
mod console;
mod failure;
mod interrupt;
mod machine;
mod model_args;
mod numbers;
mod perf_track;
mod sampling_args;
#[cfg(feature = "serve")]
mod served_model;
#[cfg(feature = "serve")]
mod service_args;
mod text_input;
mod whole_file;

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "serve")]
    let cli = command::settings::parse(std::env::args_os().collect::<Vec<_>>());
    #[cfg(not(feature = "serve"))]
    let cli = <command::Cli as clap::Parser>::try_parse();
    let cli = match cli {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error),
    };
    let console = console::Console::new(cli.quiet);
    console.start_log(cli.command.log());
    let result = cli.command.run(&console);
    match result.and(perf_track::finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error, &console),
    }
}
