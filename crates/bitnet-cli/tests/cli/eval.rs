//! `eval`: right answers, counted as transformers would.

use crate::program::{Outcome, json, output, shared, text};

/// What `crossval/evaluation.py` gives for the same model and the first questions of a set.
struct Scores {
    set: &'static str,
    items: usize,
    /// Right as a whole.
    raw: f64,
    /// Right per character.
    by_length: Option<f64>,
    /// For words, the sum of their log-likelihoods.
    sum: Option<f64>,
}

const fn scores(set: &'static str, items: usize, raw: f64, by_length: Option<f64>) -> Scores {
    Scores { set, items, raw, by_length, sum: None }
}

const TRANSFORMERS: [Scores; 6] = [
    scores("copa.jsonl", 100, 64.0, Some(57.0)),
    scores("winograd_wsc.jsonl", 100, 48.0, Some(48.0)),
    scores("arc_easy.jsonl.gz", 60, 12.0, Some(13.0)),
    Scores { sum: Some(-738.713_791_620_288_2), ..scores("lambada_openai.jsonl.gz", 60, 2.0, None) },
    scores("blimp.jsonl.gz", 150, 126.0, Some(126.0)),
    scores("bigbench_strange_stories.jsonl", 20, 10.0, Some(9.0)),
];

#[test]
fn scores_are_those_of_transformers() {
    let Some(model) = shared("data/models/tiny-ternary-stories") else { return };
    let Some(sets) = shared("data/eval") else { return };
    for Scores { set, items, raw, by_length, sum } in TRANSFORMERS {
        let (set, limit) = (sets.join(set), items.to_string());
        let report =
            json(&output(["eval", "--model", text(&model), text(&set), "--limit", &limit, "--json"]).succeeds());
        let result = &report["sets"][0]["result"];
        let right = |key: &str| result[key]["accuracy"].as_f64().map(|share| (share * items as f64).round());
        // A neighbouring int8 code here and there moves likelihoods by some hundredths: question 84 of COPA, whose choices are 0.05 nats
        // apart, goes the other way.
        for (key, want) in [("raw", Some(raw)), ("by_length", by_length)] {
            let (found, set) = (right(key), set.display());
            assert_eq!(found.is_some(), want.is_some(), "{set}: {key}");
            let (found, want) = (found.unwrap_or_default(), want.unwrap_or_default());
            assert!((found - want).abs() <= 1.0, "{set}: {key}: {found}, not {want}");
        }
        let interval = |end: &str| result["raw"][end].as_f64().expect("an end");
        let share = raw / items as f64;
        assert!(interval("low") < share && share < interval("high"), "{result}");
        if let Some(sum) = sum {
            let (found, want) =
                (result["word_perplexity"].as_f64().expect("a perplexity"), (-sum / items as f64).exp());
            assert!((found / want - 1.0).abs() < 1e-2, "{found} {want}");
        }
    }
}

#[test]
fn a_set_of_pairs_and_a_text() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (pairs, story) = (directory.path().join("pairs.jsonl"), directory.path().join("story.txt"));
    let line = r#"{"UID": "order", "sentence_good": "Once upon a time there was a girl.", "sentence_bad": "Time a upon once girl was."}"#;
    std::fs::write(&pairs, format!("{line}\n\n{line}\n")).expect("writable");
    let told = "Once upon a time, there was a little girl named Lily.";
    std::fs::write(&story, told).expect("writable");
    let printed = output(["eval", text(&pairs), text(&story)]).succeeds();
    assert!(printed.contains("pairs") && printed.contains("100.0 %") && printed.contains("bits per byte"), "{printed}");
    let report = json(&output(["eval", text(&pairs), text(&story), "--json"]).succeeds());
    assert_eq!(report["sets"][0]["result"]["parts"]["order"], 1.0);
    let perplexity = json(&output(["perplexity", "--file", text(&story), "--json"]).succeeds());
    assert_eq!(report["sets"][1]["result"]["perplexity"], perplexity["perplexity"]);
}

#[test]
fn what_is_no_set_is_said() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let refused = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).expect("writable");
        output(["eval", text(&path)]).fails(1)
    };
    let good = r#"{"query": "It rained, therefore", "gold": 0, "choices": ["it was wet.", "it was dry."]}"#;
    assert!(refused("a.jsonl", b"").contains("no questions"));
    assert!(refused("a.jsonl", format!("{good}\n{{").as_bytes()).contains("line 2"));
    assert!(refused("a.jsonl", b"{\"question\": 1}\n").contains("known forms"));
    assert!(refused("a.csv", b"a,b\n").contains("expected questions"));
    assert!(refused("a.jsonl.gz", b"no gzip").contains("a.jsonl.gz"));
    assert!(refused("a.jsonl", &[0xff, 0xfe, b'\n']).contains("UTF-8"));
    assert!(output(["eval", "no-such-set.jsonl"]).fails(1).contains("no-such-set.jsonl"));
    output(["eval"]).fails(2);
}
