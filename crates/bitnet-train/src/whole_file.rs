//! Files that appear whole or not at all.

use crate::TrainError;
use std::io::Write;
use std::path::Path;
use tempfile::NamedTempFile;

/// A file beside `path`, which it may take the place of when it is whole.
pub(crate) fn beside(path: &Path) -> Result<NamedTempFile, TrainError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        // for everyone whom the umask allows, not private as temporary files are
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.suffix(".part").tempfile_in(dir).map_err(TrainError::file(dir))
}

/// Writes the whole file, to the disk.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let mut file = beside(path)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(TrainError::file(path))?;
    file.persist(path).map_err(|e| TrainError::File { path: path.to_owned(), source: e.error })?;
    Ok(())
}
