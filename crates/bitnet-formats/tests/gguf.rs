//! GGUF files written by other programs, by hand and by this crate.

mod support;

use bitnet_formats::{Checkpoint, Source};
use support::shared;

#[test]
fn real_files_open() {
    let Some(path) = shared("data/models/empty.gguf") else { return };
    let empty = Checkpoint::open(&path).unwrap();
    assert!(empty.tensors.is_empty());
    let Source::Gguf(metadata) = empty.source else { panic!("not GGUF") };
    assert_eq!(metadata.entries().len(), 1);
    assert_eq!(metadata.string("general.architecture").unwrap(), Some("llama"));

    let Some(path) = shared("data/models/llama-2-tiny-random.gguf") else { return };
    let tiny = Checkpoint::open(&path).unwrap();
    assert_eq!(tiny.tensors.len(), 12);
    let Source::Gguf(metadata) = tiny.source else { panic!("not GGUF") };
    assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap().len(), 32000);
    for name in ["bitnet-tq2_0", "llama-q2_0-g64", "llama-q4_k_m", "llama-q8_0", "llama-tq1_0", "llama-tq2_0"] {
        let Some(path) = shared(&format!("crossval/gguf/{name}.gguf")) else { return };
        Checkpoint::open(&path).unwrap();
    }
}
