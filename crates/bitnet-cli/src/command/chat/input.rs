//! Lines of a conversation: edited on a terminal, plain from a pipe.

use crate::console::Console;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Config, Editor};
use std::env;
use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

const PROMPT: &str = "> ";

/// Where lines come from.
pub(super) enum Input {
    /// A person, with line editing and a history that outlives the program.
    Terminal { editor: Box<Editor<(), DefaultHistory>>, history: Option<PathBuf> },
    /// A script.
    Piped,
}

impl Input {
    /// A history that cannot be read or kept is worth a note, not a refusal.
    pub(super) fn open(console: &Console) -> Input {
        if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            return Input::Piped;
        }
        let config = Config::builder().auto_add_history(true).build();
        let mut editor = match Editor::with_config(config) {
            Ok(editor) => editor,
            Err(error) => {
                console.note(format!("no line editing: {error}"));
                return Input::Piped;
            }
        };
        let history = history_file();
        match &history {
            Some(path) if path.exists() => {
                if let Err(error) = editor.load_history(path) {
                    console.note(format!("history {} not read: {error}", path.display()));
                }
            }
            Some(_) => {}
            None => console.note("no place for a history: neither HOME nor XDG_STATE_HOME is set"),
        }
        Input::Terminal { editor: Box::new(editor), history }
    }

    pub(super) fn is_person(&self) -> bool {
        matches!(self, Input::Terminal { .. })
    }

    /// The next line; `None` at the end of input or when Ctrl-C is pressed twice in a row.
    pub(super) fn line(&mut self) -> anyhow::Result<Option<String>> {
        match self {
            Input::Piped => {
                let mut line = String::new();
                let read = io::stdin().lock().read_line(&mut line)?;
                Ok((read > 0).then(|| line.trim_end_matches(['\n', '\r']).to_owned()))
            }
            Input::Terminal { editor, .. } => {
                let mut interrupted = false;
                loop {
                    match editor.readline(PROMPT) {
                        Ok(line) => return Ok(Some(line)),
                        Err(ReadlineError::Eof) => return Ok(None),
                        Err(ReadlineError::Interrupted) if interrupted => return Ok(None),
                        Err(ReadlineError::Interrupted) => interrupted = true,
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
    }
}

impl Drop for Input {
    /// Keeps the history. Failing to is no reason to fail a finished conversation.
    fn drop(&mut self) {
        if let Input::Terminal { editor, history: Some(path) } = self {
            let kept = path.parent().map_or(Ok(()), std::fs::create_dir_all);
            if kept.is_ok() {
                let _ = editor.save_history(path);
            }
        }
    }
}

/// `chat_history` in the platform's directory for state.
fn history_file() -> Option<PathBuf> {
    let directory = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let state = if cfg!(windows) {
        directory("LOCALAPPDATA")?
    } else if cfg!(target_os = "macos") {
        directory("HOME")?.join("Library/Application Support")
    } else {
        directory("XDG_STATE_HOME").or_else(|| Some(directory("HOME")?.join(".local/state")))?
    };
    Some(state.join("bitnet/chat_history"))
}
