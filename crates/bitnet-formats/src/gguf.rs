//! GGUF v2/v3 (formats.md §1). Will become a folder: `gguf/{mod,metadata,reader,writer,split}.rs`.

use crate::{Encoding, FormatError};
use bytes::Bytes;
use std::path::Path;

/// A typed metadata value. String arrays stay in the file's bytes until asked for.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    U64(u64),
    I64(i64),
    F64(f64),
    Array(Array),
}

/// A typed array.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(StringArray),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// Strings of an array, kept as one block of bytes with offsets: a vocabulary of 280,147 merges costs one allocation.
#[derive(Clone, Debug, PartialEq)]
pub struct StringArray {
    bytes: Bytes,
    /// Start and end of every string in `bytes`.
    spans: Vec<(u32, u32)>,
}

impl StringArray {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.spans.len()
    }
    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
    /// The strings in order (checked to be UTF-8 when the file was opened).
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.spans.iter().map(|&(a, b)| std::str::from_utf8(&self.bytes[a as usize..b as usize]).unwrap_or_default())
    }
    /// String `i`.
    pub fn get(&self, i: usize) -> Option<&str> {
        let &(a, b) = self.spans.get(i)?;
        std::str::from_utf8(&self.bytes[a as usize..b as usize]).ok()
    }
}

/// All key–value pairs of a file, in file order, with typed access.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// GGUF version of the file (2 or 3).
    pub version: u32,
    entries: Vec<(String, Value)>,
}

impl Metadata {
    /// An empty set for writing.
    pub fn new() -> Self {
        todo!()
    }
    /// All pairs in file order.
    pub fn entries(&self) -> &[(String, Value)] {
        &self.entries
    }
    /// The raw value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let _ = key;
        todo!()
    }
    /// Sets or replaces a value.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        let _ = (key.into(), value);
        todo!()
    }
    /// Any unsigned or non-negative integer type that fits; `Ok(None)` when absent, an error when of another type.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, FormatError> {
        let _ = key;
        todo!()
    }
    /// A finite float (f32 or f64).
    pub fn f32(&self, key: &str) -> Result<Option<f32>, FormatError> {
        let _ = key;
        todo!()
    }
    /// A boolean.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, FormatError> {
        let _ = key;
        todo!()
    }
    /// A string.
    pub fn string(&self, key: &str) -> Result<Option<&str>, FormatError> {
        let _ = key;
        todo!()
    }
    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&StringArray>, FormatError> {
        let _ = key;
        todo!()
    }
    /// An array of f32.
    pub fn f32s(&self, key: &str) -> Result<Option<&[f32]>, FormatError> {
        let _ = key;
        todo!()
    }
    /// An array of i32.
    pub fn i32s(&self, key: &str) -> Result<Option<&[i32]>, FormatError> {
        let _ = key;
        todo!()
    }
}

/// One tensor for [`write`]: its bytes are produced when their turn comes, so that a model larger than memory can be
/// converted.
pub struct TensorSource<'a> {
    /// Name.
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Encoding of the bytes.
    pub encoding: Encoding,
    /// Makes exactly `encoding.byte_len(..)` bytes.
    #[allow(clippy::type_complexity)]
    pub bytes: Box<dyn FnOnce() -> Result<Bytes, FormatError> + 'a>,
}

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
    let _ = (path, metadata, tensors, progress, check);
    todo!()
}
