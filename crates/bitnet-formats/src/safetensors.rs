//! safetensors containers (single and sharded) with `config.json` (formats.md §3).

mod writer;

pub use writer::write;

use crate::{Encoding, FormatError, Tensor, checkpoint::refuse_pointer, map::map};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet, btree_map::Entry as Slot};
use std::path::{Path, PathBuf};

/// Longest header, as in the reference reader.
const MAX_HEADER: u64 = 100_000_000;
/// More than any weight has; messages show them.
const MAX_DIMENSIONS: usize = 8;
/// Longest JSON file beside the tensors. Parsed it takes up to sixteen times its size.
const MAX_JSON: u64 = 32 << 20;

/// A Hugging Face directory.
#[derive(Clone, Debug)]
pub struct HfConfig {
    /// The directory.
    pub dir: PathBuf,
    /// `config.json`; of a key that stands twice the last one counts.
    pub config: serde_json::Value,
    /// `1_Pooling/config.json` of sentence-transformers, when present.
    pub pooling: Option<serde_json::Value>,
}

/// A directory with `config.json` and one or several safetensors files.
pub(crate) fn open_dir(dir: &Path) -> Result<(HfConfig, BTreeMap<String, Tensor>), FormatError> {
    let config = read_config(dir)?;
    let single = dir.join("model.safetensors");
    let index = dir.join("model.safetensors.index.json");
    let tensors = if single.exists() {
        open_file(&single)?
    } else if index.exists() {
        open_shards(dir, &index)?
    } else {
        return Err(FormatError::container(
            &dir.display().to_string(),
            "has a config.json but neither model.safetensors nor model.safetensors.index.json; PyTorch .bin files \
             are not read: convert the model to safetensors",
        ));
    };
    Ok((config, tensors))
}

/// A lone safetensors file whose directory has the `config.json`.
pub(crate) fn open_lone(path: &Path, bytes: &Bytes) -> Result<(HfConfig, BTreeMap<String, Tensor>), FormatError> {
    let tensors = parse(&path.display().to_string(), bytes)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !dir.join("config.json").exists() {
        return Err(FormatError::container(
            &path.display().to_string(),
            "is a safetensors file without a config.json beside it, which says what the tensors mean; put the \
             model's config.json into the same directory",
        ));
    }
    Ok((read_config(dir)?, tensors))
}

fn read_config(dir: &Path) -> Result<HfConfig, FormatError> {
    let path = dir.join("config.json");
    if !path.exists() {
        return Err(FormatError::container(
            &dir.display().to_string(),
            "is a directory without config.json; expected a Hugging Face model (config.json, tokenizer.json, \
             model.safetensors), or give a .gguf file",
        ));
    }
    let pooling = dir.join("1_Pooling").join("config.json");
    let pooling = if pooling.exists() { Some(read_json(&pooling)?) } else { None };
    Ok(HfConfig { dir: dir.to_owned(), config: read_json(&path)?, pooling })
}

/// A JSON object; of a key that stands twice the last one counts.
fn read_json(path: &Path) -> Result<serde_json::Value, FormatError> {
    let file = path.display().to_string();
    let bytes = map(path)?;
    if bytes.len() as u64 > MAX_JSON {
        let reason = format!("has {} bytes, more than the {MAX_JSON} allowed", bytes.len());
        return Err(FormatError::container(&file, reason));
    }
    refuse_pointer(&file, &bytes)?;
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| FormatError::container(&file, format!("not valid JSON: {e}")))?;
    if !value.is_object() {
        return Err(FormatError::container(&file, "expected a JSON object"));
    }
    Ok(value)
}

fn open_file(path: &Path) -> Result<BTreeMap<String, Tensor>, FormatError> {
    parse(&path.display().to_string(), &map(path)?)
}

fn open_shards(dir: &Path, index_path: &Path) -> Result<BTreeMap<String, Tensor>, FormatError> {
    let file = index_path.display().to_string();
    let error = |reason: String| FormatError::container(&file, reason);
    let index = read_json(index_path)?;
    let Some(weight_map) = index.get("weight_map").and_then(|map| map.as_object()) else {
        return Err(error("has no object \"weight_map\"".to_owned()));
    };
    let mut wanted: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (tensor, shard) in weight_map {
        let Some(shard) = shard.as_str() else {
            return Err(error(format!("weight_map: the file of tensor {tensor} is not a string")));
        };
        if shard.contains(['/', '\\', ':', '\0']) || !shard.ends_with(".safetensors") {
            return Err(error(format!(
                "weight_map: {shard:?} is not the name of a safetensors file in the same directory"
            )));
        }
        wanted.entry(shard).or_default().insert(tensor);
    }
    check_shard_count(&file, wanted.keys().copied())?;
    let mut tensors = BTreeMap::new();
    for (shard, names) in wanted {
        let path = dir.join(shard);
        if !path.exists() {
            return Err(error(format!("{shard} is listed but missing; put it into {}", dir.display())));
        }
        let mut held = open_file(&path)?;
        for name in names {
            let tensor = held.remove(name).ok_or_else(|| {
                FormatError::tensor(&path.display().to_string(), name, "is listed in the index but not in this file")
            })?;
            tensors.insert(name.to_owned(), tensor);
        }
    }
    Ok(tensors)
}

/// Files named `NAME-00001-of-00003.safetensors` must be all three of them.
fn check_shard_count<'a>(file: &str, shards: impl Iterator<Item = &'a str>) -> Result<(), FormatError> {
    let mut groups: BTreeMap<(&str, u32), BTreeSet<u32>> = BTreeMap::new();
    for shard in shards {
        let parts = shard.strip_suffix(".safetensors").and_then(|stem| {
            let (rest, count) = stem.rsplit_once("-of-")?;
            let (stem, number) = rest.rsplit_once('-')?;
            Some((stem, number.parse().ok()?, count.parse().ok()?))
        });
        if let Some((stem, number, count)) = parts {
            groups.entry((stem, count)).or_default().insert(number);
        }
    }
    for ((stem, count), numbers) in groups {
        let complete =
            numbers.len() == count as usize && numbers.iter().zip(1..).all(|(&found, wanted)| found == wanted);
        if !complete {
            let reason = format!(
                "weight_map names shards {numbers:?} of {stem}, whose names say there are {count}; a shard is not listed"
            );
            return Err(FormatError::container(file, reason));
        }
    }
    Ok(())
}

/// One entry of the header.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// The header with every name once: a JSON map type would silently keep the last of two.
struct Header(BTreeMap<String, Entry>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    match entries.entry(name) {
                        Slot::Vacant(slot) => {
                            slot.insert(map.next_value()?);
                        }
                        Slot::Occupied(slot) => {
                            return Err(A::Error::custom(format_args!("tensor {} stands twice", slot.key())));
                        }
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// The tensors of one safetensors file, checked: header length, JSON, names, types, and that the tensors fill the data
/// section without holes or overlaps. `file` is its name for messages.
///
/// # Errors
/// Every violation, by tensor where there is one.
pub fn parse(file: &str, bytes: &Bytes) -> Result<BTreeMap<String, Tensor>, FormatError> {
    let error = |reason: String| FormatError::container(file, reason);
    refuse_pointer(file, bytes)?;
    let Some((len, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(error(format!("{} bytes are too few for a safetensors file; it is cut off", bytes.len())));
    };
    let len = u64::from_le_bytes(*len);
    if len > MAX_HEADER || len > rest.len() as u64 {
        return Err(error(format!(
            "the safetensors header claims {len} bytes, but {} follow and {MAX_HEADER} are allowed; the file is \
             damaged, cut off or of another kind",
            rest.len()
        )));
    }
    let data_start = 8 + len as usize;
    let Header(entries) = serde_json::from_slice(&bytes[8..data_start])
        .map_err(|e| error(format!("the safetensors header is not valid: {e}")))?;
    let mut entries: Vec<_> = entries.into_iter().collect();
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let data_len = bytes.len() - data_start;
    let mut filled = 0;
    let mut tensors = BTreeMap::new();
    for (name, Entry { dtype, shape, data_offsets: (start, end) }) in entries {
        if name.contains(char::is_control) {
            return Err(error(format!("the tensor name {name:?} has control characters; the file is damaged")));
        }
        let error = |reason: String| FormatError::tensor(file, &name, reason);
        if start != filled || end < start || end > data_len {
            return Err(error(format!(
                "lies at {start}..{end} of {data_len} bytes of data, expected to start at {filled}: the header has \
                 holes or overlaps, or the file is cut off"
            )));
        }
        let (encoding, size) = element(&dtype).ok_or_else(|| {
            error(format!(
                "type {} is not supported; supported are F64, F32, F16, BF16, I64, I32, I16, I8, U8",
                dtype.escape_debug()
            ))
        })?;
        if shape.len() > MAX_DIMENSIONS {
            return Err(error(format!("expected at most {MAX_DIMENSIONS} dimensions, found {}", shape.len())));
        }
        let needed = shape.iter().try_fold(size, |n: usize, &dim| n.checked_mul(dim));
        if needed != Some(end - start) {
            return Err(error(format!("{} bytes for shape {shape:?} of {dtype}", end - start)));
        }
        filled = end;
        let bytes = bytes.slice(data_start + start..data_start + end);
        tensors.insert(name.clone(), Tensor { name, shape, encoding, bytes });
    }
    if filled != data_len {
        return Err(error(format!(
            "the tensors end at byte {filled} of {data_len} bytes of data: the rest has no name"
        )));
    }
    Ok(tensors)
}

/// Encoding and bytes per element.
fn element(dtype: &str) -> Option<(Encoding, usize)> {
    Some(match dtype {
        "F64" => (Encoding::F64, 8),
        "F32" => (Encoding::F32, 4),
        "F16" => (Encoding::F16, 2),
        "BF16" => (Encoding::BF16, 2),
        "I64" => (Encoding::I64, 8),
        "I32" => (Encoding::I32, 4),
        "I16" => (Encoding::I16, 2),
        "I8" => (Encoding::I8, 1),
        "U8" => (Encoding::U8, 1),
        _ => return None,
    })
}
