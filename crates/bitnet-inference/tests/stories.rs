//! Trained models of `shared/data/models` tell the stories that other engines tell with them.

use bitnet_inference::{Engine, EngineOptions, GenerateRequest, Prompt, Sampling};
use bitnet_models::LoadOptions;
use serde_json::Value;
use std::path::PathBuf;

fn model(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/models").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is absent", path.display());
    None
}

fn greedy(prompt: Prompt, max_tokens: usize) -> GenerateRequest {
    GenerateRequest { prompt, sampling: Sampling::greedy(), ..GenerateRequest::new("", max_tokens) }
}

#[test]
fn stories260k_greedy_200() {
    let Some(folder) = model("stories260K") else { return };
    let expected = std::fs::read(folder.join("expected-greedy-200.txt")).expect("readable");
    for file in ["stories260K.bin", "stories260K-v1.bin"] {
        let options = EngineOptions { tokenizer: Some(folder.join("tok512.bin")), ..EngineOptions::default() };
        let engine = Engine::open(folder.join(file), options).expect(file);
        let mut text = String::new();
        let request = greedy(Prompt::Text(String::new()), 200);
        engine
            .stream(&request, &mut |event| {
                text.push_str(&event.text);
                true
            })
            .expect(file);
        assert_eq!(text.len(), 464, "{file}: {text}");
        assert_eq!(text.as_bytes(), expected, "{file}: {text}");
    }
}

#[test]
fn tiny_ternary_stories_greedy() {
    let Some(folder) = model("tiny-ternary-stories") else { return };
    let text = std::fs::read_to_string(folder.join("greedy.json")).expect("readable");
    let golden: Value = serde_json::from_str(&text).expect("valid JSON");
    let prompts = golden["prompts"].as_object().expect("prompts");
    assert!(prompts.len() >= 2);
    let engine = |select_head| {
        let load = LoadOptions { select_head: Some(select_head), ..LoadOptions::default() };
        Engine::open(&folder, EngineOptions { load, ..EngineOptions::default() }).expect("opens")
    };
    let (full, selecting) = (engine(false), engine(true));
    for ((prompt, case), engine) in prompts.iter().flat_map(|case| [(case, &full), (case, &selecting)]) {
        let ids = |key: &str| -> Vec<u32> {
            case[key].as_array().expect("ids").iter().map(|id| id.as_u64().expect("id") as u32).collect()
        };
        let (start, expected) = (ids("ids"), ids("greedy_ids"));
        let mut session = engine.session();
        let request = greedy(Prompt::Text(prompt.clone()), 60);
        let mut generation = session.generate(&request).expect("valid");
        let mut found = start.clone();
        found.extend(generation.by_ref().map(|event| event.expect("a token").id));
        assert_eq!(generation.usage().prompt_tokens, start.len(), "{prompt:?}: ids of the prompt");
        let len = expected.len().min(start.len() + 60);
        assert_eq!(found[..len], expected[..len], "{prompt:?}");
    }
}
