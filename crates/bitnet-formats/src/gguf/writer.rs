//! Writing GGUF v3: a file appears under its name only when it is whole, synced and checked.

use super::{Array, MAGIC, MAX_KEY, MAX_TENSOR_NAME, Metadata, Value, reader::alignment, type_id};
use crate::{FormatError, TensorSource};
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

/// Writes a GGUF v3 file: to a temporary file beside `path`, synced, then `check` on the temporary path, then renamed.
/// On any error `path` is left as it was. `progress` hears the bytes written so far and in all.
///
/// # Errors
/// Unwritable output, full disk, or what `bytes` and `check` return.
pub fn write(
    path: &Path,
    metadata: &Metadata,
    tensors: Vec<TensorSource<'_>>,
    progress: &mut dyn FnMut(u64, u64),
    check: &mut dyn FnMut(&Path) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let file = path.display().to_string();
    let alignment = alignment(metadata)?;
    let (mut header, lens) = header(&file, metadata, &tensors, alignment)?;
    header.resize(header.len().next_multiple_of(alignment as usize), 0);
    let total = header.len() as u64 + lens.iter().map(|&len| (len as u64).next_multiple_of(alignment)).sum::<u64>();

    let io = |source| FormatError::Io { path: path.to_owned(), source };
    if let Some(kind) = irreplaceable(path).map_err(io)? {
        return Err(io(std::io::Error::other(format!("is there and {kind}; choose another output"))));
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        // The file is for everyone whom the umask allows, not private as temporary files are.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let temporary = builder.prefix(".bitnet-").suffix(".gguf.part").tempfile_in(dir).map_err(io)?;

    let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file());
    out.write_all(&header).map_err(io)?;
    let mut written = header.len() as u64;
    progress(written, total);
    for (tensor, len) in tensors.into_iter().zip(lens) {
        let bytes = (tensor.bytes)()?;
        if bytes.len() != len {
            let reason = format!("{} bytes were produced where its shape and encoding need {len}", bytes.len());
            return Err(FormatError::tensor(&file, &tensor.name, reason));
        }
        let padded = len.next_multiple_of(alignment as usize);
        out.write_all(&bytes).map_err(io)?;
        out.write_all(&vec![0; padded - len]).map_err(io)?;
        written += padded as u64;
        progress(written, total);
    }
    out.flush().map_err(io)?;
    drop(out);
    temporary.as_file().sync_all().map_err(io)?;
    check(temporary.path())?;
    temporary.persist(path).map_err(|e| io(e.error))?;
    Ok(())
}

/// What stands at `path` that the rename at the end must not take the place of: a device, a socket, or a file of another kind, such as
/// the weights or the config that are being converted.
fn irreplaceable(path: &Path) -> std::io::Result<Option<&'static str>> {
    match std::fs::metadata(path) {
        Err(_) => Ok(None),
        Ok(there) if !there.is_file() => Ok(Some("not a regular file")),
        Ok(_) => {
            let mut magic = Vec::new();
            File::open(path)?.take(MAGIC.len() as u64).read_to_end(&mut magic)?;
            Ok((!magic.is_empty() && magic != MAGIC).then_some("no GGUF file"))
        }
    }
}

/// Everything before the data section, and the byte length of every tensor.
fn header(
    file: &str,
    metadata: &Metadata,
    tensors: &[TensorSource<'_>],
    alignment: u64,
) -> Result<(Vec<u8>, Vec<usize>), FormatError> {
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&3u32.to_le_bytes());
    out.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    out.extend_from_slice(&(metadata.entries().len() as u64).to_le_bytes());
    for (key, value) in metadata.entries() {
        if !is_name(key, MAX_KEY) {
            let reason =
                format!("the key has {} bytes, allowed are 1 to {MAX_KEY} and no control characters", key.len());
            return Err(FormatError::metadata(file, key, reason));
        }
        put_string(&mut out, key);
        put_value(&mut out, value);
    }
    let mut names = HashSet::new();
    let mut lens = Vec::with_capacity(tensors.len());
    let mut offset = 0u64;
    for tensor in tensors {
        let error = |reason: String| FormatError::tensor(file, &tensor.name, reason);
        if !is_name(&tensor.name, MAX_TENSOR_NAME) {
            let len = tensor.name.len();
            let reason =
                format!("the name has {len} bytes, allowed are 1 to {MAX_TENSOR_NAME} and no control characters");
            return Err(error(reason));
        }
        if !names.insert(&tensor.name) {
            return Err(error("is given twice".to_owned()));
        }
        let shape = if tensor.shape.is_empty() { &[1][..] } else { &tensor.shape };
        if shape.len() > 4 || shape.contains(&0) {
            return Err(error(format!("shape {shape:?}: GGUF has 1 to 4 dimensions, none of them 0")));
        }
        let (rows, cols) = shape
            .iter()
            .rev()
            .skip(1)
            .try_fold(1usize, |n, &dim| n.checked_mul(dim))
            .zip(shape.last().copied())
            .ok_or_else(|| error(format!("the number of elements of shape {shape:?} overflows")))?;
        let id = type_id::id(tensor.encoding).map_err(error)?;
        let len = tensor.encoding.byte_len(rows, cols).map_err(|e| error(e.to_string()))?;
        put_string(&mut out, &tensor.name);
        out.extend_from_slice(&(shape.len() as u32).to_le_bytes());
        for &dim in shape.iter().rev() {
            out.extend_from_slice(&(dim as u64).to_le_bytes());
        }
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        let end = (len as u64).checked_next_multiple_of(alignment).and_then(|padded| offset.checked_add(padded));
        offset = end.ok_or_else(|| error("the sizes of the tensors overflow 64 bits".to_owned()))?;
        lens.push(len);
    }
    Ok((out, lens))
}

/// What the reader takes for one.
fn is_name(name: &str, longest: usize) -> bool {
    (1..=longest).contains(&name.len()) && !name.contains(char::is_control)
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mut put = |kind: u32, bytes: &[u8]| {
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(bytes);
    };
    match value {
        Value::U8(v) => put(0, &v.to_le_bytes()),
        Value::I8(v) => put(1, &v.to_le_bytes()),
        Value::U16(v) => put(2, &v.to_le_bytes()),
        Value::I16(v) => put(3, &v.to_le_bytes()),
        Value::U32(v) => put(4, &v.to_le_bytes()),
        Value::I32(v) => put(5, &v.to_le_bytes()),
        Value::F32(v) => put(6, &v.to_le_bytes()),
        Value::Bool(v) => put(7, &[u8::from(*v)]),
        Value::U64(v) => put(10, &v.to_le_bytes()),
        Value::I64(v) => put(11, &v.to_le_bytes()),
        Value::F64(v) => put(12, &v.to_le_bytes()),
        Value::String(v) => {
            put(8, &[]);
            put_string(out, v);
        }
        Value::Array(array) => {
            put(9, &[]);
            put_array(out, array);
        }
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    macro_rules! numbers {
        ($kind:literal, $numbers:expr) => {{
            out.extend_from_slice(&u32::to_le_bytes($kind));
            out.extend_from_slice(&($numbers.len() as u64).to_le_bytes());
            $numbers.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        }};
    }
    match array {
        Array::U8(v) => numbers!(0, v),
        Array::I8(v) => numbers!(1, v),
        Array::U16(v) => numbers!(2, v),
        Array::I16(v) => numbers!(3, v),
        Array::U32(v) => numbers!(4, v),
        Array::I32(v) => numbers!(5, v),
        Array::F32(v) => numbers!(6, v),
        Array::U64(v) => numbers!(10, v),
        Array::I64(v) => numbers!(11, v),
        Array::F64(v) => numbers!(12, v),
        Array::Bool(v) => {
            out.extend_from_slice(&7u32.to_le_bytes());
            out.extend_from_slice(&(v.len() as u64).to_le_bytes());
            out.extend(v.iter().map(|&b| u8::from(b)));
        }
        Array::String(v) => {
            out.extend_from_slice(&8u32.to_le_bytes());
            out.extend_from_slice(&(v.len() as u64).to_le_bytes());
            v.iter().for_each(|text| put_string(out, text));
        }
    }
}
