//! What the writer writes, the reader reads; what goes wrong leaves the old file alone.

mod support;

use bitnet_formats::gguf::{Array, Metadata, StringArray, TensorSource, Value, write};
use bitnet_formats::{Checkpoint, Encoding, FormatError, I2sLayout, Source, TileParams};
use bytes::Bytes;
use std::path::Path;
use support::RawGguf;

fn tensor<'a>(name: &str, shape: &[usize], encoding: Encoding, bytes: Vec<u8>) -> TensorSource<'a> {
    let bytes = Box::new(move || Ok(Bytes::from(bytes)));
    TensorSource { name: name.to_owned(), shape: shape.to_vec(), encoding, bytes }
}

fn plain_write(path: &Path, metadata: &Metadata, tensors: Vec<TensorSource<'_>>) -> Result<(), FormatError> {
    write(path, metadata, tensors, &mut |_, _| (), &mut |_| Ok(()))
}

/// The files of a directory by name.
fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_worked_example_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("example.gguf");
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String("bitnet".to_owned()));
    metadata.set("bitnet.block_count", Value::U32(1));
    metadata.set("a", Value::Array(Array::I32(vec![1, 2])));
    let data = [1f32.to_le_bytes(), 2f32.to_le_bytes()].concat();
    plain_write(&path, &metadata, vec![tensor("t", &[2], Encoding::F32, data)]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), RawGguf::example().bytes());
    assert_eq!(listing(dir.path()), ["example.gguf"]);
}

#[test]
fn every_value_type_and_many_tensors_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.gguf");
    let text = StringArray::new(["", "a", "ternär", "\u{1f600}"]).unwrap();
    let values = [
        Value::U8(200),
        Value::I8(-100),
        Value::U16(60000),
        Value::I16(-30000),
        Value::U32(1 << 31),
        Value::I32(-1),
        Value::F32(1.5),
        Value::Bool(true),
        Value::String("ü".to_owned()),
        Value::U64(1 << 63),
        Value::I64(-1 << 62),
        Value::F64(-2.25),
        Value::Array(Array::U8(vec![1, 2])),
        Value::Array(Array::I8(vec![-1])),
        Value::Array(Array::U16(vec![])),
        Value::Array(Array::I16(vec![-2, 3])),
        Value::Array(Array::U32(vec![4])),
        Value::Array(Array::I32(vec![-5, 6, 7])),
        Value::Array(Array::F32(vec![0.5, -0.0])),
        Value::Array(Array::Bool(vec![true, false])),
        Value::Array(Array::String(text)),
        Value::Array(Array::U64(vec![8])),
        Value::Array(Array::I64(vec![-9])),
        Value::Array(Array::F64(vec![10.0])),
    ];
    let mut metadata = Metadata::new();
    for (i, value) in values.into_iter().enumerate() {
        metadata.set(format!("key.{i}"), value);
    }
    metadata.set("general.alignment", Value::U32(64));
    let tensors = [
        ("scalar", vec![], Encoding::F32, 4),
        ("a", vec![3, 5], Encoding::F16, 30),
        ("b", vec![2, 3, 128], Encoding::I2S(I2sLayout::X86), 6 * 128 / 4 + 32),
        ("c", vec![4, 256], Encoding::Tq2_0, 4 * 66),
        ("d", vec![3, 256], Encoding::Tq1_0, 3 * 54),
        ("e", vec![16, 256], Encoding::Q2_0, 16 * 4 * 18),
        ("f", vec![1, 32], Encoding::Q8_0, 34),
        ("g", vec![2, 2, 2, 1], Encoding::I64, 64),
        ("h", vec![1, 128], Encoding::Pq2_0, 34),
    ];
    let content = |len: usize| (0..len).map(|i| (i * 7 + len) as u8).collect::<Vec<u8>>();
    let sources = tensors.iter().map(|(name, shape, e, len)| tensor(name, shape, *e, content(*len))).collect();
    let mut heard = Vec::new();
    let mut checked = false;
    let mut check = |temporary: &Path| {
        checked = true;
        assert!(!path.exists(), "the name must not exist before the check");
        Checkpoint::open(temporary).map(drop)
    };
    write(&path, &metadata, sources, &mut |done, all| heard.push((done, all)), &mut check).unwrap();
    assert!(checked);
    let total = std::fs::metadata(&path).unwrap().len();
    assert_eq!(heard.len(), 1 + tensors.len());
    assert!(heard.is_sorted() && heard.iter().all(|&(_, all)| all == total) && heard.last() == Some(&(total, total)));

    let read = Checkpoint::open(&path).unwrap();
    let Source::Gguf(again) = &read.source else { panic!("not GGUF") };
    assert_eq!((again.version, again.entries()), (3, metadata.entries()));
    assert_eq!(read.tensors.len(), tensors.len());
    for (name, shape, encoding, len) in &tensors {
        let tensor = &read.tensors[*name];
        assert_eq!(tensor.encoding, *encoding, "{name}");
        assert_eq!(tensor.shape, if shape.is_empty() { vec![1] } else { shape.clone() }, "{name}");
        assert_eq!(tensor.bytes, content(*len), "{name}");
        assert_eq!(tensor.bytes.as_ptr() as usize % 64, 0, "{name} is aligned in the map");
    }
}

#[test]
fn typed_access_checks_types() {
    let mut m = Metadata::new();
    m.set("i", Value::I32(-3));
    m.set("u", Value::I64(5));
    m.set("nan", Value::F32(f32::NAN));
    m.set("big", Value::F64(1e300));
    m.set("half", Value::F64(0.5));
    m.set("s", Value::String("x".to_owned()));
    assert_eq!(m.u64("absent").unwrap(), None);
    assert_eq!(m.u64("u").unwrap(), Some(5));
    assert!(m.u64("i").unwrap_err().to_string().contains("metadata i: -3 is negative"));
    assert!(m.u64("s").unwrap_err().to_string().contains("metadata s: expected an integer, found string"));
    assert_eq!(m.f32("half").unwrap(), Some(0.5));
    assert!(m.f32("nan").unwrap_err().to_string().contains("not a finite number"));
    assert!(m.f32("big").is_err());
    assert!(m.f32("u").unwrap_err().to_string().contains("expected a float, found i64"));
    assert!(m.bool("u").is_err() && m.string("u").is_err() && m.strings("s").is_err());
    assert!(m.f32s("s").is_err() && m.i32s("s").is_err());
    m.set("s", Value::Bool(false));
    assert_eq!((m.bool("s").unwrap(), m.entries().len()), (Some(false), 6));
    assert_eq!((m.remove("s"), m.remove("s")), (Some(Value::Bool(false)), None));
}

/// Writing fails for `tensors`, and an older file of the same name stays as it was.
#[track_caller]
fn assert_left_alone(tensors: Vec<TensorSource<'_>>, check_fails: bool, part: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, b"GGUF, older").unwrap();
    let refuse = |p: &Path| Err(FormatError::Container { file: p.display().to_string(), reason: "differs".to_owned() });
    let mut check = |p: &Path| if check_fails { refuse(p) } else { Ok(()) };
    let error = write(&path, &Metadata::new(), tensors, &mut |_, _| (), &mut check).unwrap_err().to_string();
    assert!(error.contains(part), "{error:?} lacks {part:?}");
    assert_eq!(std::fs::read(&path).unwrap(), b"GGUF, older");
    assert_eq!(listing(dir.path()), ["model.gguf"], "no temporary file is left");
}

#[test]
fn errors_leave_the_old_file_alone() {
    let good = || tensor("t", &[8], Encoding::F32, vec![0; 32]);
    assert_left_alone(vec![good()], true, "differs");
    assert_left_alone(vec![good(), tensor("u", &[8], Encoding::F32, vec![0; 31])], false, "tensor u: 31 bytes");
    assert_left_alone(vec![good(), good()], false, "tensor t: is given twice");
    assert_left_alone(vec![tensor("", &[8], Encoding::F32, vec![])], false, "the name has 0 bytes");
    assert_left_alone(vec![tensor(&"n".repeat(64), &[8], Encoding::F32, vec![])], false, "the name has 64 bytes");
    assert_left_alone(vec![tensor("t", &[1; 5], Encoding::F32, vec![])], false, "1 to 4 dimensions");
    assert_left_alone(vec![tensor("t", &[2, 0], Encoding::F32, vec![])], false, "none of them 0");
    assert_left_alone(vec![tensor("t", &[100], Encoding::Tq2_0, vec![])], false, "tensor t");
    assert_left_alone(vec![tensor("t", &[4, 4], Encoding::HfPacked, vec![])], false, "GGUF has no type for");
    assert_left_alone(vec![tensor("t", &[4], Encoding::U8, vec![])], false, "GGUF has no type for");
    let arm = Encoding::I2S(I2sLayout::Arm);
    assert_left_alone(vec![tensor("t", &[128], arm, vec![0; 64])], false, "write the X86 layout");
    assert_left_alone(vec![tensor("t", &[128], Encoding::Q2_0Legacy, vec![0; 34])], false, "write PQ2_0");
    let failing = TensorSource {
        bytes: Box::new(|| Err(FormatError::Encoding { encoding: "TQ2_0".to_owned(), reason: "no room".to_owned() })),
        ..good()
    };
    assert_left_alone(vec![good(), TensorSource { name: "u".to_owned(), ..failing }], false, "no room");
}

#[test]
fn tile_types_are_written_under_their_ids() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tl1.gguf");
    let params = TileParams { bm_tile: 256, bk_tile: 128, bm: 32 };
    let len = 256 * 512 / 4 + 32;
    plain_write(&path, &Metadata::new(), vec![tensor("t", &[256, 512], Encoding::Tl1(params), vec![0; len])]).unwrap();
    let error = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(error.contains("38 (TL1)"), "{error}");
}

/// Whoever may rename in `/dev` would otherwise lose the device.
#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_not_replaced() {
    use std::os::unix::fs::FileTypeExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = plain_write(&path, &Metadata::new(), Vec::new()).unwrap_err().to_string();
    assert!(error.contains("socket") && error.contains("not a regular file"), "{error}");
    assert!(std::fs::metadata(&path).unwrap().file_type().is_socket());
    assert_eq!(listing(dir.path()), ["socket"]);
}

/// Such as the weights or the config that are being converted.
#[test]
fn what_is_no_gguf_file_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    for (old, replaced) in [(&b"{}"[..], false), (b"GGUX of four bytes", false), (b"", true), (b"GGUF", true)] {
        std::fs::write(&path, old).unwrap();
        let result = plain_write(&path, &Metadata::new(), Vec::new());
        assert_eq!(result.is_ok(), replaced, "{result:?}");
        assert_eq!(std::fs::read(&path).unwrap() != old, replaced);
    }
    assert_eq!(listing(dir.path()), ["config.json"]);
}

#[test]
fn unwritable_outputs_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    for path in [dir.path().join("absent/model.gguf"), file.join("model.gguf"), "/proc/model.gguf".into()] {
        let error = plain_write(&path, &Metadata::new(), Vec::new()).unwrap_err();
        assert!(matches!(error, FormatError::Io { .. }), "{error}");
        assert!(error.to_string().contains("model.gguf"), "{error}");
    }
    // A directory stands where the file should go.
    let taken = dir.path().join("taken.gguf");
    std::fs::create_dir(&taken).unwrap();
    assert!(matches!(plain_write(&taken, &Metadata::new(), Vec::new()), Err(FormatError::Io { .. })));
    assert_eq!(listing(dir.path()), ["file", "taken.gguf"]);
}

/// Set in the process whose files may not grow beyond 100 kB.
const FULL_DISK_DIR: &str = "BITNET_TEST_FULL_DISK_DIR";

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_leaves_the_old_file_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, b"GGUF, older").unwrap();
    let output = std::process::Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; ulimit -f 100; exec "$0" --exact write_with_little_room --nocapture"#])
        .arg(std::env::current_exe().unwrap())
        .env(FULL_DISK_DIR, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("refused as it should be"), "{output:?}");
    assert_eq!(std::fs::read(&path).unwrap(), b"GGUF, older");
    assert_eq!(listing(dir.path()), ["model.gguf"], "no temporary file is left");
}

/// The child of the test above; without its variable it does nothing.
#[test]
fn write_with_little_room() {
    let Some(dir) = std::env::var_os(FULL_DISK_DIR) else { return };
    let path = Path::new(&dir).join("model.gguf");
    let big = tensor("t", &[1 << 20], Encoding::F32, vec![0; 4 << 20]);
    let error = plain_write(&path, &Metadata::new(), vec![big]).unwrap_err();
    assert!(matches!(&error, FormatError::Io { path, .. } if path.ends_with("model.gguf")), "{error}");
    println!("refused as it should be: {error}");
}
