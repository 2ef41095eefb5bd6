//! What `BITNET_PERF_TRACK` asks for is written when the program ends, however it ends.

use crate::whole_file::whole_file;
use anyhow::Context;
use bitnet::inference::tracking::{PerfTrack, Tracker};
use serde_json::json;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The engines of this program, with the time that opening them took.
static ENGINES: Mutex<Vec<(Arc<Tracker>, Duration)>> = Mutex::new(Vec::new());

/// Remembers an engine.
pub(crate) fn keep(tracker: &Arc<Tracker>, load: Duration) {
    ENGINES.lock().unwrap_or_else(PoisonError::into_inner).push((tracker.clone(), load));
}

/// Writes the records of all engines: tables to standard error, and JSON to the file or below them.
pub(crate) fn finish() -> anyhow::Result<()> {
    let wish = PerfTrack::from_env()?;
    let engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
    if !wish.is_on() || engines.is_empty() {
        return Ok(());
    }
    let reports: Vec<_> = engines.iter().map(|(tracker, load)| tracker.report(*load)).collect();
    let record = json!({
        "schema": "bitnet-perf-track/1",
        "bitnet": env!("CARGO_PKG_VERSION"),
        "command": std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>(),
        "engines": reports,
    });
    let mut notes = io::stderr().lock();
    // a closed standard error is nothing to die of
    let _ = reports.iter().try_for_each(|report| write!(notes, "{report}"));
    match wish {
        PerfTrack::File(path) => whole_file(&path, |file| Ok(writeln!(file, "{record:#}")?))
            .with_context(|| format!("BITNET_PERF_TRACK: cannot write {}", path.display())),
        _ => {
            let _ = writeln!(notes, "{record}");
            Ok(())
        }
    }
}
