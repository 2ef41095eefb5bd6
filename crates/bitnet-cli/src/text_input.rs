//! Text from an argument or from standard input.

use crate::failure::wrong_usage;
use anyhow::Context;
use std::io::{self, IsTerminal, Read};

/// The argument itself; `-` or nothing means all of standard input, byte for byte.
pub(crate) fn text(argument: Option<&str>, what: &str) -> anyhow::Result<String> {
    match argument {
        Some(text) if text != "-" => Ok(text.to_owned()),
        None if io::stdin().is_terminal() => {
            Err(wrong_usage(format!("no {what}: give it as an argument or pipe it into standard input")))
        }
        _ => {
            let mut bytes = Vec::new();
            io::stdin().lock().read_to_end(&mut bytes).context("standard input")?;
            String::from_utf8(bytes).context("standard input is not UTF-8 text")
        }
    }
}

/// Drops the one line ending that editors and `echo` put after the last line.
pub(crate) fn without_final_newline(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::without_final_newline;

    #[test]
    fn only_one_newline_goes() {
        assert_eq!(without_final_newline("a\n\n".into()), "a\n");
        assert_eq!(without_final_newline("a\r\n".into()), "a");
        assert_eq!(without_final_newline("a\r".into()), "a\r");
        assert_eq!(without_final_newline(String::new()), "");
    }
}
