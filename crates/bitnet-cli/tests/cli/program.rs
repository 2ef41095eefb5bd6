//! Runs the binary.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// `bitnet` with these arguments and none of the caller's settings.
pub(crate) fn bitnet<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet"));
    for name in [
        "BITNET_API_KEYS",
        "HF_ENDPOINT",
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "BITNET_SEED",
        "BITNET_ISA",
        "BITNET_DETERMINISTIC",
        "BITNET_PERF_TRACK",
        "RAYON_NUM_THREADS",
        "RUST_LOG",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ] {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs to the end.
pub(crate) fn output<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    bitnet(args).output().expect("the program starts")
}

/// Runs to the end with a text on standard input.
pub(crate) fn output_with<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, input: &str) -> Output {
    let mut command = bitnet(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    // A program that ends early closes the pipe; that is its right.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().expect("the program ends");
    writer.join().expect("the writer ends");
    output
}

/// What the outcome must be.
pub(crate) trait Outcome {
    /// Exit status 0; gives standard output.
    fn succeeds(&self) -> String;
    /// This exit status and nothing on standard output; gives standard error.
    fn fails(&self, status: i32) -> String;
    /// Standard error.
    fn notes(&self) -> String;
}

impl Outcome for Output {
    fn succeeds(&self) -> String {
        assert_eq!(self.status.code(), Some(0), "{}", self.notes());
        String::from_utf8(self.stdout.clone()).expect("UTF-8")
    }

    fn fails(&self, status: i32) -> String {
        assert_eq!(self.status.code(), Some(status), "{}", self.notes());
        assert_eq!(String::from_utf8_lossy(&self.stdout), "");
        let notes = self.notes();
        assert!(!notes.contains("panicked"), "{notes}");
        notes
    }

    fn notes(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// A JSON result.
pub(crate) fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
}

/// A file of the shared data folder beside the checkout, or a loud `None`.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    if full.exists() {
        return Some(full);
    }
    eprintln!("SKIPPED: {} is not there", full.display());
    None
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8 path")
}
