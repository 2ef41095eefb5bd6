//! Grammars: whatever a model would like to say, its answer has the form that was asked for.

mod tiny;

use bitnet_inference::{
    CallReader, Engine, EngineOptions, FinishReason, GenerateRequest, Grammar, InferenceError, Piece, Scheduler,
    TokenEvent, ToolChoice, Update,
};
use bitnet_models::Tool;
use serde_json::{Value, json};
use std::sync::Arc;
use tiny::{TINY, prompt, sampled};

fn engine() -> Engine {
    TINY.engine(EngineOptions { sequences: Some(8), kv_pages: Some(64), ..EngineOptions::default() })
}

/// A request of a model with random weights, which left alone says nonsense.
fn request(grammar: Grammar, seed: u64) -> GenerateRequest {
    GenerateRequest { grammar: Some(grammar), stop_at_eos: true, ..sampled(&prompt(9, 1), 200, seed) }
}

fn answer(engine: &Engine, request: &GenerateRequest) -> (String, Vec<u32>, Option<FinishReason>) {
    let mut session = engine.session();
    let mut generation = session.generate(request).expect("a valid request");
    let events: Vec<TokenEvent> = generation.by_ref().map(|event| event.expect("a token")).collect();
    let text = events.iter().map(|event| event.text.as_str()).collect();
    (text, events.iter().map(|event| event.id).collect(), generation.finish_reason())
}

fn schema() -> Grammar {
    Grammar::JsonSchema(json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 8 },
            "kind": { "$ref": "#/$defs/kind" },
            "sizes": { "type": "array", "items": { "type": "integer", "minimum": 0, "maximum": 99 }, "maxItems": 3 },
            "tame": { "type": "boolean" },
        },
        "required": ["name", "kind", "sizes", "tame"],
        "additionalProperties": false,
        "$defs": { "kind": { "enum": ["cat", "dog"] } },
    }))
}

#[test]
fn a_schema_is_kept_to() {
    let engine = engine();
    for seed in 0..12 {
        let (text, _, reason) = answer(&engine, &request(schema(), seed));
        assert_eq!(reason, Some(FinishReason::Complete), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
        assert_eq!(value.as_object().map(|object| object.len()), Some(4), "{text}");
        assert!(value["name"].as_str().is_some_and(|name| name.chars().count() <= 8), "{text}");
        assert!(value["kind"] == "cat" || value["kind"] == "dog", "{text}");
        let sizes = value["sizes"].as_array().expect("a list");
        assert!(sizes.len() <= 3 && sizes.iter().all(|size| size.as_u64().is_some_and(|size| size < 100)), "{text}");
        assert!(value["tame"].is_boolean() && text.starts_with("{\"name\": \""), "{text}");
    }
}

#[test]
fn regular_expressions_and_rules_are_kept_to() {
    let engine = engine();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..16 {
        let (text, ..) = answer(&engine, &request(Grammar::Regex("(yes|no)".into()), seed));
        seen.insert(text);
        // characters of several bytes, which this model writes byte by byte
        let (text, ..) = answer(&engine, &request(Grammar::Regex("[äöü€]{3}".into()), seed));
        assert!(text.chars().count() == 3 && text.chars().all(|c| "äöü€".contains(c)), "{text}");
        let nested = "start: list\nlist: \"[\" (list | \"x\") \"]\"".into();
        let request = GenerateRequest { max_tokens: 60, ..request(Grammar::Lark(nested), seed) };
        let (text, _, reason) = answer(&engine, &request);
        let depth = text.chars().take_while(|&c| c == '[').count();
        match reason {
            Some(FinishReason::Complete) => assert_eq!(text, "[".repeat(depth) + "x" + &"]".repeat(depth)),
            _ => assert!(text.starts_with(&"[".repeat(depth.max(1))), "{text}"),
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["no", "yes"]);
}

#[test]
fn an_answer_may_end_where_the_grammar_allows_it() {
    let engine = engine();
    let (mut ended, mut complete) = (0, 0);
    for seed in 0..40 {
        let (text, ids, reason) = answer(&engine, &request(Grammar::Regex("a{1,3}".into()), seed));
        assert!(["a", "aa", "aaa"].contains(&text.as_str()), "{text}");
        match reason {
            Some(FinishReason::EndOfText) => ended += usize::from(ids.last() == Some(&tiny::EOS)),
            Some(FinishReason::Complete) => complete += usize::from(text == "aaa"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ended + complete, 40);
    assert!(ended > 0 && complete > 0, "{ended} {complete}");
}

#[test]
fn together_is_as_alone_also_with_grammars() {
    let engine = Arc::new(engine());
    let requests: Vec<GenerateRequest> = (0..8)
        .map(|seed| match seed % 2 {
            0 => request(schema(), seed),
            _ => GenerateRequest { grammar: None, ..request(schema(), seed) },
        })
        .collect();
    let alone: Vec<Vec<u32>> = requests.iter().map(|request| answer(&engine, request).1).collect();
    let scheduler = Scheduler::start(engine, 8).expect("a thread");
    let updates: Vec<_> = requests.iter().map(|r| scheduler.submit(r.clone()).expect("room")).collect();
    for (updates, alone) in updates.into_iter().zip(alone) {
        let id = |update: Result<Update, InferenceError>| match update.expect("an update") {
            Update::Token(event) => Some(event.id),
            Update::Finished(..) => None,
        };
        assert_eq!(updates.filter_map(id).collect::<Vec<_>>(), alone);
    }
}

#[test]
fn wrong_grammars_are_refused() {
    let engine = engine();
    let wrong = [
        Grammar::Regex("(".into()),
        Grammar::Lark("start: nothing".into()),
        Grammar::Lark(String::new()),
        Grammar::JsonSchema(json!(5)),
        Grammar::JsonSchema(json!({ "type": "nonsense" })),
        Grammar::JsonSchema(json!({ "$ref": "https://elsewhere.example/schema" })),
        Grammar::JsonSchema(json!({ "type": "string", "minLength": 5, "maxLength": 2 })),
    ];
    for grammar in wrong {
        let mut session = engine.session();
        let error = session.generate(&request(grammar.clone(), 0)).err();
        assert!(matches!(error, Some(InferenceError::Option { option: "grammar", .. })), "{grammar:?}: {error:?}");
    }
}

fn tools() -> Vec<Tool> {
    let tool = |name: &str, parameters: Value| Tool {
        name: name.into(),
        description: None,
        parameters: parameters.as_object().expect("an object").clone(),
    };
    vec![
        tool(
            "weather",
            json!({ "type": "object", "required": ["city"], "additionalProperties": false,
                "properties": { "city": { "enum": ["Rome", "O}s\"lo"] } } }),
        ),
        tool("stop", json!({ "type": "object", "properties": {}, "additionalProperties": false })),
    ]
}

/// The text and the calls of an answer; a call that is there is complete and fits.
fn calls(answer: &str) -> (String, Vec<String>) {
    let (mut text, mut names, mut arguments, mut ended) = (String::new(), Vec::new(), Vec::new(), 0);
    let mut reader = CallReader::default();
    let mut tell = |piece| match piece {
        Piece::Text(part) => text += &part,
        Piece::Call(name) => {
            names.push(name);
            arguments.push(String::new());
        }
        Piece::Arguments(part) => *arguments.last_mut().expect("after a name") += &part,
        Piece::End => ended += 1,
    };
    reader.push(answer, &mut tell);
    reader.finish(&mut tell);
    assert_eq!(ended, names.len(), "{answer}");
    for (name, arguments) in names.iter().zip(&arguments) {
        let arguments: Value = serde_json::from_str(arguments).unwrap_or_else(|error| panic!("{error} in {arguments}"));
        match name.as_str() {
            "weather" => assert!(arguments["city"] == "Rome" || arguments["city"] == "O}s\"lo", "{arguments}"),
            "stop" => assert_eq!(arguments, json!({})),
            other => panic!("{other}"),
        }
    }
    (text, names)
}

#[test]
fn calls_always_parse_and_fit_their_schema() {
    let engine = engine();
    let ask = |choice, parallel, form, seed| {
        let grammar = Grammar::tool_calls(&tools(), &choice, parallel, form).expect("a grammar");
        answer(&engine, &GenerateRequest { max_tokens: 300, ..request(grammar, seed) })
    };
    for seed in 0..8 {
        let (text, _, reason) = ask(ToolChoice::Required, false, None, seed);
        assert_eq!(reason, Some(FinishReason::Complete), "{text}");
        let (text, names) = calls(&text);
        assert_eq!((text.as_str(), names.len()), ("", 1));
        for name in ["stop", "weather"] {
            let (text, _, reason) = ask(ToolChoice::Named(name.into()), true, None, seed);
            assert_eq!((reason, calls(&text)), (Some(FinishReason::Complete), (String::new(), vec![name.into()])));
        }
        // a form of the text, or calls
        let form = json!({ "const": "x" }).as_object().cloned();
        let (text, ..) = ask(ToolChoice::Auto, false, form, seed);
        if text != "\"x\"" {
            assert_eq!(calls(&text).1.len(), 1, "{text}");
        }
    }
    assert!(Grammar::tool_calls(&tools(), &ToolChoice::Named("none".into()), true, None).is_err());
}
