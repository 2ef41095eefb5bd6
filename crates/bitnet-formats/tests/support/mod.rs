//! Where the shared data lies, and GGUF bytes made by hand.
#![allow(dead_code)] // every test file uses its part

use std::path::PathBuf;

/// A file of the shared data, or `None` (with a line in the output) on a machine without it.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let full = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    if !full.exists() {
        eprintln!("SKIPPED: {} is absent", full.display());
        return None;
    }
    Some(full)
}
