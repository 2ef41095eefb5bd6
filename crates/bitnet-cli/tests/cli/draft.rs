//! `--draft`: the same text, and how much of it was guessed; models that do not fit are refused.

use crate::program::{Outcome, bitnet, json, output, output_with, shared, text};
use tempfile::TempDir;

/// The embedded model as a file: the best guesser there is.
fn draft() -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("draft.gguf");
    std::fs::write(&path, bitnet::default_model()).expect("written");
    let path = text(&path).to_owned();
    (folder, path)
}

#[test]
fn run_tells_the_same_story() {
    let (_folder, draft) = draft();
    for sampling in [&["--greedy"][..], &["--seed", "4"], &["--seed", "5", "--temp", "1.5"]] {
        let args = ["run", "Once upon a time", "-n", "80", "--ignore-eos", "--json", "--threads", "1"];
        let args: Vec<&str> = args.iter().chain(sampling).copied().collect();
        let plain = json(&output(&args).succeeds());
        let with: Vec<&str> = args.iter().copied().chain(["--draft", &draft, "--draft-tokens", "4"]).collect();
        let output = output(&with);
        let drafted = json(&output.succeeds());
        assert_eq!(drafted["ids"], plain["ids"]);
        assert_eq!(plain["drafted_tokens"], serde_json::Value::Null);
        let [guessed, right] = ["drafted_tokens", "drafted_right"].map(|key| drafted[key].as_u64().expect("a number"));
        assert!(right > 5 && right <= guessed, "{drafted}");
        assert!(output.notes().contains(&format!("{right} of {guessed} drafted right")), "{}", output.notes());
    }
}

#[test]
fn chat_says_the_same() {
    let (folder, draft) = draft();
    let template = folder.path().join("plain.jinja");
    std::fs::write(&template, "{% for m in messages %}{{ m.content }} {% endfor %}").expect("writable");
    let args = ["chat", "--template", text(&template), "-n", "20", "--greedy", "--threads", "1"];
    let talk = "Once upon a time\nThe cat\n";
    let drafted = args.into_iter().chain(["--draft", &draft]);
    assert_eq!(output_with(drafted, talk).succeeds(), output_with(args, talk).succeeds());
}

#[test]
fn what_does_not_fit_is_refused() {
    let missing = output(["run", "x", "--draft", "/no/such/draft.gguf"]).fails(1);
    assert!(missing.contains("/no/such/draft.gguf"), "{missing}");
    let alone = output(["run", "x", "--draft-tokens", "4"]).fails(2);
    assert!(alone.contains("draft_tokens") && alone.contains("no draft model"), "{alone}");
    let Some(other) = shared("data/models/stories260K/stories260K.bin") else { return };
    let refused = output(["run", "x", "--draft", text(&other)]).fails(1);
    assert!(refused.contains("stories260K.bin") && refused.contains("vocabulary"), "{refused}");
}

#[test]
#[cfg(feature = "serve")]
fn batch_answers_the_same_and_its_memory_counts() {
    let (folder, draft) = draft();
    let prompts = folder.path().join("prompts.txt");
    std::fs::write(&prompts, "Once upon a time\nThe cat\nThe dog\n").expect("written");
    let args = ["batch", text(&prompts), "-n", "30", "--seed", "3", "--threads", "1"];
    let sorted = |output: std::process::Output| {
        let mut lines: Vec<String> = output.succeeds().lines().map(|line| json(line)["text"].to_string()).collect();
        lines.sort();
        lines
    };
    let plain = sorted(output(args));
    assert_eq!(plain.len(), 3);
    assert_eq!(sorted(output(args.into_iter().chain(["--draft", &draft, "--draft-tokens", "3"]))), plain);

    // what the refusal says that it needs
    let needs = |draft: Option<&str>| {
        let mut command = bitnet(["serve", "--port", "0", "--memory-budget", "1MiB"]);
        if let Some(path) = draft {
            command.env("BITNET_SERVE_DRAFT", path);
        }
        let said = command.output().expect("it ends").fails(1);
        let number = said.split("needs ").nth(1).and_then(|rest| rest.split(' ').next()).map(str::to_owned);
        number.and_then(|n| n.parse::<u64>().ok()).unwrap_or_else(|| panic!("no number in {said}"))
    };
    let (without, with) = (needs(None), needs(Some(&draft)));
    assert!(with > without + 2_000_000, "{without} and {with} bytes");
}
