//! Arithmetic that a tier does at most: from registers alone.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::{Cpu, arch};

/// Operations per second, of all threads together; an addition and a multiplication are two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Products of int8, summed: the bound of prompts. `None` where the tier has no instruction of its own for them that could be
    /// measured.
    pub int8: Option<f64>,
    /// f32.
    pub float: f64,
}

/// Rounds of a part: some microseconds.
const ROUNDS: u64 = 4000;
/// Parts per thread, so that handing over does not count.
const PARTS: usize = 16;
/// Passes, of which the fastest counts: at least so many, for at least so long.
const PASSES: u32 = 3;
const AT_LEAST: Duration = Duration::from_millis(20);

/// Measures the arithmetic limits of a tier with all of its threads.
pub fn arithmetic_peak(cpu: &Cpu) -> Peak {
    let rate = |round: u64, rounds: &(dyn Fn() + Sync)| {
        let parts = PARTS * cpu.threads();
        let mut best = f64::INFINITY;
        let begin = Instant::now();
        let mut passes = 0;
        while passes < PASSES || begin.elapsed() < AT_LEAST {
            let start = Instant::now();
            cpu.pool().run(parts, |_| rounds());
            best = best.min(start.elapsed().as_secs_f64());
            passes += 1;
        }
        (round * ROUNDS * parts as u64) as f64 / best
    };
    let float_round = dispatch(cpu.isa(), Fma { rounds: 1 });
    Peak {
        int8: arch::int8_round(cpu.isa()).map(|round| rate(round, &|| arch::int8_rounds(cpu.isa(), ROUNDS))),
        float: rate(float_round, &|| {
            dispatch(cpu.isa(), Fma { rounds: ROUNDS });
        }),
    }
}

/// As many chains of fused multiply-adds as a tier has accumulators. Returns the operations of a round.
struct Fma {
    rounds: u64,
}

impl Kernel for Fma {
    type Output = u64;

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> u64 {
        const MOST: usize = 8;
        let chains = L::ACCUMULATORS.min(MOST);
        let (factor, summand) = (l.splat(black_box(0.5)), l.splat(black_box(1.0)));
        let mut sums = [l.splat(0.0); MOST];
        for _ in 0..self.rounds {
            for sum in &mut sums[..chains] {
                *sum = l.fma(*sum, factor, summand);
            }
        }
        black_box(l.sum(sums.into_iter().fold(l.splat(0.0), |all, sum| l.add(all, sum))));
        (2 * chains * LANES) as u64
    }
}
