//! Old, damaged and non-conforming files: each is refused with a message of its own.

mod support;

use bitnet_formats::{Checkpoint, Source};
use support::shared;

/// The refusal of an odd file.
fn refusal(name: &str) -> Option<String> {
    let path = shared(&format!("data/odd-files/{name}"))?;
    let message = Checkpoint::open(&path).expect_err(name).to_string();
    assert!(message.contains(name), "{message:?} does not name the file");
    Some(message)
}

fn assert_refused(name: &str, parts: &[&str]) {
    let Some(message) = refusal(name) else { return };
    for part in parts {
        assert!(message.contains(part), "{name}: {message:?} lacks {part:?}");
    }
}

#[test]
fn vocabulary_size_without_vocabulary() {
    assert_refused("bitnet-rs-corrupted-tokenizer.gguf", &["llama.vocab_size", "declares 32000 tokens", "has none"]);
}

#[test]
fn tokens_that_are_a_string() {
    assert_refused(
        "bitnet-rs-llama3-128k.gguf",
        &["tokenizer.ggml.tokens", "expected an array of string, found string"],
    );
}

#[test]
fn lengths_that_make_no_sense() {
    assert_refused("bitnet-rs-mini.gguf", &["a metadata key at byte 24", "claims 962072674336 bytes", "65535"]);
}

#[test]
fn draft_with_reversed_magic() {
    assert_refused("example-draft.gguf", &["reversed (FUGG, expected GGUF)"]);
    assert_refused("vocab-llama-magic-reversed.gguf", &["reversed (FUGG, expected GGUF)"]);
}

#[test]
fn git_lfs_pointer() {
    assert_refused("lfs-pointer.gguf", &["Git LFS pointer", "git lfs pull"]);
}

#[test]
fn tensor_without_data() {
    assert_refused("tensor-data-missing.gguf", &["tensor test.weight.0", "cut off"]);
}

#[test]
fn undefined_value_type() {
    assert_refused("test_writer.gguf", &["metadata dict1", "value type 13", "unknown"]);
}

#[test]
fn truncated_header() {
    assert_refused("truncated-header.gguf", &["the version at byte 4 needs 4 bytes", "has only 2 more"]);
}

#[test]
fn version_1_is_named() {
    assert_refused("vocab-llama-v1.gguf", &["GGUF version 1", "versions 2 and 3 can be read", "convert"]);
}

#[test]
fn a_damaged_json_file_is_no_model() {
    assert_refused("bitnet-rs-corrupted-tokenizer.json", &["is a JSON file", "expected a GGUF file"]);
}

#[test]
fn version_2_opens_and_says_so() {
    let Some(path) = shared("data/odd-files/vocab-falcon-v2.gguf") else { return };
    let checkpoint = Checkpoint::open(&path).unwrap();
    let Source::Gguf(metadata) = checkpoint.source else { panic!("not GGUF") };
    assert_eq!(metadata.version, 2);
    assert_eq!(metadata.string("general.architecture").unwrap(), Some("falcon"));
    assert!(checkpoint.tensors.is_empty());
}

#[test]
fn vocabulary_only_files_open() {
    for (name, tokens) in
        [("bert-bge", 30522), ("falcon", 65024), ("gpt-2", 50257), ("llama-spm", 32000), ("phi-3", 32064)]
    {
        let Some(path) = shared(&format!("data/tokenizers/ggml-vocab/{name}.gguf")) else { return };
        let checkpoint = Checkpoint::open(&path).unwrap();
        let Source::Gguf(metadata) = checkpoint.source else { panic!("not GGUF") };
        assert_eq!(metadata.version, 3, "{name}");
        assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap().len(), tokens, "{name}");
        assert!(checkpoint.tensors.is_empty());
    }
}
