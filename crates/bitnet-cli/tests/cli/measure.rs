//! `logits`, `perplexity`, `embed`, `bench`: numbers that must agree with other engines and with each other.

use crate::program::{Outcome, json, output, output_with, shared, text};
use safetensors::SafeTensors;
use std::path::Path;

/// Rows of f32.
fn floats(file: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<f32>) {
    let tensor = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let values = tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    (tensor.shape().to_vec(), values)
}

fn logits(model: &[&str], lists: &serde_json::Value, directory: &Path) -> Vec<u8> {
    let (ids, out) = (directory.join("ids.json"), directory.join("logits.safetensors"));
    std::fs::write(&ids, lists.to_string()).expect("writable");
    let args = ["logits", "--ids", text(&ids), "--out", text(&out)].into_iter().chain(model.iter().copied());
    output(args).succeeds();
    std::fs::read(out).expect("written")
}

#[test]
fn logits_agree_with_transformers() {
    for name in ["bitnet-2b4t-packed", "llama-dense", "qwen3-ternary-online"] {
        let Some(model) = shared(&format!("crossval/{name}")) else { return };
        let read = |file: &str| std::fs::read(model.join(file)).expect("readable");
        let golden = json(&String::from_utf8_lossy(&read("golden.json")));
        let tolerance = golden["tolerance"]["abs"].as_f64().expect("a tolerance") as f32;
        let golden = read("golden.safetensors");
        let golden = SafeTensors::deserialize(&golden).expect("safetensors");
        let ids = |n: usize| {
            let tensor = golden.tensor(&format!("seq{n}.input_ids")).expect("ids");
            tensor.data().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect::<Vec<_>>()
        };
        let directory = tempfile::tempdir().expect("a temporary directory");
        let written = logits(&["--model", text(&model)], &serde_json::json!([ids(3), ids(0)]), directory.path());
        let written = SafeTensors::deserialize(&written).expect("safetensors");
        for (n, sequence) in [3, 0].into_iter().enumerate() {
            let (shape, expected) = floats(&golden, &format!("seq{sequence}.logits"));
            let (ours, found) = floats(&written, &format!("logits.{n}"));
            assert_eq!(ours, shape[1..], "{name}");
            let worst = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= tolerance, "{name}: {worst} > {tolerance}");
        }
    }
}

#[test]
fn two_files_of_logits_are_compared() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str| directory.path().join(name);
    let lists = serde_json::json!([[1, 2, 3], [7]]);
    std::fs::write(file("a"), logits(&[], &lists, directory.path())).expect("writable");
    std::fs::write(file("b"), logits(&["--activations", "float"], &lists, directory.path())).expect("writable");
    let diff = |a: &str, b: &str| output(["logits", "--json", "--diff", text(&file(a)), text(&file(b))]);
    let same = json(&diff("a", "a").succeeds());
    assert_eq!((&same["all"]["identical"], &same["all"]["positions"]), (&true.into(), &4.into()));
    let other = json(&diff("a", "b").succeeds());
    let number = |list: &str, key: &str| other[list][key].as_f64().expect("a number");
    assert_eq!(other["all"]["identical"], false);
    assert!(number("all", "max_abs") == number("logits.0", "max_abs").max(number("logits.1", "max_abs")));
    assert!(number("all", "max_abs") > 0.0 && number("all", "min_cosine") > 0.9, "{other}");
    assert!(output(["logits", "--diff", text(&file("a")), text(&file("b"))]).succeeds().contains("logits.1"));

    std::fs::write(file("c"), logits(&[], &serde_json::json!([[1, 2], [7]]), directory.path())).expect("writable");
    let notes = diff("a", "c").fails(1);
    assert!(notes.contains("logits.0 is [3, 4096]"), "{notes}");
    std::fs::write(file("d"), logits(&[], &serde_json::json!([[1, 2]]), directory.path())).expect("writable");
    assert!(diff("a", "d").fails(1).contains("other lists"));
    std::fs::write(file("e"), "not safetensors").expect("writable");
    assert!(diff("a", "e").fails(1).contains("safetensors"));
    assert!(output(["logits", "--diff", text(&file("a"))]).fails(2).contains("2 values"));
}

#[test]
fn an_error_leaves_the_old_logits_alone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let old = logits(&[], &serde_json::json!([[1, 2, 3]]), directory.path());
    let (ids, out) = (directory.path().join("ids.json"), directory.path().join("logits.safetensors"));
    std::fs::write(&ids, "[[1], [99999999]]").expect("writable");
    output(["logits", "--ids", text(&ids), "--out", text(&out)]).fails(1);
    assert_eq!(std::fs::read(&out).expect("still there"), old);
    assert_eq!(directory.path().read_dir().expect("a directory").count(), 2, "nothing half-written is left");
}

#[test]
fn perplexity_is_what_the_logits_say() {
    let story = "Once upon a time there was a little girl who had a red ball. She played with it every day.";
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("story.txt");
    std::fs::write(&file, story).expect("writable");
    let report = json(&output(["perplexity", "--file", text(&file), "--json"]).succeeds());

    let ids = json(&output(["tokenize", "--json", story]).succeeds())["ids"].clone();
    let written = logits(&[], &serde_json::json!([ids]), directory.path());
    let (shape, values) = floats(&SafeTensors::deserialize(&written).expect("safetensors"), "logits.0");
    let ids: Vec<usize> =
        ids.as_array().expect("ids").iter().filter_map(|id| id.as_u64().map(|id| id as usize)).collect();
    let nll = |row: &[f32], id: usize| {
        let best = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
        let sum: f64 = row.iter().map(|&v| (f64::from(v) - best).exp()).sum();
        sum.ln() + best - f64::from(row[id])
    };
    let rows = values.chunks(shape[1]).zip(&ids[1..]);
    let total: f64 = rows.map(|(row, &id)| nll(row, id)).sum();
    let expected = (total / (ids.len() - 1) as f64).exp();
    let found = report["perplexity"].as_f64().expect("a number");
    assert!((found / expected - 1.0).abs() < 1e-6, "{found} {expected}");
    let bits = total / std::f64::consts::LN_2 / story.len() as f64;
    let found = report["bits_per_byte"].as_f64().expect("a number");
    assert!((found / bits - 1.0).abs() < 1e-6, "{found} {bits}");
    assert!(report["perplexity_error"].as_f64().is_some_and(|e| e > 0.0));
}

#[test]
fn bad_lists_of_ids_are_refused_and_nothing_is_left() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (ids, out) = (directory.path().join("ids.json"), directory.path().join("out.safetensors"));
    let args = ["logits", "--ids", text(&ids), "--out", text(&out)];
    for (lists, said) in [("[1, 2]", "list of lists"), ("[[99999999]]", "99999999"), ("[[-1]]", "list of lists")] {
        std::fs::write(&ids, lists).expect("writable");
        let notes = output(args).fails(1);
        assert!(notes.contains(said), "{lists}: {notes}");
        assert!(!out.exists(), "{lists}");
    }
    std::fs::write(&ids, "[[1]]").expect("writable");
    let notes = output(["logits", "--ids", text(&ids), "--out", "/no/such/directory/x"]).fails(1);
    assert!(notes.contains("/no/such/directory/x"), "{notes}");
}

#[test]
fn vectors_are_of_length_one_and_ordered_as_the_lines() {
    let lines = output_with(["embed", "--json"], "a cat\na dog\n").succeeds();
    let reports: Vec<_> = lines.lines().map(json).collect();
    assert_eq!((reports.len(), &reports[1]["text"]), (2, &"a dog".into()));
    for report in &reports {
        let vector: Vec<f64> =
            report["embedding"].as_array().expect("numbers").iter().filter_map(|v| v.as_f64()).collect();
        assert_eq!(vector.len(), 256);
        assert!((vector.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-5);
    }
    let plain = output(["embed", "a dog"]).succeeds();
    let first: f64 = plain.split(' ').next().expect("a number").parse().expect("a number");
    assert!((first - reports[1]["embedding"][0].as_f64().expect("a number")).abs() < 1e-7);
}

#[test]
fn bench_measures_and_says_how_much_the_figures_vary() {
    let args = ["bench", "-p", "16", "-n", "8", "-t", "1,2", "-r", "2", "--json"];
    let report = json(&output(args).succeeds());
    let runs = report["runs"].as_array().expect("runs");
    assert_eq!(runs.len(), 2, "one per thread count");
    for run in runs {
        let number = |key: &str| run[key].as_f64().unwrap_or_else(|| panic!("{key} of {run}"));
        for key in ["prompt_tokens_per_second", "decode_tokens_per_second", "time_to_first_token_seconds"] {
            assert!(number(key) > 0.0 && number(&format!("{key}_sd")) >= 0.0, "{run}");
        }
        assert_eq!((number("prompt_tokens"), number("decode_tokens")), (16.0, 8.0));
        let fraction = number("decode_tokens_per_second") * number("bytes_per_decoded_token")
            / number("read_bandwidth_bytes_per_second");
        assert!((fraction / number("decode_bandwidth_fraction") - 1.0).abs() < 1e-9, "{run}");
        assert!(number("load_seconds") > 0.0 && run["isa"].is_string());
    }
    // the last run stands at the top, where scripts look for a single one
    for key in ["threads", "decode_tokens_per_second", "peak_resident_bytes", "isa"] {
        assert_eq!(report[key], runs[1][key]);
    }
    assert_eq!(report["threads"], 2);
    assert_eq!((&report["batch"], &report["depth"]), (&1.into(), &0.into()));
    let args = ["bench", "-p", "4", "-n", "4", "-b", "2", "-d", "40", "-t", "1", "-r", "1", "--json"];
    let report = json(&output(args).succeeds());
    assert_eq!((&report["batch"], &report["depth"]), (&2.into(), &40.into()));
    assert!(report["kv_bytes_per_decoded_token"].as_u64() > Some(0), "{report}");
}
