//! `BITNET_PERF_TRACK` and `bench --profile`: where the time goes.

use crate::program::{Outcome, bitnet, json, output, text};
use serde_json::Value;

const RUN: [&str; 9] = ["run", "Once upon a time", "-n", "24", "--greedy", "-t", "1", "--seed", "1"];

/// The operations of all engines in a record.
fn operations(record: &Value) -> Vec<Value> {
    let engines = record["engines"].as_array().expect("engines");
    engines.iter().flat_map(|engine| engine["operations"].as_array().expect("operations").clone()).collect()
}

#[test]
fn nothing_is_said_when_it_is_off() {
    let plain = output(RUN);
    for value in ["", "0"] {
        let off = bitnet(RUN).env("BITNET_PERF_TRACK", value).output().expect("runs");
        assert_eq!(off.succeeds(), plain.succeeds());
        assert!(!off.notes().contains("ternary_matmul"), "{}", off.notes());
    }
}

#[test]
fn a_table_and_a_line_of_json_at_the_end() {
    let plain = output(RUN).succeeds();
    for deterministic in ["0", "1"] {
        let mut command = bitnet(RUN);
        command.env("BITNET_PERF_TRACK", "1").env("BITNET_DETERMINISTIC", deterministic);
        let tracked = command.output().expect("runs");
        assert_eq!(tracked.succeeds(), plain, "tracking changes no token");
        let notes = tracked.notes();
        let record = json(notes.lines().last().expect("a line"));
        assert_eq!(record["schema"], "bitnet-perf-track/1");
        assert_eq!(record["engines"][0]["threads"], 1);
        assert!(operations(&record).iter().any(|o| o["verb"] == "attend" && o["phase"] == "decode"), "{record}");
        assert!(notes.contains("decode: 23 tokens") && notes.contains("choosing tokens"), "{notes}");
    }
}

#[test]
fn a_path_is_written_and_one_that_cannot_be_is_an_error() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("track.json");
    let done = bitnet(RUN).env("BITNET_PERF_TRACK", text(&path)).output().expect("runs");
    done.succeeds();
    assert!(!done.notes().contains("\"schema\""), "the file has it");
    let record = json(&std::fs::read_to_string(&path).expect("written"));
    assert!(!operations(&record).is_empty());
    assert_eq!(record["command"][1], "run");
    let failed = bitnet(RUN).env("BITNET_PERF_TRACK", "/no/such/directory/x.json").output().expect("runs");
    assert_eq!(failed.status.code(), Some(1));
    assert!(failed.notes().contains("/no/such/directory/x.json"), "{}", failed.notes());
}

#[test]
fn another_value_is_refused_before_anything_is_loaded() {
    let notes = bitnet(RUN).env("BITNET_PERF_TRACK", "maybe").output().expect("runs").fails(2);
    assert!(notes.contains("BITNET_PERF_TRACK") && notes.contains("maybe"), "{notes}");
}

#[test]
fn a_profile_of_the_forward_pass() {
    let args = ["bench", "--profile", "-p", "16", "-n", "8", "-t", "1,2", "-r", "1"];
    let table = output(args).succeeds();
    for part in ["prompt: 16 tokens", "decode: 7 tokens", "ternary_gated", "rope_store", "GB/s", "█"] {
        assert!(table.matches(part).count() > 1, "{part} once per thread count in {table}");
    }
    let report = json(&output(args.into_iter().chain(["--json"])).succeeds());
    for run in report["runs"].as_array().expect("runs") {
        let profile = &run["profile"];
        assert_eq!(profile["threads"], run["threads"]);
        let phases = profile["phases"].as_array().expect("phases");
        for phase in phases {
            let (all, inside) = (phase["seconds"].as_f64(), phase["operations_seconds"].as_f64());
            assert!(inside <= all && inside > all.map(|s| 0.5 * s), "{phase}");
        }
    }
    let plain = json(&output(["bench", "-p", "4", "-n", "4", "-r", "1", "-t", "1", "--json"]).succeeds());
    assert!(plain.get("profile").is_none());
}
