//! What divan cannot tell: how near a verb comes to the limits of this machine.

use bitnet_kernels::{Cpu, arithmetic_peak, read_bandwidth};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What bounds a verb.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Limit {
    /// Reading memory.
    Read,
    /// Products of int8.
    Int8,
    /// Products of f32.
    Float,
}

/// Of one call.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    /// Bytes read (and written, by verbs that touch every value once).
    pub(crate) bytes: usize,
    /// Additions and multiplications.
    pub(crate) operations: usize,
    pub(crate) limit: Limit,
}

struct Measured {
    name: String,
    work: Work,
    seconds: Vec<f64>,
}

static ALL: Mutex<Vec<Measured>> = Mutex::new(Vec::new());

/// Calls a verb and notes the time.
pub(crate) fn time(name: &str, work: Work, verb: impl FnOnce()) {
    let start = Instant::now();
    verb();
    let seconds = start.elapsed().as_secs_f64();
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    match all.last_mut().filter(|last| last.name == name) {
        Some(last) => last.seconds.push(seconds),
        None => all.push(Measured { name: name.to_owned(), work, seconds: vec![seconds] }),
    }
}

/// The limits, and a line per verb.
pub(crate) fn print(cpu: &Cpu) {
    let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    if all.is_empty() {
        return; // only listed
    }
    let (read, peak) = (read_bandwidth(cpu.threads()), arithmetic_peak(cpu));
    println!(
        "\n{} with {} threads; limits measured now: read {:.1} GB/s, int8 {} Gop/s, f32 {:.0} Gop/s\n",
        cpu.isa(),
        cpu.threads(),
        read / 1e9,
        peak.int8.map_or("unknown".to_owned(), |rate| format!("{:.0}", rate / 1e9)),
        peak.float / 1e9,
    );
    println!("{:<44} {:>12} {:>9} {:>10} {:>14}", "median of", "µs", "GB/s", "Gop/s", "of its limit");
    for Measured { name, work, seconds } in &*all {
        let mut sorted = seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let seconds = sorted[sorted.len() / 2];
        let (bytes, operations) = (work.bytes as f64 / seconds, work.operations as f64 / seconds);
        let share = match work.limit {
            Limit::Read => format!("{:.0} % of read", 100.0 * bytes / read),
            Limit::Int8 => {
                peak.int8.map_or_else(String::new, |peak| format!("{:.0} % of int8", 100.0 * operations / peak))
            }
            Limit::Float => format!("{:.0} % of f32", 100.0 * operations / peak.float),
        };
        println!("{name:<44} {:>12.1} {:>9.2} {:>10.1} {share:>14}", seconds * 1e6, bytes / 1e9, operations / 1e9);
    }
}
