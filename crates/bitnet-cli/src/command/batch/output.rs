//! The file of results: whole lines only, and what is there already is not asked again.

use anyhow::{Context, bail};
use serde_json::Value;
use std::collections::HashSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// Where results go.
pub(super) enum Output {
    /// Standard output, a pipe or a device: it has nothing to go on from.
    Stream(Box<dyn Write + Send>),
    File {
        file: File,
        path: PathBuf,
    },
}

impl Output {
    /// Opens the file, keeps other runs from it, and says which ids it has. A line that a crash cut off is taken away. No
    /// path, or `-`, is standard output.
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<(Self, HashSet<String>)> {
        let Some(path) = path.filter(|path| *path != "-") else {
            return Ok((Output::Stream(Box::new(io::stdout())), HashSet::new()));
        };
        if path.metadata().is_ok_and(|is| !is.is_file()) {
            let stream = OpenOptions::new().write(true).open(path).with_context(|| path.display().to_string())?;
            return Ok((Output::Stream(Box::new(stream)), HashSet::new()));
        }
        Self::open_file(path).with_context(|| path.display().to_string())
    }

    fn open_file(path: &Path) -> anyhow::Result<(Self, HashSet<String>)> {
        let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another run writes to it"),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let mut there = HashSet::new();
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        let mut whole = 0;
        for number in 1.. {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            let foreign = || format!("line {number} is no result of a batch; name another file");
            let result = serde_json::from_slice::<Value>(&line);
            // a file of questions has ids too
            let says = |result: &Value| ["text", "error", "response"].iter().any(|name| result.get(name).is_some());
            anyhow::ensure!(result.as_ref().map_or(true, says), foreign());
            if !line.ends_with(b"\n") {
                let ours = br#"{"id":"#;
                anyhow::ensure!(line.starts_with(ours) || ours.starts_with(&line), foreign());
                file.set_len(whole)?;
                break;
            }
            let result = result.with_context(foreign)?;
            there.insert(key(result.get("custom_id").or(result.get("id")).with_context(foreign)?));
            whole += read as u64;
        }
        Ok((Output::File { file, path: path.to_owned() }, there))
    }

    /// Writes a line, at once and whole.
    pub(super) fn write(&mut self, result: &Value) -> anyhow::Result<()> {
        let line = format!("{result}\n");
        match self {
            Output::Stream(stream) => {
                stream.write_all(line.as_bytes())?;
                Ok(stream.flush()?)
            }
            Output::File { file, path } => file.write_all(line.as_bytes()).with_context(|| path.display().to_string()),
        }
    }

    /// Waits until the disk has it.
    pub(super) fn sync(&self) -> anyhow::Result<()> {
        match self {
            Output::Stream(_) => Ok(()),
            Output::File { file, path } => file.sync_all().with_context(|| path.display().to_string()),
        }
    }
}

/// An id as it is compared: 1 and "1" are two.
pub(super) fn key(id: &Value) -> String {
    id.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_second_run_knows_the_first_and_repairs_its_last_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out.jsonl");
        let (mut output, there) = Output::open(Some(&path)).expect("a new file");
        assert!(there.is_empty());
        output.write(&json!({"id": 1, "text": "a"})).expect("written");
        output.write(&json!({"id": "batch_req_7", "custom_id": "x", "response": {}, "error": null})).expect("written");
        assert!(Output::open(Some(&path)).is_err(), "two runs at once");
        drop(output);
        let good = std::fs::read(&path).expect("a file");
        for cut in ["{", "{\"id\":2,\"text\":\"b"] {
            std::fs::write(&path, [&good, cut.as_bytes()].concat()).expect("written");
            let (_, there) = Output::open(Some(&path)).expect("a cut line is repaired");
            assert_eq!(there, HashSet::from(["1".to_owned(), "\"x\"".to_owned()]));
            assert_eq!(std::fs::read(&path).expect("a file"), good);
        }
    }

    #[test]
    fn files_of_others_stay_as_they_are() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("letter.txt");
        let questions =
            ["{\"id\":1,\"prompt\":\"a\"}\n", "{\"id\":1,\"prompt\":\"a\"}", "{\"custom_id\":\"a\",\"body\":{}}\n"];
        for text in ["Dear reader", "Dear reader\n", "{\"a\": 1}\n", "[1]\n"].into_iter().chain(questions) {
            std::fs::write(&path, text).expect("written");
            assert!(Output::open(Some(&path)).is_err(), "{text}");
            assert_eq!(std::fs::read_to_string(&path).expect("a file"), text);
        }
    }
}
