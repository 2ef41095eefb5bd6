//! Writing a safetensors file.

use crate::{Encoding, FormatError, TensorSource};
use serde_json::{Map, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes a safetensors file and syncs it. `metadata` are its `__metadata__`. `progress` hears the bytes written so far and in
/// all. The file is not whole before the end: write it where nobody looks for it yet.
///
/// # Errors
/// Encodings that safetensors does not have, names that stand twice, tensors that would not be aligned to their elements,
/// unwritable output, full disk, or what `bytes` returns.
pub fn write(
    path: &Path,
    metadata: &[(&str, &str)],
    tensors: Vec<TensorSource<'_>>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), FormatError> {
    let file = path.display().to_string();
    let (header, lens) = header(&file, metadata, &tensors)?;
    let io = |source| FormatError::Io { path: path.to_owned(), source };
    let mut written = header.len() as u64;
    let total = lens.iter().fold(written, |sum, &len| sum.saturating_add(len as u64));
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?);
    out.write_all(&header).map_err(io)?;
    progress(written, total);
    for (tensor, len) in tensors.into_iter().zip(lens) {
        let bytes = (tensor.bytes)()?;
        if bytes.len() != len {
            let reason = format!("{} bytes were produced where its shape and type need {len}", bytes.len());
            return Err(FormatError::tensor(&file, &tensor.name, reason));
        }
        out.write_all(&bytes).map_err(io)?;
        written += len as u64;
        progress(written, total);
    }
    let out = out.into_inner().map_err(|error| io(error.into_error()))?;
    out.sync_all().map_err(io)
}

/// Length and JSON of the header, padded to eight bytes, and the byte length of every tensor.
fn header(
    file: &str,
    metadata: &[(&str, &str)],
    tensors: &[TensorSource<'_>],
) -> Result<(Vec<u8>, Vec<usize>), FormatError> {
    let mut entries = Map::new();
    entries.insert("__metadata__".into(), metadata.iter().map(|&(key, value)| (key, value)).collect());
    let mut names = BTreeSet::from(["__metadata__"]);
    let mut lens = Vec::with_capacity(tensors.len());
    let mut offset = 0usize;
    for TensorSource { name, shape, encoding, .. } in tensors {
        let error = |reason: String| FormatError::tensor(file, name, reason);
        if !names.insert(name) {
            return Err(error("is given twice".into()));
        }
        let (dtype, size) = dtype(*encoding).ok_or_else(|| error(format!("safetensors has no type for {encoding}")))?;
        let len = shape.iter().try_fold(size, |n: usize, &dim| n.checked_mul(dim));
        let end = len.and_then(|len| offset.checked_add(len));
        let (Some(len), Some(end)) = (len, end) else { return Err(error(format!("shape {shape:?} overflows"))) };
        // readers that use bytes in place need them aligned
        if !offset.is_multiple_of(size) {
            return Err(error(format!("would begin at byte {offset}, which is no multiple of the {size} of {dtype}")));
        }
        entries.insert(name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] }));
        offset = end;
        lens.push(len);
    }
    let mut json = serde_json::Value::Object(entries).to_string();
    while !json.len().is_multiple_of(8) {
        json.push(' ');
    }
    Ok(([&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat(), lens))
}

/// Name and bytes of an element.
fn dtype(encoding: Encoding) -> Option<(&'static str, usize)> {
    Some(match encoding {
        Encoding::F64 => ("F64", 8),
        Encoding::F32 => ("F32", 4),
        Encoding::F16 => ("F16", 2),
        Encoding::BF16 => ("BF16", 2),
        Encoding::U8 => ("U8", 1),
        _ => return None,
    })
}
