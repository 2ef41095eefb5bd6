//! Threads that have nothing to do take no processor time. A binary of its own: other tests would show.

#![cfg(target_os = "linux")]

use bitnet_kernels::{Backend, Cpu, CpuOptions, KernelError};
use std::time::Duration;

/// Seconds of processor time that all threads of this process have used, from `/proc`, which counts them to the nanosecond.
fn processor_time() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux");
    let nanos = threads.map(|thread| {
        let text = std::fs::read_to_string(thread.expect("an entry").path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0)
    });
    nanos.sum::<f64>() / 1e9
}

#[test]
fn idle_threads_sleep() -> Result<(), KernelError> {
    let cpu = Cpu::new(CpuOptions { threads: Some(4), ..CpuOptions::default() })?;
    let (mut x, mut y) = (cpu.rows(512, 512)?, cpu.rows(512, 512)?);
    x.set_len(512);
    y.set_len(512);
    let before = processor_time();
    for _ in 0..200 {
        cpu.add(&mut x, &y);
    }
    assert!(processor_time() > before, "the system counts processor time");
    std::thread::sleep(Duration::from_millis(50)); // workers stop spinning
    let before = processor_time();
    std::thread::sleep(Duration::from_secs(1));
    let used = processor_time() - before;
    assert!(used < 0.005, "{used} s of processor time in a second without work");
    Ok(())
}
