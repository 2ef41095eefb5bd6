//! The memory map: the only `unsafe` of this crate.

use crate::FormatError;
use bytes::Bytes;
use std::fs::File;
use std::path::Path;

/// Maps a file for reading. The pages are shared with the page cache, nothing is copied.
///
/// # Errors
/// The file cannot be opened, is not a regular file, or cannot be mapped.
pub fn map(path: &Path) -> Result<Bytes, FormatError> {
    let io = |source| FormatError::Io { path: path.to_owned(), source };
    // Before opening it: that waits for a pipe's other end.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(FormatError::container(
            &path.display().to_string(),
            "not a regular file; a model is mapped into memory, so pipes and devices cannot be used",
        ));
    }
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() == 0 {
        return Ok(Bytes::new()); // an empty map is an error on most systems
    }
    map_file(&file).map(Bytes::from_owner).map_err(io)
}

#[allow(unsafe_code)]
fn map_file(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the map is read-only and every access goes through a slice of the length found here, so no file content
    // can make the program read outside it. What the type system cannot see is another process that changes or cuts
    // the file while it is mapped: as with every mapped model the file must be left alone while it is open (replace it
    // by renaming, as our writer does). A cut then ends the process with SIGBUS; it never reads foreign memory.
    unsafe { memmap2::Mmap::map(file) }
}
