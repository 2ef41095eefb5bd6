//! Random shapes and inputs for every verb, on every tier and with one to three threads, against the scalar oracle: all
//! results must be the same bits.
//!
//! Case `n` of a run that starts with seed `s` has the seed `s + n`, so a difference is repeated by `--seed` with the seed
//! that is named.

mod verbs;

use anyhow::{Context, bail, ensure};
use bitnet::kernels::{Cpu, CpuOptions, Isa};
use clap::Args;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use verbs::{Random, VERBS};

/// Threads that take turns.
const THREADS: [usize; 3] = [1, 2, 3];

#[derive(Args)]
pub(crate) struct Soak {
    /// How long; Ctrl-C stops earlier.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// One instruction-set tier [default: all that this machine has].
    #[arg(long)]
    isa: Option<Isa>,
    /// Where to start; the same seed gives the same cases.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A tier and how many cases of each verb it has passed.
struct Tier {
    isa: Isa,
    /// One for each number of threads.
    cpus: Vec<Cpu>,
    passed: [u64; VERBS.len()],
}

impl Soak {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let time = Duration::try_from_secs_f64(self.minutes * 60.0).context("--minutes")?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        ctrlc::set_handler(move || asked.store(true, Relaxed)).context("cannot listen to Ctrl-C")?;
        let oracle = Cpu::new(CpuOptions { threads: Some(1), isa: Some(Isa::Scalar) })?;
        let isas = self.isa.map_or_else(Isa::available, |isa| vec![isa]);
        let mut tiers = isas.into_iter().map(Tier::new).collect::<Result<Vec<_>, _>>()?;

        let start = Instant::now();
        let mut minutes = 0;
        let mut seed = self.seed;
        let mut failure = None;
        while failure.is_none() && start.elapsed() < time && !stop.load(Relaxed) {
            failure = case(seed, &oracle, &mut tiers).err();
            seed += 1;
            if start.elapsed().as_secs() / 60 > minutes {
                minutes += 1;
                eprintln!("{minutes} min, {} cases", seed - self.seed);
            }
        }
        table(&tiers);
        println!("{} cases from seed {} in {:.1} s", seed - self.seed, self.seed, start.elapsed().as_secs_f64());
        match failure {
            Some(error) => bail!("{error:#}\nrepeat it with: soak --seed {}", seed - 1),
            None => Ok(()),
        }
    }
}

impl Tier {
    fn new(isa: Isa) -> anyhow::Result<Tier> {
        let cpus = THREADS.map(|threads| Cpu::new(CpuOptions { threads: Some(threads), isa: Some(isa) }));
        Ok(Tier { isa, cpus: cpus.into_iter().collect::<Result<_, _>>()?, passed: [0; VERBS.len()] })
    }
}

/// One verb on one input, with every tier.
fn case(seed: u64, oracle: &Cpu, tiers: &mut [Tier]) -> anyhow::Result<()> {
    let mut random = Random::new(seed);
    let verb = verbs::below(&mut random, VERBS.len());
    let (name, make) = VERBS[verb];
    let (shape, compute) = make(&mut random);
    let compute = |cpu: &Cpu| {
        catch_unwind(AssertUnwindSafe(|| compute(cpu))).map_err(|_| anyhow::anyhow!("{name}, {shape}: it panicked"))
    };
    let want = compute(oracle)?;
    for tier in tiers {
        let cpu = &tier.cpus[verbs::below(&mut random, THREADS.len())];
        let what = || format!("{name}, {shape}, {} with {} threads", tier.isa, cpu.threads());
        let got = compute(cpu).with_context(what)?;
        ensure!(got.len() == want.len(), "{}: {} values, not {}", what(), got.len(), want.len());
        // What a NaN looks like is not agreed upon.
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        if let Some(i) = (0..want.len()).find(|&i| !same(got[i], want[i])) {
            bail!("{}: value {i} of {} is {:e}, not {:e}", what(), want.len(), got[i], want[i]);
        }
        tier.passed[verb] += 1;
    }
    Ok(())
}

fn table(tiers: &[Tier]) {
    print!("{:30}", "equal to the scalar oracle");
    tiers.iter().for_each(|tier| print!(" {:>10}", tier.isa.name()));
    println!();
    for (verb, (name, _)) in VERBS.iter().enumerate() {
        print!("{name:30}");
        tiers.iter().for_each(|tier| print!(" {:>10}", tier.passed[verb]));
        println!();
    }
}
