//! Models split over several files named `NAME-00001-of-0000N.gguf`.

use super::{Contents, Metadata, reader::read, vocabulary};
use crate::{FormatError, OpenOptions, Tensor, map::map};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Position, number of parts and number of tensors in all parts: written into every part.
const KEYS: [&str; 3] = ["split.no", "split.count", "split.tensors.count"];

/// Reads a file and, when it is part of a split model, all other parts. The result no longer says that it was split.
pub(crate) fn read_all(
    path: &Path,
    bytes: &Bytes,
    options: &OpenOptions,
) -> Result<(Metadata, BTreeMap<String, Tensor>), FormatError> {
    let opened = read(&path.display().to_string(), bytes, options)?;
    match opened.metadata.u64("split.count")? {
        None | Some(1) if part_of(path).is_none_or(|(_, _, count)| count == 1) => {
            finish(opened.metadata, by_name(opened.tensors))
        }
        count => {
            let (metadata, tensors) = join(path, opened, count.unwrap_or(1), options)?;
            finish(metadata, tensors)
        }
    }
}

/// Reads a whole file in memory.
pub(crate) fn read_memory(bytes: &Bytes) -> Result<(Metadata, BTreeMap<String, Tensor>), FormatError> {
    let contents = read("<memory>", bytes, &OpenOptions::default())?;
    if let Some(count) = contents.metadata.u64("split.count")?.filter(|&count| count != 1) {
        let reason = format!("one part of a model in {count} files cannot be opened from memory; join the files");
        return Err(FormatError::container("<memory>", reason));
    }
    finish(contents.metadata, by_name(contents.tensors))
}

fn by_name(tensors: Vec<Tensor>) -> BTreeMap<String, Tensor> {
    tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect()
}

fn finish(
    mut metadata: Metadata,
    tensors: BTreeMap<String, Tensor>,
) -> Result<(Metadata, BTreeMap<String, Tensor>), FormatError> {
    vocabulary::check(&metadata, &tensors)?;
    for key in KEYS {
        metadata.remove(key);
    }
    Ok((metadata, tensors))
}

fn join(
    path: &Path,
    opened: Contents,
    count: u64,
    options: &OpenOptions,
) -> Result<(Metadata, BTreeMap<String, Tensor>), FormatError> {
    let file = path.display().to_string();
    let Some((stem, number, of)) = part_of(path) else {
        return Err(FormatError::container(
            &file,
            format!(
                "is a part of a model split into {count} files, but its name does not end in -00001-of-{count:05}.gguf, \
                 so the other parts cannot be found; give the files their original names"
            ),
        ));
    };
    if of != count {
        return Err(FormatError::metadata(
            &file,
            "split.count",
            format!("says {count} parts, but the file name says {of}; the parts of two models are mixed up"),
        ));
    }
    let mut opened = Some(opened);
    let mut first = None;
    let mut declared = None;
    let mut tensors = BTreeMap::new();
    for part in 1..=count {
        let name = format!("{stem}-{part:05}-of-{count:05}.gguf");
        let part_path = path.with_file_name(&name);
        let part_file = part_path.display().to_string();
        let contents = match opened.take_if(|_| part == number) {
            Some(contents) => contents,
            None => {
                let bytes = map(&part_path).map_err(|e| missing(e, &file, &part_file, part, count))?;
                read(&part_file, &bytes, options)?
            }
        };
        expect(&contents.metadata, "split.no", part - 1)?;
        expect(&contents.metadata, "split.count", count)?;
        let total = contents.metadata.u64("split.tensors.count")?;
        match (declared, total) {
            (None, Some(total)) => declared = Some(total),
            (Some(declared), Some(total)) if declared != total => {
                expect(&contents.metadata, "split.tensors.count", declared)?;
            }
            _ => {}
        }
        for tensor in contents.tensors {
            let name = tensor.name.clone();
            if tensors.insert(name.clone(), tensor).is_some() {
                return Err(FormatError::tensor(&part_file, &name, "stands in an earlier part already"));
            }
        }
        first.get_or_insert(contents.metadata);
    }
    match (first, declared) {
        (Some(metadata), Some(declared)) if declared == tensors.len() as u64 => Ok((metadata, tensors)),
        (_, declared) => Err(FormatError::metadata(
            &file,
            "split.tensors.count",
            format!("declares {declared:?} tensors, but the {count} parts hold {}", tensors.len()),
        )),
    }
}

fn expect(metadata: &Metadata, key: &str, wanted: u64) -> Result<(), FormatError> {
    match metadata.u64(key)? {
        Some(found) if found == wanted => Ok(()),
        found => Err(FormatError::metadata(
            metadata.file(),
            key,
            format!(
                "expected {wanted}, found {}; the file was renamed or belongs to another model",
                found.map_or_else(|| "nothing".to_owned(), |n| n.to_string())
            ),
        )),
    }
}

fn missing(error: FormatError, opened: &str, part_file: &str, part: u64, count: u64) -> FormatError {
    match error {
        FormatError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => FormatError::container(
            opened,
            format!("part {part} of {count} is missing: put {part_file} beside the other parts"),
        ),
        other => other,
    }
}

/// The files of the model that `path` belongs to: `path` alone unless its name is that of a part of a split model.
pub fn parts(path: &Path) -> Vec<PathBuf> {
    match part_of(path) {
        Some((stem, _, count)) => {
            (1..=count).map(|i| path.with_file_name(format!("{stem}-{i:05}-of-{count:05}.gguf"))).collect()
        }
        None => vec![path.to_owned()],
    }
}

/// `(NAME, 2, 5)` of `NAME-00002-of-00005.gguf`.
fn part_of(path: &Path) -> Option<(&str, u64, u64)> {
    let (rest, count) = path.file_name()?.to_str()?.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| (text.len() == 5).then(|| text.parse::<u16>().ok().map(u64::from)).flatten();
    Some((stem, digits(number)?, digits(count)?))
}
