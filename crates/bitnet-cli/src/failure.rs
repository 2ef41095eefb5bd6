//! From an error to a message and an exit status.

use crate::console::Console;
use bitnet::InferenceError;
use bitnet::formats::FormatError;
use bitnet::kernels::KernelError;
use std::fmt;
use std::io;
use std::process::ExitCode;

const ERROR: u8 = 1;
const WRONG_USAGE: u8 = 2;
/// 128 + SIGINT, as a shell reports it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Ctrl-C ended the command early; what was printed so far is good.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Arguments that parse one by one but make no sense together or here.
pub(crate) fn wrong_usage(message: impl fmt::Display) -> anyhow::Error {
    clap::Error::raw(clap::error::ErrorKind::InvalidValue, format!("{message}\n")).into()
}

/// Prints what clap has to say (help and version included).
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    // A closed pipe is no reason to complain about complaints.
    let _ = error.print();
    if error.exit_code() == 0 { ExitCode::SUCCESS } else { ExitCode::from(WRONG_USAGE) }
}

/// Prints an error with its causes and says with which status to leave.
pub(crate) fn report(error: &anyhow::Error, console: &Console) -> ExitCode {
    if let Some(error) = error.downcast_ref::<clap::Error>() {
        return usage(error);
    }
    if error.downcast_ref::<Interrupted>().is_some() {
        return ExitCode::from(INTERRUPTED);
    }
    if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
        // The reader has seen enough (`| head -1`).
        return ExitCode::SUCCESS;
    }
    console.error(chain(error));
    if let Some(help) = advice(error) {
        console.help(help);
    }
    match error.downcast_ref::<InferenceError>() {
        // These come from what was read, the others from what was typed.
        Some(InferenceError::Option { option: "prompt" | "text" | "model" | "question" | "continuation", .. }) => {
            ExitCode::from(ERROR)
        }
        Some(InferenceError::Option { .. } | InferenceError::Kernel(KernelError::Isa { .. })) => {
            ExitCode::from(WRONG_USAGE)
        }
        _ => ExitCode::from(ERROR),
    }
}

/// The causes in one line; a cause whose text its parent repeats already is not said twice.
fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn advice(error: &anyhow::Error) -> Option<&'static str> {
    for cause in error.chain() {
        if let Some(InferenceError::ContextFull { .. }) = cause.downcast_ref() {
            return Some("--context N makes room; `run` and `chat` can also forget the oldest tokens (--slide KEEP)");
        }
        if let Some(InferenceError::Option { option: "model", .. }) = cause.downcast_ref() {
            return Some("`bitnet embed` gives its vectors");
        }
        if let Some(FormatError::Io { source, .. }) = cause.downcast_ref()
            && source.kind() == io::ErrorKind::NotFound
        {
            return Some(
                "a model is a GGUF file, a Hugging Face directory or a llama2.c .bin; `bitnet pull owner/name` brings one from a hub",
            );
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_chain_says_every_cause_once() {
        let inner = io::Error::other("disk on fire");
        let error = anyhow::Error::new(inner).context("writing x: disk on fire").context("cannot convert");
        assert_eq!(chain(&error), "cannot convert: writing x: disk on fire");
        let plain: anyhow::Result<()> = Err(io::Error::other("b")).context("a");
        assert_eq!(chain(&plain.unwrap_err()), "a: b");
    }
}
