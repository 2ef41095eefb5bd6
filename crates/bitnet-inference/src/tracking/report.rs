//! A record in numbers and as a table.

use crate::tracking::{Phase, ProcessUse, Verb};
use serde::Serialize;
use std::fmt;

/// Where the time of an engine went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrackReport {
    /// Instruction-set tier of the verbs.
    pub isa: &'static str,
    /// Threads of the verbs.
    pub threads: usize,
    /// Seconds to open the engine.
    pub load_seconds: f64,
    /// Seconds since then; what is in no phase went to other work or to waiting.
    pub wall_seconds: f64,
    /// Steps by what they were for.
    pub phases: Vec<PhaseReport>,
    /// Verbs by shape, the longest time first.
    pub operations: Vec<OperationReport>,
    /// Choosing tokens.
    pub sampling: SamplingReport,
    /// Memory and processor time.
    pub process: ProcessUse,
}

/// The steps of one phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PhaseReport {
    /// What they were for.
    pub phase: Phase,
    /// How many.
    pub steps: u64,
    /// Tokens that went through them.
    pub tokens: u64,
    /// Their time.
    pub seconds: f64,
    /// The part of it that lies in operations.
    pub operations_seconds: f64,
    /// 50th, 95th and 99th percentile of the time of a step, over the latest 65,536.
    pub step_seconds: Percentiles,
}

/// Calls of one verb with one shape.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OperationReport {
    /// The steps they belong to.
    pub phase: Phase,
    /// Which verb.
    pub verb: Verb,
    /// Channels in.
    pub cols: usize,
    /// Channels out.
    pub rows: usize,
    /// How many calls.
    pub calls: u64,
    /// Their time.
    pub seconds: f64,
    /// Bytes of weights, activations, keys and values read and written, each once per call.
    pub bytes: u64,
    /// Additions and multiplications of matrix products and attention; 0 where they are not counted.
    pub operations: u64,
}

/// Choosing tokens from logits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SamplingReport {
    /// How many.
    pub tokens: u64,
    /// Their time.
    pub seconds: f64,
}

/// Seconds that half, 95 % and 99 % of all values do not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[allow(missing_docs)] // the names say it
pub struct Percentiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

/// Of ascending values: NaN if there are none.
pub(super) fn percentiles(ascending: &[f64]) -> Percentiles {
    let at = |p| percentile(ascending, p);
    Percentiles { p50: at(50.0), p95: at(95.0), p99: at(99.0) }
}

/// The smallest of the ascending values that `percent` per cent of them do not exceed (nearest rank); NaN if there are none.
pub fn percentile(ascending: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * ascending.len() as f64).ceil() as usize;
    ascending.get(rank.clamp(1, ascending.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

impl TrackReport {
    /// Seconds in steps and in choosing tokens: all that the engine did.
    pub fn busy_seconds(&self) -> f64 {
        self.phases.iter().map(|p| p.seconds).sum::<f64>() + self.sampling.seconds
    }
}

const BAR: usize = 24;

/// A table like a flame graph: phases, and below each its operations by their share of it.
impl fmt::Display for TrackReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<42} {:>9} {:>10} {:>7} {:>9} {:>9}",
            format!("{}, {} thread{}", self.isa, self.threads, if self.threads == 1 { "" } else { "s" }),
            "calls",
            "ms",
            "%",
            "GB/s",
            "Gop/s"
        )?;
        for phase in &self.phases {
            line(f, &format!("{}: {} tokens", phase.phase.name(), phase.tokens), phase.steps, phase.seconds, 100.0)?;
            writeln!(f)?;
            for o in self.operations.iter().filter(|o| o.phase == phase.phase) {
                let share = o.seconds / phase.seconds;
                let shape = if o.cols == o.rows { format!("{}", o.cols) } else { format!("{} → {}", o.cols, o.rows) };
                line(f, &format!("  {:<17} {shape}", o.verb.name()), o.calls, o.seconds, 100.0 * share)?;
                let rate = |n: u64| match n {
                    0 => "–".to_owned(),
                    n => format!("{:.1}", n as f64 / o.seconds / 1e9),
                };
                let bar = "█".repeat((share * BAR as f64).round().clamp(0.0, BAR as f64) as usize);
                writeln!(f, " {:>9} {:>9}  {bar}", rate(o.bytes), rate(o.operations))?;
            }
            let rest = phase.seconds - phase.operations_seconds;
            line(f, "  (between operations)", phase.steps, rest, 100.0 * rest / phase.seconds)?;
            writeln!(f)?;
            let Percentiles { p50, p95, p99 } = phase.step_seconds;
            let ms = |s: f64| s * 1e3;
            writeln!(f, "  (a step: P50 {:.3} ms, P95 {:.3} ms, P99 {:.3} ms)", ms(p50), ms(p95), ms(p99))?;
        }
        if self.sampling.tokens > 0 {
            let share = 100.0 * self.sampling.seconds / self.busy_seconds();
            line(f, "choosing tokens", self.sampling.tokens, self.sampling.seconds, share)?;
            writeln!(f)?;
        }
        let mib = |bytes: Option<u64>| bytes.map_or("unknown".into(), |b| format!("{:.1} MiB", b as f64 / 1048576.0));
        writeln!(
            f,
            "opened in {:.1} ms; {:.1} ms of the {:.1} ms since then are above; memory {}, peak {}",
            self.load_seconds * 1e3,
            self.busy_seconds() * 1e3,
            self.wall_seconds * 1e3,
            mib(self.process.resident_bytes),
            mib(self.process.peak_resident_bytes)
        )
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, calls: u64, seconds: f64, percent: f64) -> fmt::Result {
    write!(f, "{name:<42} {calls:>9} {:>10.3} {percent:>6.1} ", seconds * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_hand() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentiles(&hundred), Percentiles { p50: 50.0, p95: 95.0, p99: 99.0 });
        assert_eq!(percentiles(&[7.0]), Percentiles { p50: 7.0, p95: 7.0, p99: 7.0 });
        // nearest rank of four: ceil(2), ceil(3.8), ceil(3.96)
        assert_eq!(percentiles(&[1.0, 2.0, 3.0, 9.0]), Percentiles { p50: 2.0, p95: 9.0, p99: 9.0 });
        assert_eq!(percentile(&[1.0, 2.0], 0.0), 1.0);
        assert!(percentiles(&[]).p99.is_nan());
    }

    fn report() -> TrackReport {
        let operation = |verb, seconds, operations| OperationReport {
            phase: Phase::Decode,
            verb,
            cols: 2560,
            rows: 3840,
            calls: 60,
            seconds,
            bytes: 3_000_000_000,
            operations,
        };
        TrackReport {
            isa: "avx2",
            threads: 2,
            load_seconds: 0.25,
            wall_seconds: 2.0,
            phases: vec![PhaseReport {
                phase: Phase::Decode,
                steps: 2,
                tokens: 2,
                seconds: 1.0,
                operations_seconds: 0.98,
                step_seconds: percentiles(&[0.4, 0.6]),
            }],
            operations: vec![operation(Verb::TernaryMatmul, 0.75, 6_000_000_000), operation(Verb::Attend, 0.23, 0)],
            sampling: SamplingReport { tokens: 2, seconds: 0.25 },
            process: ProcessUse::default(),
        }
    }

    #[test]
    fn the_table_gives_rates_and_shares() {
        let table = report().to_string();
        let line = |start: &str| table.lines().find(|line| line.trim_start().starts_with(start)).expect(start);
        // 3 GB in 0.75 s, 6 Gop in 0.75 s, three quarters of the step
        for part in ["2560 → 3840", " 60 ", " 75.0 ", " 4.0 ", " 8.0 ", &"█".repeat(18)] {
            assert!(line("ternary_matmul").contains(part), "{part} in {table}");
        }
        assert!(line("attend").contains('–'), "uncounted operations have no rate: {table}");
        assert!(line("(between").contains("20.000") && line("(between").contains("2.0"), "{table}");
        assert!(line("choosing").contains("20.0"), "0.25 of 1.25 s: {table}");
        assert!(table.contains("1250.0 ms of the 2000.0 ms") && table.contains("unknown"), "{table}");
    }

    #[test]
    fn the_names_in_json_are_those_of_the_methods() {
        let json = serde_json::to_value(report()).expect("numbers and names");
        assert_eq!(json["operations"][0]["verb"], "ternary_matmul");
        assert_eq!(json["operations"][0]["phase"], "decode");
        assert_eq!(json["phases"][0]["step_seconds"]["p50"], 0.4);
        assert_eq!(json["process"]["resident_bytes"], serde_json::Value::Null);
        for verb in [Verb::NormQuantize, Verb::RopeStore, Verb::GatedActivation, Verb::Read] {
            assert_eq!(serde_json::to_value(verb).expect("a name"), verb.name());
        }
    }
}
