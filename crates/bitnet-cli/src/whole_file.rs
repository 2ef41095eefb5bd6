//! Files that are whole, or not there.

use std::fs::File;
use std::path::Path;

/// Writes a file under another name, and gives it its own when it is whole. Pipes and devices are written as they are.
pub(crate) fn whole_file(path: &Path, write: impl FnOnce(&mut File) -> anyhow::Result<()>) -> anyhow::Result<()> {
    if path.metadata().is_ok_and(|is| !is.is_file()) {
        return write(&mut File::create(path)?);
    }
    let part = path.with_added_extension("part");
    let mut file = File::create(&part)?;
    let written = write(&mut file).and_then(|()| Ok(std::fs::rename(&part, path)?));
    if written.is_err() {
        let _ = std::fs::remove_file(&part); // the error that counts is the one being returned
    }
    written
}
