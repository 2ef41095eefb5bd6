//! A fixed-size buffer that starts on a cache line.

use std::ops::{Deref, DerefMut};

use bytemuck::Pod;

use crate::KernelError;

/// Bytes of a cache line, and of the widest vector register.
const LINE: usize = 64;
/// Bytes of a huge page of x86-64, and of aarch64 with pages of 4 KiB.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

/// `len` values, zero at first, the first of them on a 64-byte boundary, so that full-width loads never straddle two
/// cache lines. The memory comes zeroed from the operating system and is not touched here: a KV cache takes physical
/// pages only as it fills.
///
/// Large buffers ask Linux for huge pages: the rows of many tokens lie on more pages than the processor keeps in mind.
pub(crate) struct Aligned<T> {
    memory: Memory<T>,
    /// Of the first value, in values.
    start: usize,
    len: usize,
}

enum Memory<T> {
    Heap(Vec<T>),
    #[cfg(target_os = "linux")]
    Map(memmap2::MmapMut),
}

impl<T: Pod> Aligned<T> {
    /// A zeroed buffer; `what` names it in the error.
    pub(crate) fn zeroed(what: &'static str, len: usize) -> Result<Self, KernelError> {
        let refused = || KernelError::Memory { what, bytes: len.saturating_mul(size_of::<T>()) };
        #[cfg(target_os = "linux")]
        if let Some(bytes) = len.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(HUGE_PAGE))
            && bytes >= HUGE_PAGE + (128 << 10)
        {
            let map = memmap2::MmapMut::map_anon(bytes).map_err(|_| refused())?;
            // A wish; without it the buffer works as well.
            let _ = map.advise(memmap2::Advice::HugePage);
            let start = map.as_ptr().align_offset(HUGE_PAGE) / size_of::<T>();
            return Ok(Aligned { memory: Memory::Map(map), start, len });
        }
        let padded = len.checked_add(LINE / size_of::<T>()).ok_or_else(refused)?;
        // `vec!` gets lazily zeroed pages but aborts when there are none, so ask first.
        Vec::<T>::new().try_reserve_exact(padded).map_err(|_| refused())?;
        let data = vec![T::zeroed(); padded];
        let start = data.as_ptr().align_offset(LINE);
        assert!(start + len <= padded, "values as aligned as they are long reach every cache line");
        Ok(Aligned { memory: Memory::Heap(data), start, len })
    }
}

impl<T: Pod> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        #[cfg_attr(not(target_os = "linux"), expect(clippy::infallible_destructuring_match, reason = "one kind there"))]
        let values = match &self.memory {
            Memory::Heap(data) => data,
            #[cfg(target_os = "linux")]
            Memory::Map(map) => whole_values(map),
        };
        &values[self.start..self.start + self.len]
    }
}

impl<T: Pod> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        #[cfg_attr(not(target_os = "linux"), expect(clippy::infallible_destructuring_match, reason = "one kind there"))]
        let values = match &mut self.memory {
            Memory::Heap(data) => data,
            #[cfg(target_os = "linux")]
            Memory::Map(map) => {
                let len = map.len() / size_of::<T>() * size_of::<T>();
                bytemuck::cast_slice_mut(&mut map[..len])
            }
        };
        &mut values[self.start..self.start + self.len]
    }
}

/// A map begins on a page, which suits every alignment; what is too short for a value is left out.
#[cfg(target_os = "linux")]
fn whole_values<T: Pod>(map: &[u8]) -> &[T] {
    bytemuck::cast_slice(&map[..map.len() / size_of::<T>() * size_of::<T>()])
}
