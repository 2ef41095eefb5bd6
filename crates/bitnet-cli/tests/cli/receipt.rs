//! `verify --receipt` and `verify --check`: the same bits again, or an error.

use crate::program::{Outcome, json, output, shared, text};
use serde_json::Value;
use std::path::Path;

fn receipt(args: &[&str], path: &Path) -> Value {
    let args = ["verify", "--receipt", text(path)].into_iter().chain(args.iter().copied());
    output(args).succeeds();
    json(&std::fs::read_to_string(path).expect("written"))
}

fn check<'a>(path: &'a Path, args: &[&'a str]) -> std::process::Output {
    output(["verify", "--check", text(path)].into_iter().chain(args.iter().copied()))
}

#[test]
fn a_receipt_holds_for_every_tier_and_thread_count() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("receipt.json");
    let receipt = receipt(&["-t", "2"], &path);
    assert_eq!(receipt["model"], Value::Null, "the embedded one");
    assert_eq!(receipt["files"][0]["sha256"].as_str().map(str::len), Some(64));
    assert_eq!((receipt["prompt_ids"].as_array().map(Vec::len), &receipt["threads"]), (Some(48), &2.into()));
    assert_eq!(receipt["greedy_ids"].as_array().map(Vec::len), Some(16));
    let tiers = receipt["tiers"].as_array().expect("tiers");
    let names: Vec<_> = tiers.iter().map(|tier| tier["isa"].as_str().expect("a name")).collect();
    let mut available: Vec<_> = bitnet::Isa::available().into_iter().map(bitnet::Isa::name).collect();
    assert_eq!(names[0], available[0]);
    let mut sorted = names.clone();
    sorted.sort_unstable();
    available.sort_unstable();
    assert_eq!(sorted, available);
    for tier in tiers {
        assert_eq!((&tier["self_test"], &tier["fingerprint"]), (&"passed".into(), &receipt["fingerprint"]));
        // what is counted does not depend on the tier
        assert_eq!(tier["verbs"], tiers[0]["verbs"]);
    }
    // 48 tokens for the fingerprint, 16 in a prompt and 15 decoded: 79 tokens, two operations per weight and token
    let verbs = &tiers[0]["verbs"];
    let operations: u64 = ["ternary_matmul", "ternary_add", "ternary_gated"]
        .iter()
        .map(|verb| verbs[verb]["operations"].as_u64().expect("counted"))
        .sum();
    assert_eq!(operations % (2 * 79), 0, "{verbs}");
    assert!(operations > 0 && verbs["attend"]["calls"].as_u64() > Some(0));
    for args in [&["--isa", "scalar", "-t", "1"][..], &["-t", "3"], &["--isa", names[names.len() - 1]]] {
        let said = check(&path, args).succeeds();
        assert!(said.contains(receipt["fingerprint"].as_str().expect("text")), "{said}");
    }
    let report = json(&check(&path, &["--json"]).succeeds());
    assert_eq!((&report["ok"], &report["fingerprint"]), (&true.into(), &receipt["fingerprint"]));
}

#[test]
fn a_receipt_of_other_results_does_not_hold() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("receipt.json");
    let receipt = receipt(&[], &path);
    let change = |change: &dyn Fn(&mut Value)| {
        let mut changed = receipt.clone();
        change(&mut changed);
        std::fs::write(&path, changed.to_string()).expect("writable");
        check(&path, &[])
    };
    let failed = change(&|r| r["fingerprint"] = "0000000000000000".into());
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stdout).contains("DIFFERENT    fingerprint: 0000000000000000"));
    assert!(failed.notes().contains("does not hold"), "{}", failed.notes());
    let failed = change(&|r| r["greedy_ids"][3] = 1.into());
    assert!(String::from_utf8_lossy(&failed.stdout).contains("greedy tokens"));
    let failed = change(&|r| r["tiers"][0]["fingerprint"] = "1".into());
    assert!(String::from_utf8_lossy(&failed.stdout).contains("fingerprint of "));
    // another model, another schema, other fields
    assert!(change(&|r| r["files"][0]["sha256"] = "00".into()).fails(1).contains("not the model of the receipt"));
    assert!(change(&|r| r["schema"] = "bitnet-receipt/9".into()).fails(1).contains("bitnet-receipt/9"));
    assert!(change(&|r| r["kv_format"] = "f8".into()).fails(1).contains("f8"));
    assert!(change(&|r| r["extra"] = 1.into()).fails(1).contains("not a receipt"));
    assert!(change(&|r| r["load_options"] = vec!["--scale inverse"].into()).fails(1).contains("--scale inverse"));
    std::fs::write(&path, "{").expect("writable");
    assert!(check(&path, &[]).fails(1).contains("not a receipt"));
    assert!(output(["verify", "--check", "/no/such/receipt"]).fails(1).contains("/no/such/receipt"));
    let both = ["verify", "--check", "a", "--receipt", "b"];
    assert!(output(both).fails(2).contains("--receipt"));
}

#[test]
fn a_receipt_names_the_model_and_the_options_that_matter() {
    for model in ["bitnet-2b4t-packed", "qwen3-bitnet-embedding"] {
        let Some(model) = shared(&format!("crossval/{model}")) else { return };
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("receipt.json");
        let args = ["--model", text(&model), "--kv", "int8", "--activation", "silu"];
        let receipt = receipt(&args, &path);
        assert_eq!(receipt["load_options"], serde_json::json!(["--activation silu"]));
        let embeds = text(&model).contains("embedding");
        assert_eq!(receipt["greedy_ids"].as_array().expect("ids").is_empty(), embeds);
        // the model and the cache format come from the receipt, overrides must be given again
        check(&path, &["--activation", "silu"]).succeeds();
        assert!(check(&path, &[]).fails(1).contains("--activation silu"));
        let other = shared("crossval/llama-dense").expect("beside the others");
        let notes = check(&path, &["--activation", "silu", "--model", text(&other)]).fails(1);
        assert!(notes.contains("not the model of the receipt"), "{notes}");
    }
}
