//! The record of an engine: what its steps did, and how long it took.

use crate::tracking::ProcessUse;
use crate::tracking::report::{OperationReport, PhaseReport, SamplingReport, TrackReport, percentiles};
use bitnet_kernels::Isa;
use serde::Serialize;
use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Durations of steps that are kept for percentiles: the latest ones.
const KEPT: usize = 1 << 16;

/// What a step is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Several tokens of a prompt (and tokens of other sequences with them).
    Prompt,
    /// One more token for every sequence.
    Decode,
    /// Logits at many positions, or embeddings.
    Scoring,
}

impl Phase {
    /// In the order of reports.
    pub const ALL: [Phase; 3] = [Phase::Prompt, Phase::Decode, Phase::Scoring];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Prompt => "prompt",
            Phase::Decode => "decode",
            Phase::Scoring => "scoring",
        }
    }
}

/// A verb of [`Backend`](bitnet_kernels::Backend) that takes part in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // they are documented where they are defined
pub enum Verb {
    Embed,
    Norm,
    NormQuantize,
    TernaryMatmul,
    TernaryAdd,
    TernaryGated,
    DenseMatmul,
    RopeStore,
    Attend,
    GatedActivation,
    Add,
    Logits,
    Read,
}

impl Verb {
    /// The name in reports: that of the method.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Embed => "embed",
            Verb::Norm => "norm",
            Verb::NormQuantize => "norm_quantize",
            Verb::TernaryMatmul => "ternary_matmul",
            Verb::TernaryAdd => "ternary_add",
            Verb::TernaryGated => "ternary_gated",
            Verb::DenseMatmul => "dense_matmul",
            Verb::RopeStore => "rope_store",
            Verb::Attend => "attend",
            Verb::GatedActivation => "gated_activation",
            Verb::Add => "add",
            Verb::Logits => "logits",
            Verb::Read => "read",
        }
    }
}

/// What a call of a verb is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) verb: Verb,
    /// Channels in and out: calls of the same shape are counted together.
    pub(super) cols: usize,
    pub(super) rows: usize,
    /// Bytes read and written, each once.
    pub(super) bytes: u64,
    /// Additions and multiplications of matrix products and attention.
    pub(super) operations: u64,
}

/// Everything measured so far. Threads that compute at the same time add to the same record.
#[derive(Debug)]
pub struct Tracker {
    isa: Isa,
    threads: usize,
    begin: Instant,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    operations: Vec<Operation>,
    /// Where the next one is looked for first: steps repeat themselves.
    likely: usize,
    steps: [Steps; Phase::ALL.len()],
    sampling: (u64, Duration),
}

#[derive(Debug)]
struct Operation {
    phase: Phase,
    /// Bytes and operations of all calls.
    work: Work,
    calls: u64,
    time: Duration,
}

#[derive(Debug, Default)]
struct Steps {
    count: u64,
    tokens: u64,
    time: Duration,
    /// Of the latest [`KEPT`] steps, in a ring.
    durations: Vec<Duration>,
}

/// A step in progress on this thread: its phase, and when its last verb ended.
#[derive(Clone, Copy)]
struct Mark {
    phase: Phase,
    last: Option<Instant>,
}

thread_local! {
    static MARK: Cell<Option<Mark>> = const { Cell::new(None) };
}

impl Tracker {
    pub(super) fn new(isa: Isa, threads: usize) -> Self {
        Tracker { isa, threads, begin: Instant::now(), record: Mutex::default() }
    }

    /// Begins a step on this thread, which ends when the result is dropped.
    pub(super) fn step(&self, phase: Phase, tokens: usize) -> Step<'_> {
        MARK.set(Some(Mark { phase, last: None }));
        Step { tracker: self, phase, tokens, begin: Instant::now() }
    }

    /// When the verb that is about to run begins: when the last one of the step ended, which saves a look at the clock.
    pub(super) fn verb_begin(&self) -> Instant {
        MARK.get().and_then(|mark| mark.last).unwrap_or_else(Instant::now)
    }

    /// A verb that began at `begin` has just ended.
    pub(super) fn verb_end(&self, begin: Instant, work: Work) {
        let now = Instant::now();
        let phase = MARK.get().map_or(Phase::Scoring, |mark| mark.phase);
        MARK.set(MARK.get().map(|mark| Mark { last: Some(now), ..mark }));
        self.record().add(phase, work, now - begin);
    }

    pub(crate) fn sampled(&self, time: Duration) {
        let sampling = &mut self.record().sampling;
        sampling.0 += 1;
        sampling.1 += time;
    }

    /// What was measured so far; `load` is how long opening the engine took.
    pub fn report(&self, load: Duration) -> TrackReport {
        let wall = self.begin.elapsed();
        let record = self.record();
        let mut operations: Vec<_> = record.operations.iter().map(Operation::report).collect();
        operations.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let phase = |phase: Phase| {
            let steps = &record.steps[phase as usize];
            let tracked = operations.iter().filter(|o| o.phase == phase).map(|o| o.seconds).sum();
            let mut durations: Vec<_> = steps.durations.iter().map(Duration::as_secs_f64).collect();
            durations.sort_by(f64::total_cmp);
            (steps.count > 0).then(|| PhaseReport {
                phase,
                steps: steps.count,
                tokens: steps.tokens,
                seconds: steps.time.as_secs_f64(),
                operations_seconds: tracked,
                step_seconds: percentiles(&durations),
            })
        };
        TrackReport {
            isa: self.isa.name(),
            threads: self.threads,
            load_seconds: load.as_secs_f64(),
            wall_seconds: wall.as_secs_f64(),
            phases: Phase::ALL.into_iter().filter_map(phase).collect(),
            operations,
            sampling: SamplingReport { tokens: record.sampling.0, seconds: record.sampling.1.as_secs_f64() },
            process: ProcessUse::now(),
        }
    }

    /// Forgets what was measured.
    pub fn clear(&self) {
        *self.record() = Record::default();
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A step in progress.
pub(crate) struct Step<'t> {
    tracker: &'t Tracker,
    phase: Phase,
    tokens: usize,
    begin: Instant,
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        let time = self.begin.elapsed();
        MARK.set(None);
        self.tracker.record().steps[self.phase as usize].add(self.tokens, time);
    }
}

impl Record {
    fn add(&mut self, phase: Phase, work: Work, time: Duration) {
        let same = |o: &Operation| {
            o.phase == phase && (o.work.verb, o.work.cols, o.work.rows) == (work.verb, work.cols, work.rows)
        };
        let at = match self.operations.get(self.likely).is_some_and(same) {
            true => self.likely,
            false => self.operations.iter().position(same).unwrap_or_else(|| {
                self.operations.push(Operation {
                    phase,
                    work: Work { bytes: 0, operations: 0, ..work },
                    calls: 0,
                    time: Duration::ZERO,
                });
                self.operations.len() - 1
            }),
        };
        let operation = &mut self.operations[at];
        operation.calls += 1;
        operation.time += time;
        operation.work.bytes += work.bytes;
        operation.work.operations += work.operations;
        self.likely = at + 1;
    }
}

impl Steps {
    fn add(&mut self, tokens: usize, time: Duration) {
        match self.durations.get_mut(self.count as usize % KEPT) {
            Some(oldest) if self.count as usize >= KEPT => *oldest = time,
            _ => self.durations.push(time),
        }
        self.count += 1;
        self.tokens += tokens as u64;
        self.time += time;
    }
}

impl Operation {
    fn report(&self) -> OperationReport {
        OperationReport {
            phase: self.phase,
            verb: self.work.verb,
            cols: self.work.cols,
            rows: self.work.rows,
            calls: self.calls,
            seconds: self.time.as_secs_f64(),
            bytes: self.work.bytes,
            operations: self.work.operations,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Work = Work { verb: Verb::Add, cols: 8, rows: 8, bytes: 100, operations: 7 };

    fn tracker() -> Tracker {
        Tracker::new(Isa::Scalar, 3)
    }

    #[test]
    fn calls_of_one_shape_are_one_line() {
        let mut record = Record::default();
        let ms = Duration::from_millis;
        record.add(Phase::Decode, WORK, ms(2));
        record.add(Phase::Decode, WORK, ms(3));
        record.add(Phase::Prompt, WORK, ms(5));
        record.add(Phase::Decode, Work { cols: 9, ..WORK }, ms(7));
        record.add(Phase::Decode, Work { verb: Verb::Read, ..WORK }, ms(11));
        assert_eq!(record.operations.len(), 4);
        let first = record.operations[0].report();
        assert_eq!((first.calls, first.bytes, first.operations), (2, 200, 14));
        assert!((first.seconds - 0.005).abs() < 1e-12);
    }

    #[test]
    fn verbs_of_a_step_follow_each_other_without_gaps() {
        let tracker = tracker();
        let step = tracker.step(Phase::Decode, 2);
        let first = tracker.verb_begin();
        tracker.verb_end(first, WORK);
        let second = tracker.verb_begin();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(tracker.verb_begin(), second, "the end of the first verb, not now");
        tracker.verb_end(second, WORK);
        drop(step);
        let report = tracker.report(Duration::ZERO);
        assert_eq!(report.operations.len(), 1);
        assert_eq!((report.phases[0].steps, report.phases[0].tokens), (1, 2));
        assert!(report.operations[0].seconds >= 0.005 && report.phases[0].seconds >= report.operations[0].seconds);
        assert!(tracker.verb_begin() > second, "no step, no mark");
    }

    #[test]
    fn other_threads_do_not_see_the_step() {
        let tracker = tracker();
        let step = tracker.step(Phase::Decode, 1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let step = tracker.step(Phase::Scoring, 5);
                tracker.verb_end(tracker.verb_begin(), WORK);
                drop(step);
            });
        });
        tracker.verb_end(tracker.verb_begin(), WORK);
        drop(step);
        let report = tracker.report(Duration::ZERO);
        assert_eq!(report.operations.iter().map(|o| o.calls).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(
            report.phases.iter().map(|p| (p.phase, p.tokens)).collect::<Vec<_>>(),
            [(Phase::Decode, 1), (Phase::Scoring, 5)]
        );
    }

    #[test]
    fn durations_are_bounded_and_the_latest_stay() {
        let mut steps = Steps::default();
        for i in 0..KEPT as u64 + 3 {
            steps.add(1, Duration::from_nanos(i));
        }
        assert_eq!((steps.durations.len(), steps.count), (KEPT, KEPT as u64 + 3));
        assert_eq!(steps.durations[2], Duration::from_nanos(KEPT as u64 + 2));
        assert_eq!(steps.durations[3], Duration::from_nanos(3));
    }

    #[test]
    fn cleared_is_empty() {
        let tracker = tracker();
        tracker.verb_end(tracker.verb_begin(), WORK);
        tracker.sampled(Duration::from_millis(1));
        drop(tracker.step(Phase::Prompt, 1));
        tracker.clear();
        let report = tracker.report(Duration::from_secs(2));
        assert!(report.operations.is_empty() && report.phases.is_empty() && report.sampling.tokens == 0);
        assert_eq!((report.isa, report.threads, report.load_seconds), ("scalar", 3, 2.0));
    }
}
