//! Where the time of an engine goes: every verb of every step, timed beside the backend and not inside it.
//!
//! Asked for by [`EngineOptions::track`](crate::EngineOptions::track) or `BITNET_PERF_TRACK`; when it is not, a verb costs two branches
//! more.

mod environment;
mod process;
mod report;
mod tracked;
mod tracker;

pub use environment::PerfTrack;
pub use process::ProcessUse;
pub use report::{OperationReport, Percentiles, PhaseReport, SamplingReport, TrackReport, percentile};
pub use tracked::{Measurable, Tracked};
pub use tracker::{Phase, Tracker, Verb};
