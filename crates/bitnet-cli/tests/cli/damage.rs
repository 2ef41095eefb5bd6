//! Damaged and foreign files: refused by name, never run.

use crate::program::{Outcome, json, output, shared, text};
use bitnet::formats::gguf::{self, Metadata, TensorSource, Value};
use bitnet::formats::{Checkpoint, Encoding, Source};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The embedded model in a file, changed.
fn changed(
    metadata: impl FnOnce(&mut Metadata),
    bytes: impl Fn(&str, &mut Vec<u8>) + Copy + 'static,
) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("changed.gguf");
    let checkpoint = Checkpoint::from_gguf_bytes(bitnet::default_model().into()).expect("the embedded model opens");
    let Source::Gguf(mut entries) = checkpoint.source else { panic!("not GGUF") };
    metadata(&mut entries);
    let tensors = checkpoint.tensors.into_values().map(|tensor| {
        let mut data = tensor.bytes.to_vec();
        bytes(&tensor.name, &mut data);
        TensorSource {
            name: tensor.name,
            shape: tensor.shape,
            encoding: tensor.encoding,
            bytes: Box::new(move || Ok(data.into())),
        }
    });
    gguf::write(&path, &entries, tensors.collect(), &mut |_, _| {}, &mut |_| Ok(())).expect("writable");
    (directory, path)
}

fn fails(path: &Path, command: &str, expected: &[&str]) {
    let prompt = (command == "run").then_some("hi");
    let notes = output([command].into_iter().chain(prompt).chain(["--model", text(path)])).fails(1);
    for word in expected {
        assert!(notes.contains(word), "{command}: {word} not in {notes}");
    }
}

#[test]
fn verify_passes_the_embedded_model() {
    let report = json(&output(["verify", "--json"]).succeeds());
    assert_eq!(report["ok"], true);
    assert_eq!(report["ternary_tensors"], 7 * 8);
    let weights = 8 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 256 * 768);
    let codes = ["minus", "zero", "plus"].iter().filter_map(|key| report["codes"][key].as_u64()).sum::<u64>();
    assert_eq!(codes, weights);
    // The file on disk is the same model: same hash, same fingerprint.
    let (_directory, copy) = changed(|_| {}, |_, _| {});
    let copied = json(&output(["verify", "--json", "--model", text(&copy), "--isa", "scalar"]).succeeds());
    assert_eq!(copied["fingerprint"], report["fingerprint"]);
    assert!(report["fingerprint"].is_string());
}

#[test]
fn an_illegal_code_is_found_by_verify_and_refused_by_run() {
    let (_directory, path) = changed(
        |_| {},
        |name, data| {
            if name == "blk.3.ffn_up.weight" {
                data[1000] |= 0b1100;
            }
        },
    );
    let verified = output(["verify", "--model", text(&path)]);
    assert_eq!(verified.status.code(), Some(1));
    let found = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(found.contains("FAILED") && found.contains("blk.3.ffn_up.weight"), "{found}");
    fails(&path, "run", &["blk.3.ffn_up.weight", "code 3"]);
}

#[test]
fn not_a_number_is_found() {
    let (_directory, path) = changed(
        |_| {},
        |name, data| {
            if name == "output_norm.weight" {
                data[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
            }
        },
    );
    fails(&path, "run", &["output_norm.weight"]);
    let verified = output(["verify", "--json", "--model", text(&path)]);
    assert_eq!(verified.status.code(), Some(1));
    let report = json(&String::from_utf8_lossy(&verified.stdout));
    assert_eq!(report["ok"], false);
    assert!(report["failures"][0].as_str().is_some_and(|f| f.contains("output_norm.weight")), "{report}");
}

#[test]
fn an_unknown_architecture_is_refused_by_name() {
    let unknown = |entries: &mut Metadata| entries.set("general.architecture", Value::String("perceptron".into()));
    let (_directory, path) = changed(unknown, |_, _| {});
    fails(&path, "run", &["perceptron"]);
    let report = json(&output(["inspect", "--json", "--model", text(&path)]).succeeds());
    assert!(report["no_network"].as_str().is_some_and(|reason| reason.contains("perceptron")), "{report}");
}

/// Who reads a file in another way than it says, or fills a gap in it, must be told.
#[test]
fn what_is_taken_in_place_of_the_file_s_word_is_said() {
    let (_directory, path) = changed(|entries| drop(entries.remove("tokenizer.ggml.pre")), |_, _| {});
    for args in [&["run", "hi", "-n", "1"][..], &["tokenize", "hi"], &["embed", "hi"], &["verify"]] {
        let output = output(args.iter().chain(&["--model", text(&path)]));
        output.succeeds();
        assert!(output.notes().contains("tokenizer.ggml.pre"), "{args:?}: {}", output.notes());
    }
}

#[test]
fn a_truncated_file_is_refused() {
    let (_directory, path) = changed(|_| {}, |_, _| {});
    let whole = std::fs::read(&path).expect("readable");
    for length in [0, 3, 20, 1000, whole.len() / 2, whole.len() - 40] {
        std::fs::write(&path, &whole[..length]).expect("writable");
        fails(&path, "run", &["changed.gguf"]);
        fails(&path, "inspect", &["changed.gguf"]);
    }
}

#[test]
fn odd_files_are_refused_each_with_its_own_words() {
    for (name, words) in [
        ("example-draft.gguf", "reversed"),
        ("lfs-pointer.gguf", "Git LFS"),
        ("vocab-llama-v1.gguf", "version 1"),
        ("vocab-llama-magic-reversed.gguf", "reversed"),
        ("bitnet-rs-mini.gguf", "bitnet-rs-mini.gguf"),
        ("truncated-header.gguf", "truncated-header.gguf"),
        ("tensor-data-missing.gguf", "tensor-data-missing.gguf"),
    ] {
        let Some(path) = shared(&format!("data/odd-files/{name}")) else { return };
        fails(&path, "inspect", &[words]);
    }
}

#[test]
fn encodings_print_as_they_are_given_to_convert() {
    for encoding in [Encoding::Tq1_0, Encoding::Tq2_0, Encoding::Q2_0] {
        assert_eq!(encoding.to_string().to_lowercase().parse::<Encoding>().expect("a name"), encoding);
    }
}
