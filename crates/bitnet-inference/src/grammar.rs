//! Answers of a wanted form: a grammar says at every step which tokens may come next.

use crate::InferenceError;
use bitnet_models::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The form that an answer must have.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// JSON that a schema describes, written with one space after commas and colons and no other white space.
    JsonSchema(Value),
    /// Text that a regular expression matches from begin to end (syntax of the crate `regex`).
    Regex(String),
    /// Text of a context-free grammar in Lark's syntax, from its rule `start`.
    Lark(String),
}

impl Grammar {
    /// Any JSON object.
    pub fn json_object() -> Self {
        Grammar::JsonSchema(json!({ "type": "object" }))
    }

    fn source(&self) -> Result<TopLevelGrammar, InferenceError> {
        match self {
            Grammar::Regex(pattern) => Ok(TopLevelGrammar::from_regex(pattern)),
            Grammar::Lark(rules) => Ok(TopLevelGrammar::from_lark(rules.clone())),
            Grammar::JsonSchema(Value::Object(schema)) => Ok(TopLevelGrammar::from_json_schema(spaced(schema.clone()))),
            Grammar::JsonSchema(_) => Err(refused("a JSON schema must be an object")),
        }
    }
}

/// The schema with one form of white space: small models get lost in it.
pub(crate) fn spaced(mut schema: Map<String, Value>) -> Value {
    let spacing = json!({ "item_separator": ", ", "key_separator": ": ", "whitespace_flexible": false });
    schema.insert("x-guidance".into(), spacing);
    Value::Object(schema)
}

/// The tokens of a model as byte strings, ready to be matched with grammars.
pub(crate) struct Grammars(ParserFactory);

impl Grammars {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Self, InferenceError> {
        let stops = tokenizer.stop_ids();
        let &end = stops.first().ok_or_else(|| refused("the model has no end-of-text token"))?;
        // what stands for no text gets the mark of special tokens, which no grammar here asks for
        let special =
            |id: u32| [&[TokTrie::SPECIAL_TOKEN_MARKER], tokenizer.text(id).unwrap_or_default().as_bytes()].concat();
        let bytes = |id: u32| match tokenizer.bytes(id) {
            _ if stops.contains(&id) => special(id),
            // the byte 255, which is part of no text, is that mark
            Some(bytes) if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) => Vec::new(),
            Some(bytes) => bytes.to_vec(),
            None => special(id),
        };
        let size = tokenizer.vocab_size() as u32;
        let words: Vec<Vec<u8>> = (0..size).map(bytes).collect();
        let trie = TokTrie::from(&TokRxInfo::new(size, end), &words).with_eos_tokens(stops);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(refused)?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Grammars(factory))
    }

    /// # Errors
    /// A grammar that is wrong, too large, or uses what is not supported.
    pub(crate) fn compile(&self, grammar: &Grammar) -> Result<Constraint, InferenceError> {
        let matcher = Matcher::new(self.0.create_parser(grammar.source()?));
        match matcher.get_error() {
            Some(error) => Err(refused(error)),
            None => Ok(Constraint { matcher, allowed: Vec::new() }),
        }
    }
}

/// How far an answer has come in its grammar.
pub(crate) struct Constraint {
    matcher: Matcher,
    /// Logits of the tokens that may come next; negative infinity for all others.
    allowed: Vec<f32>,
}

impl Constraint {
    /// The logits of the tokens that may come next; those of the others are negative infinity.
    pub(crate) fn restrict(&mut self, logits: &[f32]) -> Result<&[f32], InferenceError> {
        let mask = self.matcher.compute_mask().map_err(refused)?;
        self.allowed.clear();
        self.allowed.resize(logits.len(), f32::NEG_INFINITY);
        let mut any = false;
        mask.iter_set_entries(|id| {
            if let (Some(to), Some(&logit)) = (self.allowed.get_mut(id), logits.get(id)) {
                *to = logit;
                any = true;
            }
        });
        match any {
            true => Ok(&self.allowed),
            false => Err(refused("no token of the model goes on with it")),
        }
    }

    /// Takes the chosen token; true when nothing can follow.
    pub(crate) fn accept(&mut self, id: u32) -> Result<bool, InferenceError> {
        self.matcher.consume_token(id).map_err(refused)?;
        Ok(self.matcher.is_stopped())
    }
}

pub(crate) fn refused(reason: impl std::fmt::Display) -> InferenceError {
    InferenceError::Option { option: "grammar", reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ToolChoice;
    use bitnet_formats::Checkpoint;
    use bitnet_models::{Encoding, Tool};

    /// How much of a text a grammar lets through, and whether it may end there.
    fn way(grammar: &Grammar, text: &str) -> (String, bool) {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/default.gguf");
        let checkpoint = Checkpoint::open(std::path::Path::new(path)).expect("the embedded model");
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint).expect("a tokenizer");
        let mut constraint = Grammars::new(&tokenizer).expect("grammars").compile(grammar).expect("a grammar");
        let ids = tokenizer.encode(text, Encoding { bos: Some(false), special: false }).expect("ids");
        let logits = vec![0.0; tokenizer.vocab_size()];
        let mut taken = Vec::new();
        for id in ids {
            if constraint.restrict(&logits).expect("a mask")[id as usize] != 0.0 {
                break;
            }
            taken.push(id);
            if constraint.accept(id).expect("an allowed token") {
                return (tokenizer.decode(&taken, false), true);
            }
        }
        let end = tokenizer.stop_ids()[0] as usize;
        let may_end = constraint.restrict(&logits).is_ok_and(|allowed| allowed[end] == 0.0);
        (tokenizer.decode(&taken, false), may_end)
    }

    /// Free text until a call begins; from there on nothing but that call, and others where they are allowed.
    #[test]
    fn text_may_turn_into_a_call() {
        let parameters =
            json!({ "type": "object", "properties": { "city": { "enum": ["Rome"] } }, "required": ["city"] });
        let parameters = parameters.as_object().expect("an object").clone();
        let tool = Tool { name: "look".into(), description: None, parameters };
        let grammar = |parallel| {
            Grammar::tool_calls(std::slice::from_ref(&tool), &ToolChoice::Auto, parallel, None).expect("a grammar")
        };
        let call = "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";
        for text in ["Once upon a time", "a < b </tool_call> <tool", "{\"name\": \"x\"}\n\n"] {
            assert_eq!(way(&grammar(true), text), (text.into(), true));
        }
        for text in ["", "Let me look.\n"] {
            let once = format!("{text}{call}");
            let twice = format!("{once}\n{call}");
            assert_eq!(way(&grammar(false), &once), (once.clone(), true));
            assert_eq!(way(&grammar(true), &once), (once.clone(), true));
            assert_eq!(way(&grammar(true), &twice), (twice.clone(), true));
            assert_eq!(way(&grammar(false), &twice), (once.clone(), true), "one call only");
            // inside of a call there is no other way
            let wrong = once.replace("Rome", "Oslo");
            let (taken, may_end) = way(&grammar(true), &wrong);
            assert!(taken.len() < wrong.len() && wrong.starts_with(&taken) && !may_end, "{taken}");
            let more = once.replace("\"Rome\"", "\"Rome\", \"more\": 1");
            assert!(!way(&grammar(true), &more).0.contains("more"), "an argument that nobody named");
            assert!(!way(&grammar(true), &once.replace("\"look", "\"leap")).0.contains("leap"));
        }
    }
}
