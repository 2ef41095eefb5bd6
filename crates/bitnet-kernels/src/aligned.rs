//! A fixed-size buffer that starts on a cache line.

use std::ops::{Deref, DerefMut};

use crate::KernelError;

/// Bytes of a cache line, and of the widest vector register.
const LINE: usize = 64;

/// `len` values, zero at first, the first of them on a 64-byte boundary, so that full-width loads never straddle two
/// cache lines. The memory comes zeroed from the operating system and is not touched here: a KV cache takes physical
/// pages only as it fills.
pub(crate) struct Aligned<T> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// A zeroed buffer; `what` names it in the error.
    pub(crate) fn zeroed(what: &'static str, len: usize) -> Result<Self, KernelError> {
        let refused = || KernelError::Memory { what, bytes: len.saturating_mul(size_of::<T>()) };
        let padded = len.checked_add(LINE / size_of::<T>()).ok_or_else(refused)?;
        // `vec!` gets lazily zeroed pages but aborts when there are none, so ask first.
        Vec::<T>::new().try_reserve_exact(padded).map_err(|_| refused())?;
        let data = vec![T::default(); padded];
        let start = data.as_ptr().align_offset(LINE);
        Ok(Aligned { data, start, len })
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.data[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..self.start + self.len]
    }
}
