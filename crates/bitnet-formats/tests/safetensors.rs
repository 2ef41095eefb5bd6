//! safetensors files and Hugging Face directories.

mod support;

use bitnet_formats::safetensors::{parse, write};
use bitnet_formats::{Checkpoint, Encoding, FormatError, Source, TensorSource};
use bytes::Bytes;
use proptest::prelude::*;
use std::path::Path;
use support::shared;

/// A file of a header and zeros.
fn file(header: &str, data_len: usize) -> Bytes {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data_len]].concat().into()
}

/// A valid file with one U8 tensor of four bytes per name.
fn file_with(names: &[&str]) -> Bytes {
    let entry = |(i, name): (usize, &&str)| {
        format!(r#""{name}":{{"dtype":"U8","shape":[2,2],"data_offsets":[{},{}]}}"#, 4 * i, 4 * i + 4)
    };
    let entries: Vec<_> = names.iter().enumerate().map(entry).collect();
    file(&format!("{{{}}}", entries.join(",")), 4 * names.len())
}

#[track_caller]
fn assert_refused(bytes: &Bytes, parts: &[&str]) {
    let message = parse("x.safetensors", bytes).expect_err("must be refused").to_string();
    for part in ["x.safetensors"].iter().chain(parts) {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let one = |dtype: &str, shape: &str, from: u64, to: u64, data_len| {
        file(&format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}}}"#), data_len)
    };
    assert_eq!(parse("x", &one("F16", "[2,3]", 0, 12, 12)).unwrap()["w"].shape, [2, 3]);
    assert_refused(&Bytes::from_static(b"\x01\0\0"), &["3 bytes are too few"]);
    assert_refused(&Bytes::from_static(b"\xff\0\0\0\0\0\0\0{}"), &["claims 255 bytes, but 2 follow"]);
    assert_refused(&Bytes::from_static(b"\xff\xff\xff\xff\xff\xff\xff\xff{}"), &["claims 18446744073709551615 bytes"]);
    let oversized = [&100_000_001u64.to_le_bytes()[..], &vec![b' '; 100_000_001]].concat();
    assert_refused(&oversized.into(), &["claims 100000001 bytes", "100000000 are allowed"]);
    assert_refused(&file("[1]", 0), &["header is not valid"]);
    assert_refused(&file(r#"{"w":"#, 0), &["header is not valid"]);
    assert_refused(&file(r#"{"w":{"dtype":"F16","shape":[1]}}"#, 2), &["header is not valid", "data_offsets"]);
    assert_refused(&one("F16", "[-1]", 0, 2, 2), &["header is not valid"]);
    assert_refused(&one("F16", "[1]", 2, 4, 4), &["tensor w", "expected to start at 0", "holes"]);
    assert_refused(&one("F16", "[1]", 0, 2, 4), &["end at byte 2 of 4"]);
    assert_refused(&one("F16", "[2]", 0, 4, 2), &["tensor w", "0..4 of 2 bytes", "cut off"]);
    assert_refused(&one("F16", "[3]", 0, 4, 4), &["tensor w", "4 bytes for shape [3] of F16"]);
    assert_refused(&one("F64", "[4611686018427387904,4]", 0, 0, 0), &["tensor w", "0 bytes for shape"]);
    assert_refused(&one("F16", "[1]", u64::MAX - 1, u64::MAX, 2), &["tensor w", "of 2 bytes"]);
    assert_refused(&one("F8_E4M3", "[2]", 0, 2, 2), &["tensor w", "F8_E4M3 is not supported", "BF16"]);
    assert_refused(&one("BOOL", "[2]", 0, 2, 2), &["tensor w", "BOOL is not supported"]);
    assert_refused(&one("F16", "[1,1,1,1,1,1,1,1,1]", 0, 2, 2), &["tensor w", "at most 8 dimensions, found 9"]);
    assert_refused(&file_with(&["a\\n"]), &["tensor name \"a\\n\"", "control characters"]);
    assert_refused(&file_with(&["a", "b", "a"]), &["tensor a stands twice"]);
    let overlap = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
        "b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
    assert_refused(&file(overlap, 6), &["tensor b", "2..6", "expected to start at 4"]);
    assert_refused(&Bytes::from_static(b"version https://git-lfs.github.com/spec/v1\n"), &["Git LFS pointer"]);
}

#[test]
fn a_real_file_agrees_with_the_reference_reader() {
    for name in ["data/models/jfk-codes.safetensors", "crossval/quantize.safetensors"] {
        let Some(path) = shared(name) else { return };
        let bytes = Bytes::from(std::fs::read(path).unwrap());
        let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensors = parse(name, &bytes).unwrap();
        assert_eq!(tensors.len(), reference.len());
        for (name, tensor) in &tensors {
            let view = reference.tensor(name).unwrap();
            assert_eq!((tensor.shape.as_slice(), &tensor.bytes[..]), (view.shape(), view.data()), "{name}");
        }
    }
}

#[test]
fn a_real_file_with_padding_outside_its_header_is_refused() {
    let Some(path) = shared("data/models/tiny.safetensors") else { return };
    let bytes = Bytes::from(std::fs::read(path).unwrap());
    assert!(safetensors::SafeTensors::deserialize(&bytes).is_err());
    assert_refused(&bytes, &["end at byte 32768 of 32773", "the rest has no name"]);
}

proptest! {
    /// Whatever stands in the header, we accept no file that the reference reader refuses.
    #[test]
    fn never_laxer_than_the_reference_reader(
        entries in prop::collection::vec(("[ab]", 0usize..4, 0usize..3, 0usize..3, 0usize..12, 0usize..12), 0..4),
        data_len in 0usize..16,
    ) {
        let entry = |(name, dtype, m, n, from, to): &(String, usize, usize, usize, usize, usize)| {
            let dtype = ["F32", "BF16", "U8", "I64"][*dtype];
            format!(r#""{name}":{{"dtype":"{dtype}","shape":[{m},{n}],"data_offsets":[{from},{to}]}}"#)
        };
        let entries: Vec<_> = entries.iter().map(entry).collect();
        let bytes = file(&format!("{{{}}}", entries.join(",")), data_len);
        let ours = parse("x", &bytes).is_ok();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).is_ok();
        prop_assert!(theirs || !ours);
    }

    /// Damage never panics.
    #[test]
    fn damage_is_an_error(at in 0usize..140, to in any::<u8>(), len in 0usize..140) {
        let mut bytes = file_with(&["a", "b"]).to_vec();
        let at = at % bytes.len();
        bytes[at] = to;
        bytes.truncate(len);
        let _ = parse("x", &bytes.into());
    }
}

#[track_caller]
fn assert_path_refused(path: &Path, parts: &[&str]) {
    let message = Checkpoint::open(path).expect_err("must be refused").to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn hugging_face_directories() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    assert_path_refused(dir.path(), &["directory without config.json", "Hugging Face"]);
    put("config.json", b"{");
    assert_path_refused(dir.path(), &["config.json", "not valid JSON"]);
    put("config.json", b"[]");
    assert_path_refused(dir.path(), &["config.json", "expected a JSON object"]);
    put("config.json", "[".repeat(100_000).as_bytes());
    assert_path_refused(dir.path(), &["config.json", "not valid JSON", "recursion limit"]);
    // zeros that take no room on the disk
    std::fs::File::create(dir.path().join("config.json")).unwrap().set_len((32 << 20) + 1).unwrap();
    assert_path_refused(dir.path(), &["config.json", "33554433 bytes", "33554432 allowed"]);
    put("config.json", br#"{"a": 1, "model_type": "bitnet", "a": 2}"#);
    assert_path_refused(dir.path(), &["neither model.safetensors nor", "convert"]);

    // A lone file under another name takes the config of its directory.
    put("other.safetensors", &file_with(&["w"]));
    let checkpoint = Checkpoint::open(&dir.path().join("other.safetensors")).unwrap();
    assert_eq!(checkpoint.tensors["w"].encoding, Encoding::U8);

    put("model.safetensors", &file_with(&["w", "v"]));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.tensors.len(), 2);
    let Source::HuggingFace(config) = checkpoint.source else { panic!("not Hugging Face") };
    assert_eq!(config.config["a"], 2, "the last of two keys counts");
    assert_eq!((config.dir.as_path(), config.pooling), (dir.path(), None));

    std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
    put("1_Pooling/config.json", br#"{"pooling_mode_lasttoken": true}"#);
    let Source::HuggingFace(config) = Checkpoint::open(dir.path()).unwrap().source else { panic!("not Hugging Face") };
    assert_eq!(config.pooling.unwrap()["pooling_mode_lasttoken"], true);

    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    assert_path_refused(&dir.path().join("model.safetensors"), &["without a config.json beside it"]);
}

#[test]
fn shards() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    let index = |map: &str| put("model.safetensors.index.json", format!(r#"{{"weight_map":{{{map}}}}}"#).as_bytes());
    put("config.json", b"{}");
    put("model-00001-of-00002.safetensors", &file_with(&["a", "b"]));
    put("model-00002-of-00002.safetensors", &file_with(&["c", "unlisted"]));
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");

    index(&format!(r#""a":"{first}","b":"{first}","c":"{second}""#));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.tensors.keys().collect::<Vec<_>>(), ["a", "b", "c"]);

    index(&format!(r#""a":"{first}","c":"{first}","x":"{second}""#));
    assert_path_refused(dir.path(), &[first, "tensor c", "listed in the index but not in this file"]);
    index(&format!(r#""a":"{first}""#));
    assert_path_refused(dir.path(), &["shards {1} of model", "there are 2"]);
    index(r#""a":"model-00001-of-00001.safetensors""#);
    assert_path_refused(dir.path(), &["model-00001-of-00001.safetensors is listed but missing"]);
    for name in ["../model.safetensors", "/etc/passwd", "a\\\\b.safetensors", "..", "c:x.safetensors", "model.bin"] {
        index(&format!(r#""a":"{name}""#));
        assert_path_refused(dir.path(), &["is not the name of a safetensors file in the same directory"]);
    }
    index(r#""a":7"#);
    assert_path_refused(dir.path(), &["tensor a is not a string"]);
    put("model.safetensors.index.json", b"{}");
    assert_path_refused(dir.path(), &["no object \"weight_map\""]);
}

#[test]
fn every_golden_directory_opens() {
    let Some(root) = shared("crossval") else { return };
    let mut opened = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let dir = entry.unwrap().path();
        if dir.join("config.json").exists() {
            let checkpoint = Checkpoint::open(&dir).unwrap();
            let Source::HuggingFace(config) = &checkpoint.source else { panic!("not Hugging Face") };
            assert!(config.config["model_type"].is_string());
            assert_eq!(
                config.pooling.is_some(),
                dir.ends_with("qwen3-bitnet-embedding") || dir.ends_with("gemma3-bitnet-embedding")
            );
            assert!(!checkpoint.tensors.is_empty());
            opened += 1;
        }
    }
    assert!(opened >= 10, "{opened}");
}

fn source(name: &str, shape: &[usize], encoding: Encoding, bytes: &[u8]) -> TensorSource<'static> {
    let bytes = Bytes::copy_from_slice(bytes);
    TensorSource { name: name.into(), shape: shape.into(), encoding, bytes: Box::new(move || Ok(bytes)) }
}

#[test]
fn what_is_written_is_what_the_reference_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let floats: Vec<u8> = [1.5f32, -2.0, 0.25].into_iter().flat_map(f32::to_le_bytes).collect();
    let tensors = vec![
        source("b", &[3], Encoding::F32, &floats),
        source("a", &[2, 1], Encoding::F16, &[0, 0x3c, 0, 0xbc]),
        source("codes", &[1, 4], Encoding::U8, &[1, 2, 3, 4]),
    ];
    let mut heard = Vec::new();
    write(&path, &[("format", "pt")], tensors, &mut |done, all| heard.push((done, all))).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(heard.last(), Some(&(bytes.len() as u64, bytes.len() as u64)));
    let (header, about) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!((header % 8, about.metadata().as_ref().unwrap()["format"].as_str()), (0, "pt"));
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!((theirs.len(), theirs.tensor("b").unwrap().data()), (3, &floats[..]));
    assert_eq!(theirs.tensor("codes").unwrap().shape(), [1, 4]);
    let ours = parse("x", &bytes.into()).unwrap();
    assert_eq!(ours["a"].encoding.decode(&ours["a"].bytes, 2, 1).unwrap(), [1.0, -1.0]);
}

#[test]
fn what_cannot_be_written_is_said_by_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let refused = |tensors| write(&path, &[], tensors, &mut |_, _| {}).unwrap_err().to_string();
    let byte = || source("a", &[1], Encoding::U8, &[0]);
    assert!(refused(vec![byte(), byte()]).contains("twice"));
    assert!(refused(vec![byte(), source("b", &[1], Encoding::F32, &[0; 4])]).contains("byte 1"));
    assert!(refused(vec![source("a", &[32], Encoding::Q8_0, &[0; 34])]).contains("Q8_0"));
    assert!(refused(vec![source("a", &[2], Encoding::U8, &[0])]).contains("1 bytes"));
    assert!(refused(vec![source("a", &[usize::MAX, 2], Encoding::U8, &[])]).contains("overflows"));
    let failing = Box::new(|| Err(FormatError::Cancelled));
    let failing = TensorSource { name: "a".into(), shape: vec![1], encoding: Encoding::U8, bytes: failing };
    assert_eq!(refused(vec![failing]), "cancelled");
}
