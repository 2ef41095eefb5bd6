//! Questions with answers to choose from, as public evaluation sets have them: one JSON object per line.

use crate::InferenceError;
use serde::Deserialize;

/// A question for a model: continuations of texts, one of which is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What can be chosen from. One alone is a word to be guessed: right when the model's first choice is all of it.
    pub alternatives: Vec<Alternative>,
    /// Index of the right one.
    pub gold: usize,
    /// Part of the set that this question belongs to, if the set has parts.
    pub part: Option<String>,
}

/// A text, and how it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// What is given; may be empty.
    pub context: String,
    /// What is scored, with the space that separates it.
    pub continuation: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    /// ARC, PIQA, BoolQ, COPA, BIG-bench.
    Query { query: String, choices: Vec<String>, gold: usize },
    /// Winograd, WinoGrande: two beginnings of one end.
    Beginnings { context_options: Vec<String>, continuation: String, gold: usize },
    /// HellaSwag.
    Endings { ctx: String, endings: Vec<String>, label: usize, activity_label: Option<String> },
    /// LAMBADA.
    Word { context: String, continuation: String },
    /// BLiMP.
    Pair {
        sentence_good: String,
        sentence_bad: String,
        #[serde(rename = "UID")]
        uid: Option<String>,
    },
}

impl Question {
    /// Reads a line of a set. Questions (`Question: …`, `Passage: …`) are followed by a line `Answer:`; a space stands before every
    /// choice. HellaSwag's texts are cleaned of their brackets as in lm-evaluation-harness.
    ///
    /// # Errors
    /// A line of no known form, or whose right answer is not among its choices.
    pub fn parse(line: &str) -> Result<Question, InferenceError> {
        let refuse = |reason: String| InferenceError::Option { option: "question", reason };
        serde_json::from_str::<serde::de::IgnoredAny>(line).map_err(|e| refuse(format!("is no JSON: {e}")))?;
        let line: Line = serde_json::from_str(line).map_err(|_| {
            refuse(
                "has none of the known forms: query, choices, gold; context_options, continuation, gold; ctx, endings, label; \
                 context, continuation; sentence_good, sentence_bad"
                    .into(),
            )
        })?;
        let spaced = |text: &str| format!(" {}", text.trim());
        let (alternatives, gold, part) = match line {
            Line::Query { query, choices, gold } => {
                let query = query.trim_end();
                let asked = query.starts_with("Question:") || query.starts_with("Passage:");
                let context = if asked { format!("{query}\nAnswer:") } else { query.to_owned() };
                (alternatives(choices.iter().map(|choice| (context.clone(), spaced(choice)))), gold, None)
            }
            Line::Beginnings { context_options, continuation, gold } => {
                let beginnings = context_options.iter().map(|text| (text.trim_end().to_owned(), spaced(&continuation)));
                (alternatives(beginnings), gold, None)
            }
            Line::Endings { ctx, endings, label, activity_label } => {
                let context = without_brackets(&match activity_label {
                    Some(activity) => format!("{activity}: {ctx}"),
                    None => ctx,
                });
                let endings = endings.iter().map(|ending| (context.clone(), spaced(&without_brackets(ending))));
                (alternatives(endings), label, None)
            }
            Line::Word { context, continuation } => {
                (alternatives([(context.trim_end().to_owned(), spaced(&continuation))]), 0, None)
            }
            Line::Pair { sentence_good, sentence_bad, uid } => {
                (alternatives([(String::new(), sentence_good), (String::new(), sentence_bad)]), 0, uid)
            }
        };
        if gold >= alternatives.len() {
            return Err(refuse(format!("the right answer is number {gold} of {} (from 0)", alternatives.len())));
        }
        if let Some(empty) = alternatives.iter().position(|a| a.continuation.trim().is_empty()) {
            return Err(refuse(format!("choice {empty} is empty")));
        }
        Ok(Question { alternatives, gold, part })
    }
}

fn alternatives(pairs: impl IntoIterator<Item = (String, String)>) -> Vec<Alternative> {
    pairs.into_iter().map(|(context, continuation)| Alternative { context, continuation }).collect()
}

/// ` [title]` becomes a full stop, other brackets go, double spaces become single ones.
fn without_brackets(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('[') {
        let Some((_, after)) = after.split_once(']') else { break };
        out += before;
        rest = after;
    }
    out += rest;
    out.replace("  ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> (Vec<(String, String)>, usize) {
        let Question { alternatives, gold, .. } = Question::parse(line).unwrap();
        (alternatives.into_iter().map(|a| (a.context, a.continuation)).collect(), gold)
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
    }

    #[test]
    fn forms() {
        let (found, gold) = parse(r#"{"choices": ["red", "dry"], "query": "Question: How is it?\n", "gold": 1}"#);
        let asked = "Question: How is it?\nAnswer:";
        assert_eq!((found, gold), (pairs(&[(asked, " red"), (asked, " dry")]), 1));
        let (found, _) = parse(r#"{"query": "It rained, therefore", "gold": 0, "choices": ["a.", "b."]}"#);
        assert_eq!(found, pairs(&[("It rained, therefore", " a."), ("It rained, therefore", " b.")]));
        let (found, _) = parse(r#"{"context_options": ["A", "B"], "continuation": "ran.", "gold": 0}"#);
        assert_eq!(found, pairs(&[("A", " ran."), ("B", " ran.")]));
        let line = r#"{"activity_label": "Run", "ctx": "[header] How [title] Go.", "endings": ["x [step] y", "z"], "label": 1}"#;
        let (found, gold) = parse(line);
        assert_eq!((found, gold), (pairs(&[("Run: How. Go.", " x y"), ("Run: How. Go.", " z")]), 1));
        let (found, _) = parse(r#"{"context": "They saw the", "continuation": "sea"}"#);
        assert_eq!(found, pairs(&[("They saw the", " sea")]));
        let line = r#"{"UID": "island", "sentence_good": "He is.", "sentence_bad": "He are."}"#;
        assert_eq!(parse(line), (pairs(&[("", "He is."), ("", "He are.")]), 0));
        assert_eq!(Question::parse(line).unwrap().part.as_deref(), Some("island"));
    }

    #[test]
    fn what_is_no_question_is_refused() {
        let refused = |line: &str| Question::parse(line).unwrap_err().to_string();
        assert!(refused("{").contains("no JSON"));
        assert!(refused(r#"{"question": "?"}"#).contains("context_options"));
        assert!(refused(r#"{"query": "?", "choices": ["a", "b"], "gold": 2}"#).contains("number 2 of 2"));
        assert!(refused(r#"{"query": "?", "choices": [], "gold": 0}"#).contains("number 0 of 0"));
        assert!(refused(r#"{"query": "?", "choices": ["a", " "], "gold": 0}"#).contains("choice 1 is empty"));
        assert!(refused(r#"{"query": "?", "choices": ["a"], "gold": -1}"#).contains("known forms"));
    }
}
