//! What it costs to hand work to the threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::Cpu;

/// Calls that are timed.
const CALLS: usize = 2000;
/// Turns of waiting for another thread before the processor is offered to others.
const SPINS: usize = 10_000;

/// Seconds (median) from a call to its return when every thread gets a part that does nothing but wait for the others: what every
/// verb of a step pays. Next to nothing with one thread.
pub fn hand_over_time(cpu: &Cpu) -> f64 {
    let threads = cpu.threads();
    let mut times: Vec<f64> = (0..CALLS)
        .map(|_| {
            let inside = AtomicUsize::new(0);
            let start = Instant::now();
            cpu.pool().run(threads, |_| {
                inside.fetch_add(1, Ordering::SeqCst);
                let mut spins = 0;
                while inside.load(Ordering::SeqCst) < threads {
                    spins += 1;
                    if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
                }
            });
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[CALLS / 2]
}
