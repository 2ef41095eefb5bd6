//! llama2.c checkpoints.

mod support;

use bitnet_formats::{Checkpoint, Encoding, Source};
use std::path::PathBuf;
use support::shared;

#[test]
fn both_versions_of_stories260k_hold_the_same_tensors() {
    let Some(v0) = shared("data/models/stories260K/stories260K.bin") else { return };
    let Some(v1) = shared("data/models/stories260K/stories260K-v1.bin") else { return };
    let (v0, v1) = (Checkpoint::open(&v0).unwrap(), Checkpoint::open(&v1).unwrap());
    for (checkpoint, version) in [(&v0, 0), (&v1, 1)] {
        let Source::Llama2c(header) = &checkpoint.source else { panic!("not llama2.c") };
        let sizes = (header.dim, header.hidden_dim, header.n_layers, header.n_heads, header.n_kv_heads);
        assert_eq!((header.version, sizes), (version, (64, 172, 5, 8, 4)));
        assert_eq!((header.vocab_size, header.seq_len, header.shared_classifier), (512, 512, true));
    }
    assert_eq!(v0.tensors.len(), 5 * 9 + 2);
    assert_eq!(v0.tensors["model.layers.4.self_attn.k_proj.weight"].shape, [32, 64]);
    assert_eq!(v0.tensors["model.layers.0.mlp.down_proj.weight"].shape, [64, 172]);
    assert!(v0.tensors.keys().eq(v1.tensors.keys()));
    for (name, tensor) in &v0.tensors {
        let other = &v1.tensors[name];
        assert_eq!((tensor.encoding, &tensor.shape), (Encoding::F32, &other.shape), "{name}");
        assert_eq!(tensor.bytes, other.bytes, "{name}");
    }
}

/// dim 4, hidden 6, 2 layers, 2 heads, 1 key/value head, 3 tokens, 5 positions.
const SIZES: [i32; 7] = [4, 6, 2, 2, 1, 3, 5];
/// Embedding, norms, attention (4x4 + 2x4 + 2x4 + 4x4), feed-forward.
const VALUES: usize = 3 * 4 + (2 + 2 + 1) * 4 + 2 * (16 + 8 + 8 + 16) + 2 * 3 * 24;

/// A file whose value number `i` is `i`.
fn file(version: u32, sizes: [i32; 7], shared: bool, values: usize) -> Vec<u8> {
    let mut out = Vec::new();
    if version > 0 {
        out.extend_from_slice(b"24ka");
        out.extend_from_slice(&version.to_le_bytes());
    }
    sizes.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
    if version > 0 {
        out.push(u8::from(shared));
        out.resize(256, 0);
    }
    (0..values).for_each(|i| out.extend_from_slice(&(i as f32).to_le_bytes()));
    out
}

fn open(bytes: &[u8]) -> Result<Checkpoint, String> {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("model.bin");
    std::fs::write(&path, bytes).unwrap();
    Checkpoint::open(&path).map_err(|e| e.to_string())
}

/// The first value of a tensor: its place in the file.
fn first(checkpoint: &Checkpoint, name: &str) -> f32 {
    f32::from_le_bytes(checkpoint.tensors[name].bytes[..4].try_into().unwrap())
}

#[test]
fn a_head_of_its_own_follows_everything() {
    // Version 0 says so by a negative vocabulary; its tables of cosines and sines (5 positions of 1 pair) are skipped.
    let mut sizes = SIZES;
    sizes[5] = -3;
    let v0 = open(&file(0, sizes, false, VALUES + 2 * 5 + 12)).unwrap();
    assert_eq!(first(&v0, "lm_head.weight"), (VALUES + 10) as f32);
    assert_eq!(first(&v0, "model.layers.1.input_layernorm.weight"), 16.0);
    assert_eq!(first(&v0, "model.layers.0.self_attn.q_proj.weight"), 20.0);
    assert_eq!(first(&v0, "model.norm.weight"), (VALUES - 4) as f32);
    let v1 = open(&file(1, SIZES, false, VALUES + 12)).unwrap();
    assert_eq!(first(&v1, "lm_head.weight"), VALUES as f32);
    assert_eq!(first(&v1, "model.norm.weight"), 16.0);
    assert_eq!(first(&v1, "model.embed_tokens.weight"), 20.0);
    assert_eq!(first(&v1, "model.layers.1.self_attn.v_proj.weight"), (32 + 32 + 16 + 8) as f32);
    for checkpoint in [v0, v1] {
        let Source::Llama2c(header) = checkpoint.source else { panic!("not llama2.c") };
        assert_eq!((header.shared_classifier, header.vocab_size), (false, 3));
        assert_eq!(checkpoint.tensors["lm_head.weight"].shape, [3, 4]);
    }
}

#[test]
fn damaged_files_are_refused() {
    let assert_refused = |bytes: &[u8], part: &str| {
        let message = open(bytes).expect_err("must be refused");
        assert!(message.contains("model.bin") && message.contains(part), "{message:?} lacks {part:?}");
    };
    let v1 = file(1, SIZES, true, VALUES);
    assert!(open(&v1).is_ok());
    assert_refused(&v1[..v1.len() - 1], "where its llama2.c header needs");
    assert_refused(&[&v1[..], &[0]].concat(), "where its llama2.c header needs");
    assert_refused(&v1[..30], "the header is cut off");
    assert_refused(&v1[..6], "the header is cut off");
    assert_refused(&file(2, SIZES, true, VALUES), "version 2 (int8 groups) is not supported");
    assert_refused(&file(7, SIZES, true, VALUES), "version 7 is unknown");
    for (field, wrong) in [(0, 0), (1, -6), (2, 513), (3, 3), (3, 4), (4, 0), (5, -3), (6, i32::MIN)] {
        let mut sizes = SIZES;
        sizes[field] = wrong;
        assert_refused(&file(1, sizes, true, VALUES), "impossible sizes");
    }
    assert_refused(&file(1, [1 << 30, i32::MAX, 512, 2, 1, i32::MAX, 5], true, 1), "needs more than can be counted");
    // Version 0 has no magic: what does not add up is of an unknown kind.
    let v0 = file(0, SIZES, true, VALUES + 10);
    assert!(open(&v0).is_ok());
    assert_refused(&v0[..v0.len() - 4], "unknown kind");
    assert_refused(&file(0, [i32::MIN; 7], true, 1), "unknown kind");
}

#[test]
fn other_kinds_are_told_what_can_be_read() {
    let kinds = "expected a GGUF file, a Hugging Face directory (config.json and safetensors) or a llama2.c .bin";
    for (bytes, part) in [
        (&b""[..], "is empty"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"{\"a\": 1}", "is a JSON file"),
        (b"GG", "unknown kind: it starts with [47, 47]"),
        (b"hello world", "unknown kind"),
    ] {
        let message = open(bytes).unwrap_err();
        assert!(message.contains(part) && message.contains(kinds), "{message:?} lacks {part:?}");
    }
    let missing = Checkpoint::open("/no/such/file.gguf".as_ref()).unwrap_err().to_string();
    assert!(missing.starts_with("/no/such/file.gguf: "), "{missing}");
    #[cfg(target_os = "linux")]
    {
        let device = Checkpoint::open("/dev/null".as_ref()).unwrap_err().to_string();
        assert!(device.contains("/dev/null: not a regular file"), "{device}");
    }
}
