//! `convert`: the same text before and after, and nothing half-made.

use crate::program::{Outcome, bitnet, json, output, shared, text};

#[test]
fn stories260k_reads_the_same_from_gguf() {
    let Some(expected) = shared("data/models/stories260K/expected-greedy-200.txt") else { return };
    let Some(model) = shared("data/models/stories260K/stories260K.bin") else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let out = directory.path().join("stories.gguf");
    output(["convert", "--input", text(&model), "--output", text(&out), "--type", "f32"]).succeeds();
    let told = output(["run", "", "--model", text(&out), "-n", "200", "--greedy"]).succeeds();
    assert_eq!(told, std::fs::read_to_string(expected).expect("readable"));
}

/// By `verify`: the same for models that compute the same bits.
fn fingerprint(model: &str) -> serde_json::Value {
    let fingerprint = json(&output(["verify", "--json", "--model", model]).succeeds())["fingerprint"].clone();
    assert!(fingerprint.is_string());
    fingerprint
}

#[test]
fn a_ternary_model_goes_round_all_encodings_unchanged() {
    let Some(model) = shared("crossval/gguf/bitnet-tq2_0.gguf") else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let expected = fingerprint(text(&model));
    let mut last = model;
    for encoding in ["i2_s", "tq1_0", "q2_0", "pq2_0", "tq2_0"] {
        let next = directory.path().join(format!("{encoding}.gguf"));
        output(["convert", "--input", text(&last), "--output", text(&next), "--type", encoding]).succeeds();
        assert_eq!(fingerprint(text(&next)), expected, "{encoding}");
        last = next;
    }
}

#[test]
fn master_weights_become_codes_that_compute_the_same() {
    let Some(model) = shared("data/models/tiny-ternary-stories") else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let out = directory.path().join("stories.gguf");
    let converted = output(["convert", "--input", text(&model), "--output", text(&out), "--type", "i2_s"]);
    converted.succeeds();
    assert!(converted.notes().contains("same bits"), "{}", converted.notes());
    assert_eq!(fingerprint(text(&out)), fingerprint(text(&model)));
    // A scale that f16 cannot hold is not rounded.
    let out = directory.path().join("rounded.gguf");
    let notes = output(["convert", "--input", text(&model), "--output", text(&out), "--type", "tq2_0"]).fails(1);
    assert!(notes.contains("f16") && notes.contains("I2_S") && !out.exists(), "{notes}");
}

#[test]
fn a_dry_run_tells_the_plan_and_writes_nothing() {
    let Some(model) = shared("data/models/tiny-ternary-stories") else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let out = directory.path().join("dry.gguf");
    let args = ["convert", "--input", text(&model), "--output", text(&out), "--type", "i2_s", "--dry-run"];
    let plan = output(args).succeeds();
    assert!(plan.contains("blk.0.attn_q.weight") && plan.contains("I2_S"), "{plan}");
    assert_eq!(std::fs::read_dir(directory.path()).expect("readable").count(), 0);
}

#[test]
fn what_cannot_be_written_exactly_is_refused_before_writing() {
    let Some(model) = shared("data/models/tiny-ternary-stories") else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let out = directory.path().join("out.gguf");
    let notes = output(["convert", "--input", text(&model), "--output", text(&out), "--type", "q4_k"]).fails(1);
    assert!(notes.to_lowercase().contains("q4_k"), "{notes}");
    let notes = output(["convert", "--input", text(&model), "--output", text(&out), "--type", "q9_9"]).fails(2);
    assert!(notes.contains("q9_9"), "{notes}");
    assert_eq!(std::fs::read_dir(directory.path()).expect("readable").count(), 0);
}

#[test]
fn an_output_that_cannot_be_written_is_an_error() {
    let Some(model) = shared("data/models/stories260K/stories260K.bin") else { return };
    let args = ["convert", "--input", text(&model), "--type", "f32", "--output", "/no/such/directory/out.gguf"];
    let notes = output(args).fails(1);
    assert!(notes.contains("/no/such/directory"), "{notes}");
    // An output that is also the input would be overwritten while it is read.
    let args = ["convert", "--input", text(&model), "--type", "f32", "--output", text(&model)];
    bitnet(args).output().expect("the program starts").fails(1);
}

/// Neither the file that was named nor the others that a model consists of.
#[test]
fn the_input_is_not_replaced() {
    let Some(model) = shared("data/models/tiny-ternary-stories") else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(model).expect("readable") {
        let from = entry.expect("readable").path();
        let to = directory.path().join(from.file_name().expect("a name"));
        std::fs::copy(from, &to).expect("copied");
        files.push(to);
    }
    for output_file in &files {
        let before = std::fs::read(output_file).expect("readable");
        let args = ["convert", "--input", text(directory.path()), "--type", "i2_s", "--output", text(output_file)];
        let notes = output(args).fails(1);
        assert!(notes.contains("no GGUF file; choose another output"), "{notes}");
        assert!(std::fs::read(output_file).expect("readable") == before, "{}", output_file.display());
    }
    let [first, second] = [1, 2].map(|i| directory.path().join(format!("model-0000{i}-of-00002.gguf")));
    std::fs::write(&first, b"GGUF").expect("written");
    std::fs::write(&second, b"GGUF").expect("written");
    let args = ["convert", "--input", text(&first), "--type", "i2_s", "--output", text(&second)];
    let notes = output(args).fails(1);
    assert!(notes.contains("is the input, or a part of it"), "{notes}");
}
