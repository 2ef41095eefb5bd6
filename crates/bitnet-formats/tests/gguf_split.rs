//! Models split over several files.

use bitnet_formats::gguf::{Metadata, TensorSource, Value, write};
use bitnet_formats::{Checkpoint, Encoding, Source};
use std::path::{Path, PathBuf};

fn part_path(dir: &Path, part: usize, of: usize) -> PathBuf {
    dir.join(format!("model-{part:05}-of-{of:05}.gguf"))
}

/// One part with one tensor per name; the value of every tensor is its part's number.
fn write_part(path: &Path, number: u16, count: u16, total: i32, names: &[&str]) {
    let mut metadata = Metadata::new();
    metadata.set("general.name", Value::String(format!("part {number}")));
    metadata.set("split.no", Value::U16(number));
    metadata.set("split.count", Value::U16(count));
    metadata.set("split.tensors.count", Value::I32(total));
    let tensors = names.iter().map(|name| TensorSource {
        name: (*name).to_owned(),
        shape: vec![1],
        encoding: Encoding::F32,
        bytes: Box::new(move || Ok(f32::from(number).to_le_bytes().to_vec().into())),
    });
    write(path, &metadata, tensors.collect(), &mut |_, _| (), &mut |_| Ok(())).unwrap();
}

fn three_parts(dir: &Path) {
    write_part(&part_path(dir, 1, 3), 0, 3, 4, &[]);
    write_part(&part_path(dir, 2, 3), 1, 3, 4, &["a", "b"]);
    write_part(&part_path(dir, 3, 3), 2, 3, 4, &["c", "d"]);
}

#[track_caller]
fn assert_refused(path: &Path, parts: &[&str]) {
    let message = Checkpoint::open(path).expect_err("must be refused").to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn any_part_opens_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    three_parts(dir.path());
    for part in 1..=3 {
        let checkpoint = Checkpoint::open(&part_path(dir.path(), part, 3)).unwrap();
        assert_eq!(checkpoint.tensors.keys().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert_eq!(checkpoint.tensors["a"].bytes[..], 1f32.to_le_bytes());
        assert_eq!(checkpoint.tensors["d"].bytes[..], 2f32.to_le_bytes());
        let Source::Gguf(metadata) = checkpoint.source else { panic!("not GGUF") };
        assert_eq!(metadata.string("general.name").unwrap(), Some("part 0"));
        assert_eq!(metadata.entries().len(), 1, "nothing says any more that it was split");
    }
}

#[test]
fn missing_and_mixed_parts_are_named() {
    let dir = tempfile::tempdir().unwrap();
    three_parts(dir.path());
    let path = |part| part_path(dir.path(), part, 3);
    std::fs::rename(path(2), dir.path().join("elsewhere")).unwrap();
    assert_refused(&path(1), &["part 2 of 3 is missing", "model-00002-of-00003.gguf"]);
    // Another part under the missing one's name.
    std::fs::copy(path(3), path(2)).unwrap();
    assert_refused(&path(1), &["model-00002-of-00003.gguf", "split.no", "expected 1, found 2"]);
    // A part of a model of two files.
    write_part(&path(2), 1, 2, 4, &["a", "b"]);
    assert_refused(&path(1), &["model-00002-of-00003.gguf", "split.count", "expected 3, found 2"]);
    assert_refused(&path(2), &["split.count", "says 2 parts, but the file name says 3"]);
    // A part that holds a tensor of another part, too few tensors, or another total.
    write_part(&path(2), 1, 3, 4, &["a", "c"]);
    assert_refused(&path(1), &["model-00003-of-00003.gguf", "tensor c", "earlier part"]);
    write_part(&path(2), 1, 3, 4, &["a"]);
    assert_refused(&path(1), &["split.tensors.count", "4", "hold 3"]);
    write_part(&path(2), 1, 3, 5, &["a", "b"]);
    assert_refused(&path(1), &["model-00002-of-00003.gguf", "split.tensors.count", "expected 4, found 5"]);
}

#[test]
fn names_and_keys_must_agree() {
    let dir = tempfile::tempdir().unwrap();
    let renamed = dir.path().join("renamed.gguf");
    write_part(&renamed, 0, 3, 4, &["a"]);
    assert_refused(&renamed, &["part of a model split into 3 files", "original names"]);
    let unsplit = part_path(dir.path(), 1, 2);
    write(&unsplit, &Metadata::new(), Vec::new(), &mut |_, _| (), &mut |_| Ok(())).unwrap();
    assert_refused(&unsplit, &["split.count", "1 parts", "the file name says 2"]);
    let bytes = std::fs::read(&renamed).unwrap();
    let error = Checkpoint::from_gguf_bytes(bytes.into()).unwrap_err().to_string();
    assert!(error.contains("one part of a model in 3 files"), "{error}");
    // One file of one is whole whatever its name.
    write_part(&renamed, 0, 1, 1, &["a"]);
    assert_eq!(Checkpoint::open(&renamed).unwrap().tensors.len(), 1);
}

#[test]
fn the_parts_of_a_model_are_known_by_name() {
    use bitnet_formats::gguf::parts;
    let [first, second] = ["d/m-00001-of-00002.gguf", "d/m-00002-of-00002.gguf"].map(Path::new);
    assert_eq!(parts(second), [first, second]);
    assert_eq!(parts(Path::new("d/m.gguf")), [Path::new("d/m.gguf")]);
}
