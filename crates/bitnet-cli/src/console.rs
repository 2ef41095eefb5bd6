//! What a person reads beside the result: notes, warnings, errors and progress, all on standard error.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use tracing_subscriber::EnvFilter;

/// What the log shows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Log {
    /// Warnings and worse.
    Warnings,
    /// Every request too, with the time: for commands that run until they are stopped.
    #[cfg_attr(not(feature = "serve"), expect(dead_code))]
    Service,
}

/// Standard error with the manners the user asked for.
#[derive(Clone)]
pub(crate) struct Console {
    quiet: bool,
    terminal: bool,
    colour: bool,
}

impl Console {
    pub(crate) fn new(quiet: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        let colour = terminal
            && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            && std::env::var_os("TERM").is_none_or(|v| v != "dumb");
        Console { quiet, terminal, colour }
    }

    /// Library events to standard error, as `RUST_LOG` says or else `log`.
    pub(crate) fn start_log(&self, log: Log) {
        let fallback = match log {
            _ if self.quiet => "error",
            Log::Warnings => "warn",
            Log::Service => "warn,bitnet_server=info",
        };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(fallback));
        // Fails only if a subscriber is installed already, which nobody else does.
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(self.colour)
            .with_target(false)
            // It would complain on standard error that standard error is full, and panic.
            .log_internal_errors(false);
        let _ = match log {
            Log::Warnings => subscriber.without_time().try_init(),
            Log::Service => subscriber.try_init(),
        };
    }

    /// A remark, unless `--quiet`.
    pub(crate) fn note(&self, text: impl Display) {
        if !self.quiet {
            self.line("note", "36", text);
        }
    }

    /// A plain line (statistics), unless `--quiet`.
    pub(crate) fn say(&self, text: impl Display) {
        if !self.quiet {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// What went wrong.
    pub(crate) fn error(&self, text: impl Display) {
        self.line("error", "1;31", text);
    }

    /// What to do about it.
    pub(crate) fn help(&self, text: impl Display) {
        self.line("help", "32", text);
    }

    /// A closed standard error is nothing to die of: the result still goes to standard output.
    fn line(&self, label: &str, colour: &str, text: impl Display) {
        let _ = if self.colour {
            writeln!(io::stderr(), "\x1b[{colour}m{label}:\x1b[0m {text}")
        } else {
            writeln!(io::stderr(), "{label}: {text}")
        };
    }

    /// A bar over `total` bytes, drawn on a terminal only.
    pub(crate) fn byte_bar(&self, what: &'static str, total: u64) -> ProgressBar {
        self.bar(what, total, "{prefix} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {eta}")
    }

    /// A bar over `total` steps, drawn on a terminal only.
    pub(crate) fn step_bar(&self, what: &'static str, total: u64) -> ProgressBar {
        self.bar(what, total, "{prefix} [{wide_bar}] {pos}/{len} {eta} {msg}")
    }

    fn bar(&self, what: &'static str, total: u64, template: &str) -> ProgressBar {
        let target =
            if self.terminal && !self.quiet { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target).with_prefix(what);
        match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }
}
