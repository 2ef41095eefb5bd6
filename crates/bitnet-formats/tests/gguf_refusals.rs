//! Files made by hand, each with one thing wrong: every check of formats.md §1.4 refuses in its own words.

mod support;

use bitnet_formats::{Checkpoint, Encoding, I2sLayout, OpenOptions, TileParams};
use proptest::prelude::*;
use std::collections::BTreeMap;
use support::{RawGguf, array, info, pair, string};

fn open(file: &RawGguf) -> Result<Checkpoint, String> {
    Checkpoint::from_gguf_bytes(file.bytes().into()).map_err(|e| e.to_string())
}

#[track_caller]
fn assert_refused(file: &RawGguf, parts: &[&str]) {
    let message = open(file).expect_err("must be refused");
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

/// The worked example with one change.
fn example(change: impl FnOnce(&mut RawGguf)) -> RawGguf {
    let mut file = RawGguf::example();
    change(&mut file);
    file
}

#[test]
fn the_example_itself_opens() {
    let bytes = RawGguf::example().bytes();
    assert_eq!(bytes.len(), 224);
    assert_eq!(bytes[0x46..0x4e], [0x12, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[0x89..0x92], [1, 0, 0, 0, 0, 0, 0, 0, b't']);
    let checkpoint = Checkpoint::from_gguf_bytes(bytes.into()).unwrap();
    let tensor = &checkpoint.tensors["t"];
    assert_eq!((tensor.encoding, tensor.shape.as_slice()), (Encoding::F32, &[2][..]));
    assert_eq!(tensor.bytes[..], [0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]);
}

#[test]
fn every_truncation_is_refused() {
    let bytes = RawGguf::example().bytes();
    // The 24 bytes of padding after the last tensor may be missing.
    for len in 0..bytes.len() {
        let result = Checkpoint::from_gguf_bytes(bytes[..len].to_vec().into());
        assert_eq!(result.is_ok(), len >= 224 - 24, "{len} bytes");
    }
}

#[test]
fn check_1_magic_and_version() {
    assert_refused(&example(|f| f.magic = *b"GGML"), &["<memory>", "not a GGUF file", "47, 47, 4d, 4c"]);
    assert_refused(&example(|f| f.magic = *b"FUGG"), &["reversed"]);
    assert_refused(&example(|f| f.version = 1), &["GGUF version 1", "convert"]);
    assert_refused(&example(|f| f.version = 0), &["GGUF version 0 is unknown"]);
    assert_refused(&example(|f| f.version = 4), &["GGUF version 4 is unknown"]);
    assert_refused(&example(|f| f.version = 3u32.swap_bytes()), &["byte-swapped", "version 3 of a big-endian file"]);
    assert!(open(&example(|f| f.version = 2)).is_ok());
}

#[test]
fn check_2_lying_counts() {
    for count in [10, 1 << 40, u64::MAX] {
        assert_refused(&example(|f| f.tensor_count = Some(count)), &["declares", "more than its 224 bytes can hold"]);
    }
    for count in [20, 1 << 40, u64::MAX] {
        assert_refused(&example(|f| f.pair_count = Some(count)), &["declares", "more than its 224 bytes can hold"]);
    }
    // one more than there are: runs into what follows
    assert!(open(&example(|f| f.pair_count = Some(4))).is_err());
    assert!(open(&example(|f| f.tensor_count = Some(2))).is_err());
    // true, and still no model
    let pairs = |count: usize| example(|f| f.pairs = (0..count).map(|i| pair(&format!("k{i}"), 7, &[1])).collect());
    assert!(open(&pairs(1 << 14)).is_ok());
    assert_refused(&pairs((1 << 14) + 1), &["16385 metadata pairs", "16384 allowed"]);
}

#[test]
fn check_3_lengths() {
    let claim = |len: u64| len.to_le_bytes().to_vec();
    assert_refused(&RawGguf::with_pair([claim(65536), vec![b'k'; 65536 + 5]].concat()), &["65536 bytes", "65535"]);
    assert_refused(&RawGguf::with_pair([claim(u64::MAX), vec![0; 8]].concat()), &["18446744073709551615", "65535"]);
    assert_refused(&RawGguf::with_pair(pair("k", 8, &claim(u64::MAX))), &["the value of k", "needs 184467440737"]);
    assert_refused(&RawGguf::with_pair(pair("k", 8, &claim(1))), &["needs 1 bytes", "only 0 more"]);
    let name = "n".repeat(64);
    assert_refused(&RawGguf::with_tensors(&[(&name, &[8], 0, 0)], 32), &["tensor name", "64 bytes", "63 allowed"]);
    assert!(open(&RawGguf::with_tensors(&[(&name[..63], &[8], 0, 0)], 32)).is_ok());
    let key = "k".repeat(65535);
    assert!(open(&RawGguf::with_pair(pair(&key, 0, &[1]))).is_ok());
}

#[test]
fn check_4_arrays() {
    let with = |kind, count, elements: &[u8]| RawGguf::with_pair(pair("k", 9, &array(kind, count, elements)));
    assert_refused(&with(4, (1 << 30) + 1, &[0; 8]), &["metadata k", "1073741825 elements", "1073741824 allowed"]);
    assert_refused(&with(4, u64::MAX, &[0; 8]), &["metadata k", "elements"]);
    assert_refused(&with(4, 3, &[0; 8]), &["the array k", "needs 12 bytes", "only 8 more"]);
    assert_refused(&with(12, 1 << 30, &[0; 8]), &["needs 8589934592 bytes"]);
    assert_refused(&with(8, 1 << 29, &[0; 8]), &["metadata k", "claims 536870912 strings"]);
    assert_refused(&with(8, 1, &u64::MAX.to_le_bytes()), &["a string of the array k"]);
    assert_refused(&with(9, 1, &array(0, 1, &[0])), &["metadata k", "arrays of arrays"]);
    assert_refused(&with(13, 1, &[0; 8]), &["metadata k", "element type 13 is unknown"]);
    assert!(open(&with(8, 0, &[])).is_ok());
}

#[test]
fn check_5_keys_and_value_types() {
    assert_refused(&RawGguf::with_pair(pair("k", 13, &[0; 8])), &["metadata k", "value type 13", "unknown"]);
    assert_refused(&RawGguf::with_pair(pair("", 0, &[0])), &["metadata key", "empty"]);
    // A terminal that showed this name would be cleared.
    assert_refused(
        &RawGguf::with_pair(pair("k\x1b[2J", 0, &[0])),
        &["metadata key \"k\\u{1b}[2J\"", "control characters"],
    );
    let twice = example(|f| f.pairs.push(pair("a", 0, &[0])));
    assert_refused(&twice, &["metadata a", "stands twice"]);
    assert_refused(&RawGguf::with_pair(pair("k", 7, &[2])), &["metadata k", "expected a bool (0 or 1), found 2"]);
    assert_refused(&RawGguf::with_pair(pair("k", 9, &array(7, 2, &[1, 255]))), &["metadata k", "found 255"]);
    assert_refused(&RawGguf::with_pair(pair("k", 8, &string(&[0xff]))), &["the value of k", "UTF-8"]);
    let strings = array(8, 1, &string(&[b'a', 0xc3]));
    assert_refused(&RawGguf::with_pair(pair("k", 9, &strings)), &["a string of the array k", "UTF-8"]);
    let mut key = pair("kk", 0, &[0]);
    key[8] = 0xff;
    assert_refused(&RawGguf::with_pair(key), &["metadata key", "UTF-8"]);
    assert_refused(&example(|f| f.infos[0][8] = 0xff), &["tensor name", "UTF-8"]);
}

#[test]
fn check_6_tokenizer_arrays() {
    let with = |key: &str, value: Vec<u8>| {
        let mut file = RawGguf::with_pair(pair(&format!("tokenizer.ggml.{key}"), 9, &value));
        let tokens = array(8, 2, &[string(b"a"), string(b"b")].concat());
        file.pairs.push(pair("tokenizer.ggml.tokens", 9, &tokens));
        file
    };
    assert!(open(&with("scores", array(6, 2, &[0; 8]))).is_ok());
    assert!(open(&with("token_type", array(5, 2, &[0; 8]))).is_ok());
    assert_refused(&with("scores", array(0, 2, &[0; 2])), &["scores", "expected an array of f32, found array of u8"]);
    assert_refused(&with("token_type", array(1, 2, &[0; 2])), &["token_type", "expected an array of i32"]);
    assert_refused(&with("merges", array(5, 2, &[0; 8])), &["merges", "expected an array of string"]);
    assert_refused(&with("scores", array(6, 3, &[0; 12])), &["scores", "3 elements for 2 tokens"]);
    assert_refused(&with("token_type", array(5, 1, &[0; 4])), &["token_type", "1 elements for 2 tokens"]);
    let tokens = RawGguf::with_pair(pair("tokenizer.ggml.tokens", 9, &array(5, 2, &[0; 8])));
    assert_refused(&tokens, &["tokenizer.ggml.tokens", "expected an array of string, found array of i32"]);
}

#[test]
fn check_7_alignment() {
    let with = |kind, value: &[u8]| example(|f| f.pairs.push(pair("general.alignment", kind, value)));
    for wrong in [0, 3, 48, 1 << 17] {
        let parts = ["general.alignment", "power of two up to 65536", &wrong.to_string()];
        assert_refused(&with(4, &u32::to_le_bytes(wrong)), &parts);
    }
    assert_refused(&with(10, &32u64.to_le_bytes()), &["general.alignment", "expected u32, found u64"]);
    let mut aligned = with(4, &1u32.to_le_bytes());
    aligned.alignment = 1;
    assert!(open(&aligned).is_ok());
}

#[test]
fn check_8_shapes() {
    let with = |dims: &[u64], kind| RawGguf::with_tensors(&[("t", dims, kind, 0)], 64);
    assert_refused(&with(&[], 0), &["tensor t", "1 to 4 dimensions, found 0"]);
    assert_refused(&with(&[1; 5], 0), &["tensor t", "1 to 4 dimensions, found 5"]);
    let mut absurd = with(&[1], 0);
    absurd.infos[0][9..13].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_refused(&absurd, &["1 to 4 dimensions, found 4294967295"]);
    assert_refused(&with(&[4, 0], 0), &["tensor t", "found 0"]);
    assert_refused(&with(&[1 << 63], 0), &["tensor t", "dimension from 1 to 2^63 - 1"]);
    assert_refused(&with(&[u64::MAX], 0), &["tensor t", "dimension from 1 to 2^63 - 1"]);
    assert_refused(&with(&[1 << 32, 1 << 32], 0), &["tensor t", "overflows 63 bits"]);
    assert_refused(&with(&[4, (1 << 62) + 1], 0), &["tensor t", "overflows 63 bits"]);
    assert_refused(&with(&[1 << 62], 0), &["tensor t", "does not fit into memory"]);
    assert_refused(&with(&[33], 8), &["tensor t", "32"]);
    assert_refused(&with(&[128], 35), &["tensor t", "256"]);
    assert_refused(&with(&[(1 << 63) - 1], 24), &["tensor t", "cut off"]);
}

#[test]
fn check_9_places() {
    assert_refused(&RawGguf::with_tensors(&[("t", &[2], 0, 8)], 64), &["tensor t", "offset 8 is not a multiple"]);
    assert_refused(&RawGguf::with_tensors(&[("t", &[2], 0, 64)], 32), &["tensor t", "byte 64", "cut off"]);
    assert_refused(&RawGguf::with_tensors(&[("t", &[2], 0, u64::MAX - 31)], 32), &["tensor t", "cut off"]);
    assert_refused(&RawGguf::with_tensors(&[("t", &[9], 0, 0)], 32), &["tensor t", "needs bytes 0..36", "32 bytes"]);
    let overlap = RawGguf::with_tensors(&[("a", &[9], 0, 0), ("b", &[8], 0, 32)], 96);
    assert_refused(&overlap, &["tensor a", "36 bytes at offset 0 overlap the next tensor, 32 bytes further"]);
    let same = RawGguf::with_tensors(&[("a", &[8], 0, 32), ("b", &[8], 0, 32)], 96);
    assert_refused(&same, &["overlap"]);
    // Neither order nor gaps matter.
    let gap = RawGguf::with_tensors(&[("a", &[8], 0, 96), ("b", &[8], 0, 0)], 128);
    assert_eq!(open(&gap).unwrap().tensors.len(), 2);
}

#[test]
fn check_10_names_and_types() {
    let twice = RawGguf::with_tensors(&[("t", &[8], 0, 0), ("t", &[8], 0, 32)], 64);
    assert_refused(&twice, &["tensor t", "stands twice"]);
    assert_refused(&RawGguf::with_tensors(&[("", &[8], 0, 0)], 64), &["tensor name", "empty"]);
    assert_refused(&RawGguf::with_tensors(&[("t\n", &[8], 0, 0)], 64), &["tensor name \"t\\n\"", "control characters"]);
    for (kind, words) in [
        (4, "type 4 is unknown"),
        (10, "type 10 (Q2_K) is not supported"),
        (31, "type 31 (Q4_0_4_4) was removed"),
        (32, "type 32 (Q4_0_4_8) was removed"),
        (33, "type 33 (Q4_0_8_8) was removed"),
        (37, "type 37 (I8_S) holds activations"),
        (40, "type 40 (NVFP4) is not supported"),
        (41, "type 41 (Q1_0) is not supported"),
        (143, "type 143 (PTQ1_0) holds rotated weights (prism.hadamard.*)"),
        (u32::MAX, "type 4294967295 is unknown"),
    ] {
        let file = RawGguf::with_tensors(&[("ok", &[8], 0, 0), ("blk.0.w", &[256], kind, 32)], 1024);
        assert_refused(&file, &["tensor blk.0.w", words]);
    }
}

/// Opening a pipe would wait for a writer.
#[test]
#[cfg(unix)]
fn pipes_are_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = Checkpoint::open(&pipe).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
}

#[test]
fn rotated_models_are_refused() {
    let rotated = example(|f| f.pairs.push(pair("prism.hadamard.version", 4, &1u32.to_le_bytes())));
    assert_refused(&rotated, &["metadata prism.hadamard.version", "rotated", "not supported"]);
}

#[test]
fn check_11_vocabulary_size() {
    let with = |size: u32, tensors: &[Vec<u8>]| {
        example(|f| {
            f.pairs.push(pair("bitnet.vocab_size", 4, &size.to_le_bytes()));
            f.infos = tensors.to_vec();
        })
    };
    assert_refused(&with(7, &[]), &["bitnet.vocab_size", "declares 7 tokens", "has none"]);
    let embedding = [info("token_embd.weight", &[2, 3], 0, 0)];
    assert_refused(&with(7, &embedding), &["bitnet.vocab_size", "declares 7 tokens", "has 3 rows"]);
    assert!(open(&with(3, &embedding)).is_ok());
}

/// Offsets of `count` equal tensors of `len` bytes, each padded to 32, and the size of all.
fn row_of_tensors(kind: u32, dims: &[u64], len: usize, count: usize) -> RawGguf {
    let step = len.next_multiple_of(32);
    let names: Vec<String> = (0..count).map(|i| format!("t{i}")).collect();
    let tensors: Vec<_> = names.iter().enumerate().map(|(i, n)| (n.as_str(), dims, kind, (i * step) as u64)).collect();
    RawGguf::with_tensors(&tensors, count * step)
}

#[test]
fn type_42_is_told_by_the_distances() {
    let kind = |file: &RawGguf| open(file).map(|c| c.tensors["t0"].encoding);
    // 256 x 4 values: 288 bytes in groups of 64, 272 (padded to 288 as well!) in groups of 128.
    assert!(kind(&row_of_tensors(42, &[256, 4], 288, 2)).unwrap_err().contains("too small to tell"));
    assert_eq!(kind(&row_of_tensors(42, &[256, 8], 576, 2)), Ok(Encoding::Q2_0));
    assert_eq!(kind(&row_of_tensors(42, &[256, 8], 544, 2)), Ok(Encoding::Q2_0Legacy));
    // Rows of 64 cannot be groups of 128.
    assert_eq!(kind(&row_of_tensors(42, &[64, 1], 18, 1)), Ok(Encoding::Q2_0));
    // One telling tensor decides for a small one.
    let mut mixed = row_of_tensors(42, &[256, 4], 288, 1);
    mixed.infos.push(info("t1", &[256, 8], 42, 288));
    mixed.data.resize(288 + 544, 0);
    assert_eq!(kind(&mixed), Ok(Encoding::Q2_0Legacy));
    // The last tensor may lack its padding.
    let mut bare = row_of_tensors(42, &[256, 4], 288, 1);
    bare.data.truncate(272);
    assert_eq!(kind(&bare), Ok(Encoding::Q2_0Legacy));
    let damaged = kind(&row_of_tensors(42, &[256, 8], 640, 2)).unwrap_err();
    assert!(damaged.contains("tensor t0") && damaged.contains("fit neither"), "{damaged}");
}

#[test]
fn lookup_table_types_need_their_parameters() {
    // TL1: 256 x 512 / 4 + 32; TL2 by formats.md §2.3: ((512-256)*256/3)*5/8 + (256*256/2)*4/8, to 32, + 32.
    let tl1 = row_of_tensors(38, &[512, 256], 32800, 1);
    let tl2_len = (256 * 256 / 3 * 5 / 8 + 256 * 256 / 2 * 4 / 8_usize).next_multiple_of(32) + 32;
    let tl2 = row_of_tensors(39, &[512, 256], tl2_len, 1);
    assert_refused(&tl1, &["tensor t0", "38 (TL1)", "tile parameters", "256x512"]);
    assert_refused(&tl2, &["tensor t0", "39 (TL2)", "tile parameters", "256x512"]);
    assert_refused(&row_of_tensors(39, &[512, 256], 512 * 256 / 32 * 17, 1), &["tensor t0", "MXFP4", "not supported"]);
    assert_refused(&row_of_tensors(39, &[512, 256], 512, 1), &["tensor t0", "TL2", "MXFP4", "spans 512 bytes"]);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tl.gguf");
    let encoding = |file: &RawGguf, params| {
        std::fs::write(&path, file.bytes()).unwrap();
        let options = OpenOptions { tile_params: BTreeMap::from([((256, 512), params)]), ..OpenOptions::default() };
        Checkpoint::open_with(&path, &options).map(|c| c.tensors["t0"].encoding).map_err(|e| e.to_string())
    };
    let params = TileParams { bm_tile: 256, bk_tile: 128, bm: 32 };
    assert_eq!(encoding(&tl1, params), Ok(Encoding::Tl1(params)));
    let params = TileParams { bm_tile: 256, bk_tile: 96, bm: 32 };
    assert_eq!(encoding(&tl2, params), Ok(Encoding::Tl2(params)));
}

#[test]
fn i2s_takes_the_layout_that_is_asked_for() {
    let file = row_of_tensors(36, &[128, 4], 160, 1);
    assert_eq!(open(&file).unwrap().tensors["t0"].encoding, Encoding::I2S(I2sLayout::X86));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("i2s.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    let options = OpenOptions { i2s_layout: I2sLayout::Arm, ..OpenOptions::default() };
    let checkpoint = Checkpoint::open_with(&path, &options).unwrap();
    assert_eq!(checkpoint.tensors["t0"].encoding, Encoding::I2S(I2sLayout::Arm));
}

proptest! {
    /// Whatever one byte or the length becomes: an error or a checkpoint, never a panic.
    #[test]
    fn damage_never_panics(at in 0usize..10_000, to in any::<u8>(), len in 0usize..10_000) {
        let mut file = RawGguf::example();
        file.pairs.push(pair("s", 9, &array(8, 2, &[string(b"ab"), string(b"")].concat())));
        file.pairs.push(pair("b", 9, &array(7, 3, &[0, 1, 1])));
        file.infos.push(info("u", &[64, 2], 42, 32));
        file.infos.push(info("v", &[128, 1, 2], 36, 32 + 64));
        file.data.resize(32 + 64 + 96, 0);
        let mut bytes = file.bytes();
        prop_assert!(Checkpoint::from_gguf_bytes(bytes.clone().into()).is_ok());
        let (at, len) = (at % bytes.len(), len % (2 * bytes.len()));
        bytes[at] = to;
        bytes.truncate(len);
        let _ = Checkpoint::from_gguf_bytes(bytes.into());
    }
}
