//! `run`: other engines' text to the byte, the same text for the same seed, and clear refusals.

use crate::program::{Outcome, bitnet, json, output, output_with, shared, text};

const STORY: [&str; 5] = ["run", "Once upon a time", "-n", "24", "--seed"];

#[test]
fn stories260k_is_reproduced_to_the_byte() {
    let Some(expected) = shared("data/models/stories260K/expected-greedy-200.txt") else { return };
    let expected = std::fs::read_to_string(expected).expect("readable");
    for model in ["stories260K.bin", "stories260K-v1.bin"] {
        let Some(model) = shared(&format!("data/models/stories260K/{model}")) else { return };
        let args = ["run", "", "--model", text(&model), "-n", "200", "--greedy"];
        assert_eq!(output(args).succeeds(), expected, "{}", model.display());
        for (isa, threads) in [("scalar", "1"), ("scalar", "3")] {
            let args = args.into_iter().chain(["--isa", isa, "-t", threads]);
            assert_eq!(output(args).succeeds(), expected, "{isa}, {threads} threads");
        }
    }
}

#[test]
fn the_ternary_story_model_gives_the_ids_of_transformers() {
    let Some(model) = shared("data/models/tiny-ternary-stories") else { return };
    let golden = std::fs::read_to_string(model.join("greedy.json")).expect("readable");
    let golden = json(&golden);
    let prompts = golden["prompts"].as_object().expect("prompts");
    assert!(!prompts.is_empty());
    for (prompt, expected) in prompts {
        let report =
            json(&output(["run", prompt, "-n", "60", "--greedy", "--json", "--model", text(&model)]).succeeds());
        let ids = expected["greedy_ids"].as_array().expect("ids");
        let start = expected["ids"].as_array().expect("ids").len();
        let continuation = if ids.starts_with(expected["ids"].as_array().expect("ids")) { &ids[start..] } else { ids };
        let n = continuation.len().min(60);
        assert_eq!(report["ids"].as_array().expect("ids")[..n], continuation[..n], "{prompt}");
    }
}

#[test]
fn the_embedded_model_tells_a_story_and_says_who_it_is() {
    let told = output(STORY.into_iter().chain(["1"]));
    assert!(told.succeeds().len() > 20);
    let notes = told.notes();
    assert!(notes.contains("--model") && notes.contains("embedded"), "{notes}");
    assert!(notes.contains("24 new tokens") && notes.contains("seed 1"), "{notes}");
    let quiet = output(STORY.into_iter().chain(["1", "--quiet"]));
    assert_eq!(quiet.succeeds(), told.succeeds());
    assert_eq!(quiet.notes(), "");
}

#[test]
fn a_seed_fixes_the_text_and_only_a_seed_does() {
    let told = |seed: &str| output(STORY.into_iter().chain([seed])).succeeds();
    let seven = told("7");
    assert_eq!(seven, told("7"));
    let by_environment = bitnet(&STORY[..4]).env("BITNET_SEED", "7").output().expect("the program starts");
    assert_eq!(by_environment.succeeds(), seven);
    assert!((8..12).any(|seed| told(&seed.to_string()) != seven), "five seeds, one text");
    let reports = [(); 2].map(|()| json(&output(STORY[..4].iter().chain(&["--json"])).succeeds()));
    assert_ne!(reports[0]["seed"], reports[1]["seed"], "a new seed each time");
    let repeated = told(&reports[0]["seed"].to_string());
    assert_eq!(reports[0]["text"], repeated.as_str(), "and the seed that is shown repeats the text");
}

#[test]
fn threads_and_tiers_give_the_same_bits() {
    let tiers = json(&output(["doctor", "--no-bandwidth", "--json"]).succeeds());
    let told = output(STORY.into_iter().chain(["3", "--logprobs", "2", "--json"])).succeeds();
    let essence = |report: &str| {
        let report = json(report);
        (report["ids"].clone(), report["logprobs"].clone())
    };
    for tier in tiers["tiers"].as_array().expect("tiers").iter().filter(|t| t["available"] == true) {
        let isa = tier["name"].as_str().expect("a name");
        let args = STORY.into_iter().chain(["3", "--logprobs", "2", "--json", "--isa", isa, "--threads", "2"]);
        assert_eq!(essence(&output(args).succeeds()), essence(&told), "{isa}");
    }
}

#[test]
fn a_piped_prompt_is_the_prompt() {
    let given = output(STORY.into_iter().chain(["1"])).succeeds();
    for args in [&["run", "-", "-n", "24", "--seed", "1"][..], &["run", "-n", "24", "--seed", "1"]] {
        assert_eq!(output_with(args, "Once upon a time\n").succeeds(), given, "{args:?}");
    }
}

#[test]
fn stop_texts_end_the_story_and_are_not_printed() {
    let told = output(STORY.into_iter().chain(["1"])).succeeds();
    let word = told.split_whitespace().nth(3).expect("four words");
    let args = STORY.into_iter().chain(["1", "--json", "--stop", word]);
    let report = json(&output(args).succeeds());
    assert_eq!(report["finish_reason"], "stop_text");
    assert_eq!(report["text"], told.split(word).next().expect("a beginning"));
}

#[test]
fn logprobs_are_ordered_and_below_one() {
    let report = json(&output(STORY.into_iter().chain(["1", "--json", "--logprobs", "5"])).succeeds());
    let tokens = report["logprobs"].as_array().expect("log-probabilities");
    assert_eq!(tokens.len(), 24);
    for token in tokens {
        let top: Vec<f64> =
            token["top"].as_array().expect("top").iter().filter_map(|t| t["logprob"].as_f64()).collect();
        assert_eq!(top.len(), 5);
        assert!(top.is_sorted_by(|a, b| a >= b), "{top:?}");
        assert!(top.iter().map(|l| l.exp()).sum::<f64>() <= 1.0 + 1e-6, "{top:?}");
        assert!(token["logprob"].as_f64().expect("a number") <= top[0]);
    }
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_with_numbers() {
    let long = "once upon a time ".repeat(200);
    let notes = output_with(["run", "--context", "64", "-n", "8"], &long).fails(1);
    assert!(notes.contains("context of 64") && notes.contains("--context"), "{notes}");
}

#[test]
fn a_full_context_ends_the_answer_or_slides_when_asked_to() {
    let base = ["run", "Once upon a time", "--context", "64", "--ignore-eos", "--greedy", "--json"];
    let report = json(&output(base).succeeds());
    assert_eq!(report["finish_reason"], "context_full");
    let tokens = |r: &serde_json::Value, key: &str| r[key].as_u64().expect("a number");
    assert!(tokens(&report, "prompt_tokens") + tokens(&report, "new_tokens") == 64, "{report}");
    let report = json(&output(base.into_iter().chain(["-n", "150", "--slide", "4"])).succeeds());
    assert_eq!(tokens(&report, "new_tokens"), 150);
}

#[test]
fn a_model_without_tokenizer_says_what_to_do() {
    let Some(model) = shared("crossval/bitnet-2b4t-online") else { return };
    let notes = output(["run", "hi", "--model", text(&model)]).fails(1);
    assert!(notes.contains("tokenizer") && notes.contains("--tokenizer"), "{notes}");
}
