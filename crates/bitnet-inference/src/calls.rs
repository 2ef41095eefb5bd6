//! Calls of functions in answers: the grammar that they follow, and how to find them in the text.

use crate::grammar::spaced;
use crate::{Grammar, InferenceError};
use bitnet_models::{CALL_BEGIN, CALL_END, Tool};
use serde_json::{Map, Value, json};

/// What an answer does with the functions that it may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// Text, or text and calls.
    Auto,
    /// Calls.
    Required,
    /// One call of this function.
    Named(String),
}

impl Grammar {
    /// Answers that call functions: a call always parses, and its arguments fit the function's schema. `parallel` allows
    /// several in one answer; `form` is the JSON schema of an answer without calls, if it must have one.
    ///
    /// # Errors
    /// No such function.
    pub fn tool_calls(
        tools: &[Tool],
        choice: &ToolChoice,
        parallel: bool,
        form: Option<Map<String, Value>>,
    ) -> Result<Self, InferenceError> {
        let named = |tool: &&Tool| !matches!(choice, ToolChoice::Named(name) if *name != tool.name);
        let callable: Vec<&Tool> = tools.iter().filter(named).collect();
        if callable.is_empty() {
            return Err(crate::grammar::refused("there is no function of this name to call"));
        }
        let text = |text: &str| json!(text).to_string(); // texts are written as in JSON
        let begin = text(CALL_BEGIN);
        let several = parallel && !matches!(choice, ToolChoice::Named(_));
        let more = if several { " more*" } else { "" };
        let mut rules = match (choice, form) {
            (ToolChoice::Auto, None) => format!(
                "start: rest | open body{more}\nrest: TEXT\nopen[lazy]: TEXT {begin}\nTEXT: /(\\n|.)*/\n" // all but the first call
            ),
            (ToolChoice::Auto, Some(form)) => format!("start: %json {} | {begin} body{more}\n", spaced(form)),
            _ => format!("start: {begin} body{more}\n"),
        };
        if several {
            rules += &format!("more: {} body\n", text(&format!("\n{CALL_BEGIN}")));
        }
        let any: Vec<String> = (0..callable.len()).map(|nth| format!("call_{nth}")).collect();
        rules += &format!("body: {} ({}) {}\n", text(HEAD), any.join(" | "), text(&tail()));
        for (name, tool) in any.iter().zip(callable) {
            let head = text(&format!("{}{ARGUMENTS}", tool.name));
            rules += &format!("{name}: {head} %json {}\n", spaced(named_only(tool.parameters.clone())));
        }
        Ok(Grammar::Lark(rules))
    }
}

/// The same arguments without any that the schema does not name, unless it says that there may be others: models invent them.
fn named_only(mut schema: Map<String, Value>) -> Map<String, Value> {
    let others = ["additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"];
    if schema.contains_key("properties") && !others.iter().any(|key| schema.contains_key(*key)) {
        schema.insert("additionalProperties".into(), Value::Bool(false));
    }
    schema
}

/// Between the begin of a call and the function's name.
const HEAD: &str = "\n{\"name\": \"";
/// Between the name and the arguments.
const ARGUMENTS: &str = "\", \"arguments\": ";

/// Before the name. The mark alone may stand in a text of JSON, which has no line breaks.
fn begin() -> String {
    format!("{CALL_BEGIN}{HEAD}")
}

/// After the arguments.
fn tail() -> String {
    format!("}}\n{CALL_END}")
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text for the reader.
    Text(String),
    /// A call of this function begins.
    Call(String),
    /// The next part of its arguments, which are a JSON object.
    Arguments(String),
    /// The call is complete.
    End,
}

/// Takes an answer apart while it is written. White space between text and calls belongs to neither.
#[derive(Clone, Debug, Default)]
pub struct CallReader {
    state: State,
    /// Not yet given out.
    held: String,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Text,
    /// In the name of a call.
    Head,
    /// Inside of so many braces and brackets; in a text; after a backslash.
    Arguments { depth: usize, quoted: bool, escaped: bool },
    /// After the arguments.
    Tail,
}

impl CallReader {
    /// Of a whole answer: its text, and the complete calls with their arguments.
    pub fn read(answer: &str) -> (String, Vec<(String, String)>) {
        let (mut text, mut calls, mut open) = (String::new(), Vec::new(), None);
        let mut tell = |piece| match piece {
            Piece::Text(part) => text += &part,
            Piece::Call(name) => open = Some((name, String::new())),
            Piece::Arguments(part) => {
                if let Some((_, arguments)) = &mut open {
                    *arguments += &part;
                }
            }
            Piece::End => calls.extend(open.take()),
        };
        let mut reader = CallReader::default();
        reader.push(answer, &mut tell);
        reader.finish(&mut tell);
        (text, calls)
    }

    /// Takes the next part of the answer and tells of what is certain.
    pub fn push(&mut self, text: &str, tell: &mut impl FnMut(Piece)) {
        self.held.push_str(text);
        while self.advance(tell) {}
    }

    /// At the end: what was held back was no call. A call that was cut before its name is known is left out.
    pub fn finish(&mut self, tell: &mut impl FnMut(Piece)) {
        let CallReader { state, mut held } = std::mem::take(self);
        let begun = begun(&held);
        if begun >= CALL_BEGIN.len() {
            held.truncate(held[..held.len() - begun].trim_end().len());
        }
        if matches!(state, State::Text) && !held.is_empty() {
            tell(Piece::Text(held));
        }
    }

    /// True if there may be more in what is held.
    fn advance(&mut self, tell: &mut impl FnMut(Piece)) -> bool {
        match self.state {
            State::Text => {
                let begin = begin();
                let (keep, call) = match self.held.find(&begin) {
                    Some(start) => (start, true),
                    None => (self.held.len() - begun(&self.held), false),
                };
                let sure = self.held[..keep].trim_end().len();
                if sure > 0 {
                    tell(Piece::Text(self.held[..sure].to_owned()));
                }
                match call {
                    true => {
                        self.held.drain(..keep + begin.len());
                        self.state = State::Head;
                    }
                    false => drop(self.held.drain(..sure)),
                }
                call
            }
            State::Head => {
                let Some(end) = self.held.find(ARGUMENTS) else { return false };
                tell(Piece::Call(self.held[..end].to_owned()));
                self.held.drain(..end + ARGUMENTS.len());
                self.state = State::Arguments { depth: 0, quoted: false, escaped: false };
                true
            }
            State::Arguments { mut depth, mut quoted, mut escaped } => {
                let mut end = None;
                for (at, byte) in self.held.bytes().enumerate() {
                    match byte {
                        _ if escaped => escaped = false,
                        b'\\' => escaped = true,
                        b'"' => quoted = !quoted,
                        b'{' | b'[' if !quoted => depth += 1,
                        b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    if depth == 0 {
                        end = Some(at + 1);
                        break;
                    }
                }
                let part: String = self.held.drain(..end.unwrap_or(self.held.len())).collect();
                if !part.is_empty() {
                    tell(Piece::Arguments(part));
                }
                self.state = match end {
                    Some(_) => State::Tail,
                    None => State::Arguments { depth, quoted, escaped },
                };
                end.is_some()
            }
            State::Tail => {
                let tail = tail();
                if self.held.len() < tail.len() {
                    return false;
                }
                if self.held.starts_with(&tail) {
                    tell(Piece::End);
                    self.held.drain(..tail.len());
                }
                self.state = State::Text;
                true
            }
        }
    }
}

/// Bytes at the end of `text` that may be the begin of a call.
fn begun(text: &str) -> usize {
    let begin = begin();
    (1..begin.len()).rev().find(|&len| text.ends_with(&begin[..len])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CALLS: &str = "Let me <see>.\n<tool_call>\n{\"name\": \"look\", \"arguments\": {\"city\": \"Ro}m\\\"{e\", \"n\": [1, {}]}}\n\
                         </tool_call>\n<tool_call>\n{\"name\": \"stop\", \"arguments\": {}}\n</tool_call>";

    fn read(parts: &[&str]) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut reader = CallReader::default();
        let mut tell = |piece: Piece| match (pieces.last_mut(), piece) {
            (Some(Piece::Text(last)), Piece::Text(next)) | (Some(Piece::Arguments(last)), Piece::Arguments(next)) => {
                *last += &next;
            }
            (_, piece) => pieces.push(piece),
        };
        parts.iter().for_each(|part| reader.push(part, &mut tell));
        reader.finish(&mut tell);
        pieces
    }

    fn expected() -> Vec<Piece> {
        vec![
            Piece::Text("Let me <see>.".into()),
            Piece::Call("look".into()),
            Piece::Arguments("{\"city\": \"Ro}m\\\"{e\", \"n\": [1, {}]}".into()),
            Piece::End,
            Piece::Call("stop".into()),
            Piece::Arguments("{}".into()),
            Piece::End,
        ]
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(cuts in prop::collection::vec(0..CALLS.len(), 0..12)) {
            let mut cuts = cuts;
            cuts.extend([0, CALLS.len()]);
            cuts.sort_unstable();
            let parts: Vec<&str> = cuts.windows(2).map(|cut| &CALLS[cut[0]..cut[1]]).collect();
            prop_assert_eq!(read(&parts), expected());
        }

        /// Text without calls comes through as it is, and anything at all harms nobody.
        #[test]
        fn text_is_text(parts in prop::collection::vec("[a<_\n ]|<tool_|call|\\{|\"|é", 0..20)) {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let whole = parts.concat();
            let pieces = read(&parts);
            if !whole.contains(CALL_BEGIN) {
                let text: String = pieces.iter().map(|p| if let Piece::Text(text) = p { text } else { "?" }).collect();
                prop_assert_eq!(text, whole);
            }
        }
    }

    #[test]
    fn a_call_that_is_cut() {
        assert_eq!(read(&["a <tool_c"]), [Piece::Text("a <tool_c".into())]);
        assert_eq!(read(&["a <tool_call>\n{\"na"]), [Piece::Text("a".into())]);
        let spelled = "{\"a\": \"use <tool_call> to call\"}";
        assert_eq!(read(&[&spelled[..18], &spelled[18..]]), [Piece::Text(spelled.into())]);
        let cut = read(&["<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}"]);
        assert_eq!(cut, [Piece::Call("f".into()), Piece::Arguments("{\"a\": \"}".into())]);
    }
}
