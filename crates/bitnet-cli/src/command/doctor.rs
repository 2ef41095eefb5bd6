//! `bitnet doctor`: what this machine offers and what will be used of it.

use crate::console::Console;
use crate::{machine, numbers};
use bitnet::kernels::{Cores, Cpu, CpuOptions, Isa, arithmetic_peak, hand_over_time, read_bandwidth, self_test};
use clap::Args;
use serde_json::json;
use std::io::{self, Write};

/// Show processor, instruction sets, memory, read bandwidth and versions
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Use at most this instruction set [default: BITNET_ISA, or the best]
    #[arg(long, value_name = "TIER")]
    isa: Option<Isa>,
    /// Do not measure the read bandwidth (which takes seconds and half a GiB of memory)
    #[arg(long)]
    no_bandwidth: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

struct Bandwidth {
    threads: usize,
    bytes_per_second: f64,
}

pub(crate) fn run(args: &DoctorArgs, console: &Console) -> anyhow::Result<()> {
    let environment = CpuOptions::from_env()?;
    let cpu = Cpu::new(CpuOptions { isa: args.isa.or(environment.isa), ..environment })?;
    let tiers: Vec<_> = Isa::ALL.into_iter().map(|isa| (isa, isa.is_available().then(|| self_test(isa)))).collect();
    let cores = Cores::detect();
    let (hand_over, peak) = (hand_over_time(&cpu), arithmetic_peak(&cpu));
    let isa_reason = match (args.isa, environment.isa) {
        (Some(_), _) => "--isa asks for it",
        (None, Some(_)) => "BITNET_ISA asks for it",
        (None, None) => "the best that passes its self-test",
    };
    let threads_reason = match (environment.threads, cores.physical) {
        (Some(_), _) => "RAYON_NUM_THREADS asks for it".to_owned(),
        (None, Some(physical)) if physical < cores.usable => {
            format!("one per core, not per hardware thread ({})", cores.usable)
        }
        (None, Some(physical)) if physical > cores.usable => {
            format!("a quota of {} for {physical} cores", cores.usable)
        }
        (None, _) => "one per core".to_owned(),
    };
    let mut bandwidth = Vec::new();
    if !args.no_bandwidth {
        let counts = thread_counts(cores.usable);
        let bar = console.step_bar("measuring read bandwidth", counts.len() as u64);
        for threads in counts {
            bandwidth.push(Bandwidth { threads, bytes_per_second: read_bandwidth(threads) });
            bar.inc(1);
        }
        bar.finish_and_clear();
    }
    let (total, available) = machine::memory();
    let system = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
    let mut out = io::stdout().lock();
    if args.json {
        let tier = |(isa, test): &(Isa, Option<Result<(), _>>)| {
            json!({
                "name": isa.name(),
                "available": test.is_some(),
                "missing": isa.missing(),
                "self_test": test.as_ref().map(|t| match t {
                    Ok(()) => "passed".to_owned(),
                    Err(error) => format!("{error}"),
                }),
            })
        };
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "system": system,
            "processor": machine::processor(),
            "cores": cores.usable,
            "physical_cores": cores.physical,
            "memory_bytes": total,
            "memory_available_bytes": available,
            "page_bytes": machine::page_size(),
            "isa": cpu.isa().name(),
            "isa_reason": isa_reason,
            "threads": cpu.threads(),
            "threads_reason": threads_reason,
            "hand_over_seconds": hand_over,
            "int8_operations_per_second": peak.int8,
            "float_operations_per_second": peak.float,
            "tiers": tiers.iter().map(tier).collect::<Vec<_>>(),
            "read_bandwidth": bandwidth
                .iter()
                .map(|b| json!({ "threads": b.threads, "bytes_per_second": b.bytes_per_second }))
                .collect::<Vec<_>>(),
        });
        writeln!(out, "{report}")?;
        return Ok(out.flush()?);
    }
    let unknown = || "not told by this system".to_owned();
    let bytes = |n: Option<u64>| n.map_or_else(unknown, numbers::bytes);
    writeln!(out, "bitnet        {}", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "system        {system}")?;
    writeln!(out, "processor     {}", machine::processor().unwrap_or_else(unknown))?;
    let physical = cores.physical.map_or_else(unknown, |n| n.to_string());
    writeln!(
        out,
        "cores         {physical}, of which this process may use {}",
        numbers::count(cores.usable, "hardware thread")
    )?;
    writeln!(out, "memory        {} ({} available)", bytes(total), bytes(available))?;
    writeln!(out, "page size     {}", bytes(machine::page_size()))?;
    let threads = numbers::count(cpu.threads(), "thread");
    writeln!(out, "threads       {threads} ({threads_reason}); handing over takes {}", numbers::seconds(hand_over))?;
    writeln!(out, "instructions  {} ({isa_reason})", cpu.isa())?;
    let tera = |rate: f64| numbers::digits(rate / 1e12);
    let int8 = peak.int8.map_or_else(|| "not measured".to_owned(), |rate| format!("{} Top/s", tera(rate)));
    writeln!(out, "arithmetic    int8 {int8}, f32 {} Top/s with {threads}, from registers", tera(peak.float))?;
    for (isa, test) in &tiers {
        let state = match test {
            None => format!("not on this machine: no {}", isa.missing().join(", ")),
            Some(Ok(())) => "available, self-test passed".to_owned(),
            Some(Err(error)) => format!("NOT USABLE: {error}"),
        };
        writeln!(out, "  {isa:<11} {state}")?;
    }
    let pages = match machine::huge_pages() {
        Some(true) => "in huge pages where the system has them".to_owned(),
        _ => format!("in pages of {}", bytes(machine::page_size())),
    };
    for b in &bandwidth {
        let threads = numbers::count(b.threads, "thread");
        let speed = match b.bytes_per_second {
            speed if speed.is_finite() => format!("{} GB/s", numbers::digits(speed / 1e9)),
            _ => "could not be measured".to_owned(),
        };
        writeln!(out, "bandwidth     {speed} reading with {threads}, {pages}")?;
    }
    Ok(out.flush()?)
}

/// Powers of two up to the number of cores, and that number.
fn thread_counts(cores: usize) -> Vec<usize> {
    let mut counts: Vec<usize> = std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|&n| n < cores).collect();
    counts.push(cores);
    counts
}

#[cfg(test)]
mod tests {
    use super::thread_counts;

    #[test]
    fn counts_end_at_the_cores() {
        assert_eq!(thread_counts(1), [1]);
        assert_eq!(thread_counts(2), [1, 2]);
        assert_eq!(thread_counts(6), [1, 2, 4, 6]);
    }
}
