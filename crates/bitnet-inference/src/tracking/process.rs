//! What this process uses of the machine.

use crate::peak_memory;
use serde::Serialize;
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

/// Memory and processor time of this process so far. What the system does not tell is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ProcessUse {
    /// Bytes of memory in use now, pages of the model's file map among them.
    pub resident_bytes: Option<u64>,
    /// Bytes of address space.
    pub virtual_bytes: Option<u64>,
    /// Largest `resident_bytes` so far.
    pub peak_resident_bytes: Option<u64>,
    /// Processor time of all threads.
    pub cpu_seconds: Option<f64>,
}

impl ProcessUse {
    /// Asks the system.
    pub fn now() -> Self {
        let mut use_ = ProcessUse { peak_resident_bytes: peak_memory(), ..ProcessUse::default() };
        let Ok(pid) = sysinfo::get_current_pid() else { return use_ };
        let mut system = System::new();
        let what = ProcessRefreshKind::nothing().with_memory().with_cpu();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, what);
        if let Some(process) = system.process(pid) {
            use_.resident_bytes = Some(process.memory());
            use_.virtual_bytes = Some(process.virtual_memory());
            use_.cpu_seconds = Some(process.accumulated_cpu_time() as f64 / 1e3);
        }
        use_
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::ProcessUse;
    use std::hint::black_box;
    use std::time::{Duration, Instant};

    #[test]
    fn memory_grows_with_use() {
        let before = ProcessUse::now();
        let block = black_box(vec![1u8; 64 << 20]);
        let after = ProcessUse::now();
        let grown = after.resident_bytes.expect("Linux says") - before.resident_bytes.expect("Linux says");
        assert!(grown >= 60 << 20, "{grown} {}", block.len());
        assert!(after.peak_resident_bytes >= after.resident_bytes.map(|bytes| bytes - (1 << 20)));
        assert!(after.virtual_bytes >= after.resident_bytes);
    }

    #[test]
    fn processor_time_grows_with_work() {
        let before = ProcessUse::now().cpu_seconds.expect("Linux says");
        let start = Instant::now();
        let mut n = 0u64;
        while start.elapsed() < Duration::from_millis(100) {
            n = black_box(n + 1);
        }
        let spent = ProcessUse::now().cpu_seconds.expect("Linux says") - before;
        assert!(spent > 0.0, "{spent} after {n}");
    }
}
