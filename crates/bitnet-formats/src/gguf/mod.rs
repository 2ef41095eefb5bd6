//! GGUF v2 and v3 (formats.md §1): checked reading of whole and split files, typed metadata, safe writing.

mod metadata;
mod reader;
mod split;
mod type_id;
mod vocabulary;
mod writer;

pub use crate::TensorSource;
pub use metadata::{Array, Metadata, StringArray, Value};
pub(crate) use reader::MAGIC;
pub use split::parts;
pub(crate) use split::{read_all, read_memory};
pub use writer::write;

use crate::Tensor;

/// The file's alignment of tensor data when `general.alignment` is absent.
const DEFAULT_ALIGNMENT: u64 = 32;
/// `general.alignment` above this is a lie, not a need.
const MAX_ALIGNMENT: u64 = 64 << 10;
/// Longest tensor name, as in ggml (64 bytes with the terminator).
const MAX_TENSOR_NAME: usize = 63;
/// Longest metadata key.
const MAX_KEY: usize = 65535;

/// What one GGUF file holds.
pub(crate) struct Contents {
    pub(crate) metadata: Metadata,
    /// In the order of the file.
    pub(crate) tensors: Vec<Tensor>,
}
