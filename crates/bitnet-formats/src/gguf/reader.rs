//! One GGUF file from bytes, with every check of formats.md §1.4.

use super::type_id::{self, Meaning};
use super::{
    Array, Contents, DEFAULT_ALIGNMENT, MAX_ALIGNMENT, MAX_KEY, MAX_TENSOR_NAME, Metadata, StringArray, Value,
};
use crate::{Encoding, FormatError, OpenOptions, Tensor};
use bytes::Bytes;
use std::collections::HashSet;

pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
/// Elements of one array, as in llama.cpp.
const MAX_ARRAY: u64 = 1 << 30;
/// Key–value pairs of one file: published ones have dozens. Lookups are linear, so a lie of millions would cost hours.
const MAX_PAIRS: u64 = 1 << 14;
/// The smallest key–value pair: length of the key, type, one byte of value.
const MIN_PAIR: u64 = 13;
/// The smallest tensor entry: length of the name, dimension count, type, offset.
const MIN_TENSOR: u64 = 24;

/// Reads and checks one file. `file` is its name for messages.
pub(crate) fn read(file: &str, bytes: &Bytes, options: &OpenOptions) -> Result<Contents, FormatError> {
    let mut cursor = Cursor { file, bytes, at: 0 };
    let version = cursor.magic_and_version()?;
    let tensor_count = cursor.u64("the number of tensors")?;
    let pair_count = cursor.u64("the number of metadata pairs")?;
    let least = tensor_count.checked_mul(MIN_TENSOR).zip(pair_count.checked_mul(MIN_PAIR));
    let least = least.and_then(|(tensors, pairs)| tensors.checked_add(pairs));
    if least.is_none_or(|least| least > cursor.rest() as u64) {
        return Err(cursor.error(format!(
            "declares {tensor_count} tensors and {pair_count} metadata pairs, more than its {} bytes can hold; the \
             file is damaged or cut off",
            bytes.len()
        )));
    }
    if pair_count > MAX_PAIRS {
        let reason = format!("declares {pair_count} metadata pairs, more than the {MAX_PAIRS} allowed");
        return Err(cursor.error(reason));
    }
    let metadata = cursor.metadata(version, pair_count)?;
    let alignment = alignment(&metadata)?;
    if let Some((key, _)) = metadata.entries().iter().find(|(key, _)| key.starts_with("prism.hadamard.")) {
        return Err(FormatError::metadata(
            file,
            key,
            "the weights are rotated by a Hadamard transform, which is not supported (reading them without it gives \
             fluent garbage); use a first-generation model or an unrotated export",
        ));
    }
    let infos = cursor.tensor_infos(tensor_count)?;
    if infos.is_empty() {
        return Ok(Contents { metadata, tensors: Vec::new() }); // no data section, so no padding either
    }
    let data_start = (cursor.at as u64).next_multiple_of(alignment);
    let data_len = (bytes.len() as u64).saturating_sub(data_start);
    let encodings = place(file, &infos, data_len, alignment, options)?;
    let mut tensors = Vec::with_capacity(infos.len());
    for (info, (encoding, len)) in infos.into_iter().zip(encodings) {
        // `place` has shown that the tensor ends inside the file, which is inside the address space.
        let start = (data_start + info.offset) as usize;
        let bytes = bytes.slice(start..start + len);
        tensors.push(Tensor { name: info.name, shape: info.shape, encoding, bytes });
    }
    Ok(Contents { metadata, tensors })
}

/// `general.alignment`, checked.
pub(super) fn alignment(metadata: &Metadata) -> Result<u64, FormatError> {
    const KEY: &str = "general.alignment";
    match metadata.get(KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(n)) if n.is_power_of_two() && u64::from(n) <= MAX_ALIGNMENT => Ok(n.into()),
        Some(Value::U32(n)) => Err(FormatError::metadata(
            metadata.file(),
            KEY,
            format!("expected a power of two up to {MAX_ALIGNMENT}, found {n}"),
        )),
        Some(other) => {
            Err(FormatError::metadata(metadata.file(), KEY, format!("expected u32, found {}", other.type_name())))
        }
    }
}

/// A tensor as the file declares it.
struct Info {
    name: String,
    /// Outermost dimension first.
    shape: Vec<usize>,
    rows: usize,
    cols: usize,
    type_id: u32,
    offset: u64,
}

/// Encoding and byte length of every tensor, after checking that each lies aligned inside the data section and that no
/// two overlap.
fn place(
    file: &str,
    infos: &[Info],
    data_len: u64,
    alignment: u64,
    options: &OpenOptions,
) -> Result<Vec<(Encoding, usize)>, FormatError> {
    let error = |info: &Info, reason: String| FormatError::tensor(file, &info.name, reason);
    let mut order: Vec<usize> = (0..infos.len()).collect();
    order.sort_by_key(|&i| infos[i].offset);
    // Distance to the next tensor or to the end of the data: what a tensor has room for.
    let mut spans = vec![0; infos.len()];
    for (place, &i) in order.iter().enumerate() {
        let info = &infos[i];
        if !info.offset.is_multiple_of(alignment) {
            return Err(error(info, format!("offset {} is not a multiple of the alignment {alignment}", info.offset)));
        }
        let Some(rest) = data_len.checked_sub(info.offset) else {
            return Err(error(
                info,
                format!(
                    "starts at byte {} of the data section, which has {data_len} bytes: the file is cut off; get it \
                     again",
                    info.offset
                ),
            ));
        };
        spans[i] = order.get(place + 1).map_or(rest, |&next| (infos[next].offset - info.offset).min(rest));
    }

    let meanings = infos
        .iter()
        .map(|info| type_id::meaning(info.type_id, options.i2s_layout).map_err(|reason| error(info, reason)))
        .collect::<Result<Vec<_>, _>>()?;
    let of_type_42 = || infos.iter().zip(&meanings).zip(&spans).filter(|((_, m), _)| matches!(m, Meaning::Q2_0));
    let q2_0 = match of_type_42().next() {
        None => Ok(Encoding::Q2_0), // not used
        Some(_) => type_id::q2_0(of_type_42().map(|((info, _), &span)| (info.rows, info.cols, span)), alignment),
    };

    let mut placed = Vec::with_capacity(infos.len());
    for ((info, meaning), &span) in infos.iter().zip(&meanings).zip(&spans) {
        let params = options.tile_params.get(&(info.rows, info.cols)).copied();
        let encoding = match meaning {
            Meaning::Is(encoding) => Ok(*encoding),
            Meaning::Tl1 => type_id::tl1(info.rows, info.cols, params),
            Meaning::Tl2OrMxfp4 => type_id::tl2_or_mxfp4(info.rows, info.cols, span, alignment, params),
            Meaning::Q2_0 => q2_0.clone(),
        }
        .map_err(|reason| error(info, reason))?;
        let len = encoding.byte_len(info.rows, info.cols).map_err(|e| error(info, e.to_string()))?;
        if len as u64 > data_len - info.offset {
            return Err(error(
                info,
                format!(
                    "needs bytes {}..{} of the data section, which has {data_len} bytes: the file is cut off; get it \
                     again",
                    info.offset,
                    u128::from(info.offset) + len as u128
                ),
            ));
        }
        if len as u64 > span {
            return Err(error(
                info,
                format!("{len} bytes at offset {} overlap the next tensor, {span} bytes further", info.offset),
            ));
        }
        placed.push((encoding, len));
    }
    Ok(placed)
}

/// Reads from the front; every length is checked against what is left before anything is reserved.
struct Cursor<'a> {
    file: &'a str,
    bytes: &'a Bytes,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn error(&self, reason: impl Into<String>) -> FormatError {
        FormatError::container(self.file, reason)
    }

    fn rest(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8], FormatError> {
        if len > self.rest() as u64 {
            return Err(self.error(format!(
                "{what} at byte {} needs {len} bytes, but the file has only {} more; it is damaged or cut off",
                self.at,
                self.rest()
            )));
        }
        let start = self.at;
        self.at += len as usize;
        Ok(&self.bytes[start..self.at])
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    fn u32(&mut self, what: &str) -> Result<u32, FormatError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, FormatError> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn string(&mut self, what: &str, longest: usize) -> Result<&'a str, FormatError> {
        let start = self.at;
        let len = self.u64(what)?;
        if len > longest as u64 {
            return Err(self.error(format!(
                "{what} at byte {start} claims {len} bytes, more than the {longest} allowed; the file is damaged"
            )));
        }
        std::str::from_utf8(self.take(len, what)?)
            .map_err(|e| self.error(format!("{what} at byte {start} is not UTF-8: {e}")))
    }

    /// A string that messages and listings show: control characters would write elsewhere on a terminal.
    fn name(&mut self, what: &str, longest: usize) -> Result<&'a str, FormatError> {
        let start = self.at;
        let name = self.string(what, longest)?;
        if name.is_empty() {
            return Err(self.error(format!("{what} at byte {start} is empty; the file is damaged")));
        }
        if name.contains(char::is_control) {
            return Err(
                self.error(format!("{what} {name:?} at byte {start} has control characters; the file is damaged"))
            );
        }
        Ok(name)
    }

    fn magic_and_version(&mut self) -> Result<u32, FormatError> {
        let magic: [u8; 4] = self.array("the magic number")?;
        if magic == *b"FUGG" {
            return Err(self.error(
                "the magic number is reversed (FUGG, expected GGUF): a draft of the format from before its first \
                 release, or a big-endian file; convert the original model again",
            ));
        }
        if magic != *MAGIC {
            return Err(self.error(format!("not a GGUF file: it starts with {magic:02x?}, expected \"GGUF\"")));
        }
        let version = self.u32("the version")?;
        match version {
            2 | 3 => Ok(version),
            1 => Err(self.error(
                "GGUF version 1 (32-bit counts, August 2023); versions 2 and 3 can be read: convert the original \
                 model again with a current converter",
            )),
            _ if version & 0xffff == 0 && version != 0 => Err(self.error(format!(
                "byte-swapped: the version reads {version:#010x}, which is version {} of a big-endian file; \
                 only little-endian files can be read: convert the model again on or for a little-endian machine",
                version.swap_bytes()
            ))),
            _ => Err(self.error(format!("GGUF version {version} is unknown; versions 2 and 3 can be read"))),
        }
    }

    fn metadata(&mut self, version: u32, count: u64) -> Result<Metadata, FormatError> {
        let mut seen = HashSet::new();
        let mut entries = Vec::new();
        for _ in 0..count {
            let start = self.at;
            let key = self.name("a metadata key", MAX_KEY)?;
            if !seen.insert(key) {
                return Err(FormatError::metadata(self.file, key, format!("stands twice, again at byte {start}")));
            }
            entries.push((key.to_owned(), self.value(key)?));
        }
        Ok(Metadata::from_entries(self.file, version, entries))
    }

    fn value(&mut self, key: &str) -> Result<Value, FormatError> {
        let what = format!("the value of {key}");
        let start = self.at;
        let kind = self.u32(&what)?;
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.array(&what)?)),
            1 => Value::I8(i8::from_le_bytes(self.array(&what)?)),
            2 => Value::U16(u16::from_le_bytes(self.array(&what)?)),
            3 => Value::I16(i16::from_le_bytes(self.array(&what)?)),
            4 => Value::U32(u32::from_le_bytes(self.array(&what)?)),
            5 => Value::I32(i32::from_le_bytes(self.array(&what)?)),
            6 => Value::F32(f32::from_le_bytes(self.array(&what)?)),
            7 => Value::Bool(self.bools(key, 1)?[0]),
            8 => Value::String(self.string(&what, usize::MAX)?.to_owned()),
            9 => Value::Array(self.array_value(key)?),
            10 => Value::U64(u64::from_le_bytes(self.array(&what)?)),
            11 => Value::I64(i64::from_le_bytes(self.array(&what)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(&what)?)),
            _ => {
                return Err(FormatError::metadata(
                    self.file,
                    key,
                    format!(
                        "value type {kind} at byte {start} is unknown (0 to 12 are defined); the rest of the file \
                             cannot be read"
                    ),
                ));
            }
        })
    }

    fn array_value(&mut self, key: &str) -> Result<Array, FormatError> {
        let what = format!("the array {key}");
        let kind = self.u32(&what)?;
        let count = self.u64(&what)?;
        if count > MAX_ARRAY {
            let reason = format!("claims {count} elements, more than the {MAX_ARRAY} allowed; the file is damaged");
            return Err(FormatError::metadata(self.file, key, reason));
        }
        macro_rules! numbers {
            ($array:ident, $number:ty) => {{
                const SIZE: usize = size_of::<$number>();
                let bytes = self.take(count * SIZE as u64, &what)?; // count <= 2^30: no overflow
                Array::$array(bytes.as_chunks::<SIZE>().0.iter().map(|&b| <$number>::from_le_bytes(b)).collect())
            }};
        }
        Ok(match kind {
            0 => numbers!(U8, u8),
            1 => numbers!(I8, i8),
            2 => numbers!(U16, u16),
            3 => numbers!(I16, i16),
            4 => numbers!(U32, u32),
            5 => numbers!(I32, i32),
            6 => numbers!(F32, f32),
            7 => Array::Bool(self.bools(key, count)?),
            8 => Array::String(self.strings(key, count)?),
            9 => return Err(FormatError::metadata(self.file, key, "arrays of arrays are not supported")),
            10 => numbers!(U64, u64),
            11 => numbers!(I64, i64),
            12 => numbers!(F64, f64),
            _ => {
                return Err(FormatError::metadata(
                    self.file,
                    key,
                    format!(
                        "array element type {kind} is unknown (0 to 12 are defined); the rest of the file cannot \
                             be read"
                    ),
                ));
            }
        })
    }

    fn bools(&mut self, key: &str, count: u64) -> Result<Vec<bool>, FormatError> {
        let bytes = self.take(count, key)?;
        if let Some(wrong) = bytes.iter().find(|&&b| b > 1) {
            return Err(FormatError::metadata(self.file, key, format!("expected a bool (0 or 1), found {wrong}")));
        }
        Ok(bytes.iter().map(|&b| b == 1).collect())
    }

    fn strings(&mut self, key: &str, count: u64) -> Result<StringArray, FormatError> {
        let what = format!("a string of the array {key}");
        if count * 8 > self.rest() as u64 {
            let reason = format!("claims {count} strings, but the file has only {} more bytes", self.rest());
            return Err(FormatError::metadata(self.file, key, reason));
        }
        let start = self.at;
        let mut spans = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let end_before = self.at;
            let len = self.string(&what, usize::MAX)?.len();
            match (u32::try_from(self.at - len - start), u32::try_from(self.at - start)) {
                (Ok(from), Ok(to)) => spans.push((from, to)),
                _ => {
                    return Err(FormatError::metadata(
                        self.file,
                        key,
                        format!("the strings up to byte {end_before} take more than 4 GiB"),
                    ));
                }
            }
        }
        Ok(StringArray::from_spans(self.bytes.slice(start..self.at), spans))
    }

    fn tensor_infos(&mut self, count: u64) -> Result<Vec<Info>, FormatError> {
        let mut seen = HashSet::new();
        let mut infos = Vec::new();
        for _ in 0..count {
            let start = self.at;
            let name = self.name("a tensor name", MAX_TENSOR_NAME)?;
            if !seen.insert(name) {
                return Err(FormatError::tensor(self.file, name, format!("stands twice, again at byte {start}")));
            }
            infos.push(self.tensor_info(name)?);
        }
        Ok(infos)
    }

    fn tensor_info(&mut self, name: &str) -> Result<Info, FormatError> {
        let what = format!("the entry of tensor {name}");
        let error = |reason: String| FormatError::tensor(self.file, name, reason);
        let n_dims = self.u32(&what)?;
        if !(1..=4).contains(&n_dims) {
            return Err(error(format!("expected 1 to 4 dimensions, found {n_dims}")));
        }
        let mut shape = Vec::with_capacity(4);
        for _ in 0..n_dims {
            let dim = self.u64(&what)?;
            let fits = usize::try_from(dim).ok().filter(|_| dim >= 1 && i64::try_from(dim).is_ok());
            shape.push(fits.ok_or_else(|| error(format!("expected a dimension from 1 to 2^63 - 1, found {dim}")))?);
        }
        shape.reverse();
        let product = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
        if product.is_none_or(|n| i64::try_from(n).is_err()) {
            return Err(error(format!("the number of elements of shape {shape:?} overflows 63 bits")));
        }
        let cols = shape[shape.len() - 1];
        let rows = shape[..shape.len() - 1].iter().product();
        let type_id = self.u32(&what)?;
        let offset = self.u64(&what)?;
        Ok(Info { name: name.to_owned(), shape, rows, cols, type_id, offset })
    }
}
