//! A named, typed, shaped view of bytes, and one that is still to be made.

use crate::{Encoding, FormatError};
use bytes::Bytes;

/// A tensor of a checkpoint. Cloning is cheap: the bytes are shared with the memory map.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name in the file, for example `blk.0.attn_q.weight`.
    pub name: String,
    /// Outermost dimension first: a weight matrix is `[rows, cols]` = `[out features, in features]`
    /// (GGUF stores the reverse).
    pub shape: Vec<usize>,
    /// How the bytes encode the values.
    pub encoding: Encoding,
    /// Exactly the tensor's bytes (`encoding.byte_len(rows, cols)`), without alignment padding.
    pub bytes: Bytes,
}

impl Tensor {
    /// Number of logical elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True for a tensor without elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tensor as a matrix: all but the last dimension are rows. A vector is one row.
    pub fn matrix(&self) -> (usize, usize) {
        match self.shape.split_last() {
            None => (1, 1),
            Some((&cols, rest)) => (rest.iter().product(), cols),
        }
    }
}

/// One tensor for a writer: its bytes are produced when their turn comes, so that a model larger than memory can be
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
