//! Key–value pairs with typed access.

use crate::FormatError;
use bytes::Bytes;

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

impl Value {
    /// The type in words, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::U8(_) => "u8",
            Value::I8(_) => "i8",
            Value::U16(_) => "u16",
            Value::I16(_) => "i16",
            Value::U32(_) => "u32",
            Value::I32(_) => "i32",
            Value::F32(_) => "f32",
            Value::Bool(_) => "bool",
            Value::String(_) => "string",
            Value::U64(_) => "u64",
            Value::I64(_) => "i64",
            Value::F64(_) => "f64",
            Value::Array(array) => match array {
                Array::U8(_) => "array of u8",
                Array::I8(_) => "array of i8",
                Array::U16(_) => "array of u16",
                Array::I16(_) => "array of i16",
                Array::U32(_) => "array of u32",
                Array::I32(_) => "array of i32",
                Array::F32(_) => "array of f32",
                Array::Bool(_) => "array of bool",
                Array::String(_) => "array of string",
                Array::U64(_) => "array of u64",
                Array::I64(_) => "array of i64",
                Array::F64(_) => "array of f64",
            },
        }
    }
}

/// A typed array. Arrays of arrays are refused when a file is read.
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
#[derive(Clone, Debug)]
pub struct StringArray {
    bytes: Bytes,
    /// Start and end of every string in `bytes`; each span is valid UTF-8.
    spans: Vec<(u32, u32)>,
}

impl StringArray {
    /// An array for writing.
    ///
    /// # Errors
    /// More than 4 GiB of text.
    pub fn new<S: AsRef<str>>(strings: impl IntoIterator<Item = S>) -> Result<Self, FormatError> {
        let mut bytes = Vec::new();
        let mut spans = Vec::new();
        for string in strings {
            let start = bytes.len();
            bytes.extend_from_slice(string.as_ref().as_bytes());
            match (u32::try_from(start), u32::try_from(bytes.len())) {
                (Ok(start), Ok(end)) => spans.push((start, end)),
                _ => return Err(FormatError::container("<memory>", "an array of strings holds more than 4 GiB")),
            }
        }
        Ok(Self { bytes: bytes.into(), spans })
    }

    /// `spans` must lie inside `bytes` and be UTF-8.
    pub(super) fn from_spans(bytes: Bytes, spans: Vec<(u32, u32)>) -> Self {
        Self { bytes, spans }
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.spans.iter().map(|&span| self.text(span))
    }

    /// String `i`.
    pub fn get(&self, i: usize) -> Option<&str> {
        self.spans.get(i).map(|&span| self.text(span))
    }

    /// Every span was checked when the array was made; an empty string can only mean that the file changed under us.
    fn text(&self, (start, end): (u32, u32)) -> &str {
        self.bytes.get(start as usize..end as usize).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default()
    }
}

impl PartialEq for StringArray {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// All key–value pairs of a file, in file order, with typed access.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// GGUF version of the file (2 or 3).
    pub version: u32,
    /// For messages.
    file: String,
    entries: Vec<(String, Value)>,
}

impl Default for Metadata {
    fn default() -> Self {
        Self::new()
    }
}

impl Metadata {
    /// An empty set for writing.
    pub fn new() -> Self {
        Self::from_entries("<memory>", 3, Vec::new())
    }

    /// `entries` must not hold a key twice.
    pub(super) fn from_entries(file: &str, version: u32, entries: Vec<(String, Value)>) -> Self {
        Self { version, file: file.to_owned(), entries }
    }

    /// Name of the file it was read from, for messages.
    pub(super) fn file(&self) -> &str {
        &self.file
    }

    /// All pairs in file order.
    pub fn entries(&self) -> &[(String, Value)] {
        &self.entries
    }

    /// The raw value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    /// Sets or replaces a value.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.entries.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) => *old = value,
            None => self.entries.push((key, value)),
        }
    }

    /// Removes a value and returns it.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.entries.iter().position(|(k, _)| k == key)?;
        Some(self.entries.remove(at).1)
    }

    /// A value of any integer type that is not negative; `Ok(None)` when absent.
    ///
    /// # Errors
    /// The value is negative or of another type.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let signed = match *value {
            Value::U8(v) => return Ok(Some(v.into())),
            Value::U16(v) => return Ok(Some(v.into())),
            Value::U32(v) => return Ok(Some(v.into())),
            Value::U64(v) => return Ok(Some(v)),
            Value::I8(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::I64(v) => v,
            _ => return Err(self.wrong_type(key, value, "an integer")),
        };
        match u64::try_from(signed) {
            Ok(v) => Ok(Some(v)),
            Err(_) => Err(FormatError::metadata(&self.file, key, format!("{signed} is negative"))),
        }
    }

    /// A finite float (f32 or f64).
    ///
    /// # Errors
    /// The value is NaN, infinite, too large for f32 or of another type.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let float = match *value {
            Value::F32(v) => v,
            Value::F64(v) => v as f32,
            _ => return Err(self.wrong_type(key, value, "a float")),
        };
        if !float.is_finite() {
            return Err(FormatError::metadata(&self.file, key, format!("{float} is not a finite number")));
        }
        Ok(Some(float))
    }

    /// A boolean.
    ///
    /// # Errors
    /// The value is of another type.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(&Value::Bool(v)) => Ok(Some(v)),
            Some(other) => Err(self.wrong_type(key, other, "a bool")),
        }
    }

    /// A string.
    ///
    /// # Errors
    /// The value is of another type.
    pub fn string(&self, key: &str) -> Result<Option<&str>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(v)) => Ok(Some(v)),
            Some(other) => Err(self.wrong_type(key, other, "a string")),
        }
    }

    /// An array of strings.
    ///
    /// # Errors
    /// The value is of another type.
    pub fn strings(&self, key: &str) -> Result<Option<&StringArray>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::String(v))) => Ok(Some(v)),
            Some(other) => Err(self.wrong_type(key, other, "an array of string")),
        }
    }

    /// An array of f32.
    ///
    /// # Errors
    /// The value is of another type.
    pub fn f32s(&self, key: &str) -> Result<Option<&[f32]>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::F32(v))) => Ok(Some(v)),
            Some(other) => Err(self.wrong_type(key, other, "an array of f32")),
        }
    }

    /// An array of i32.
    ///
    /// # Errors
    /// The value is of another type.
    pub fn i32s(&self, key: &str) -> Result<Option<&[i32]>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::I32(v))) => Ok(Some(v)),
            Some(other) => Err(self.wrong_type(key, other, "an array of i32")),
        }
    }

    fn wrong_type(&self, key: &str, found: &Value, wanted: &str) -> FormatError {
        FormatError::metadata(&self.file, key, format!("expected {wanted}, found {}", found.type_name()))
    }
}
