//! How many threads are worth starting.

use std::collections::BTreeSet;

/// The processors that this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Hardware threads: those of the affinity mask, and no more than a cgroup quota allows.
    pub usable: usize,
    /// Cores that the hardware threads of the affinity mask belong to. `None` where the system does not tell: only Linux does.
    pub physical: Option<usize>,
}

impl Cores {
    /// Asks the system.
    pub fn detect() -> Cores {
        let usable = std::thread::available_parallelism().map_or(1, usize::from);
        Cores { usable, physical: physical() }
    }

    /// One thread per physical core: two on one core share what bounds every verb, its path to memory and its arithmetic units.
    pub fn threads(self) -> usize {
        self.physical.map_or(self.usable, |physical| physical.min(self.usable)).max(1)
    }
}

#[cfg(target_os = "linux")]
fn physical() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    distinct_cores(allowed, |cpu| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok()
    })
}

#[cfg(not(target_os = "linux"))]
fn physical() -> Option<usize> {
    None
}

/// Distinct lists of siblings among the processors of a list such as `0-3,8`; `None` when one of them has none.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
fn distinct_cores(allowed: &str, siblings: impl Fn(usize) -> Option<String>) -> Option<usize> {
    /// More processors than any system has: bounds what a wrong list costs.
    const MOST: usize = 1 << 14;
    let mut cores = BTreeSet::new();
    for range in allowed.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MOST {
            return None;
        }
        for cpu in first..=last {
            cores.insert(siblings(cpu)?.trim().to_owned());
        }
    }
    Some(cores.len()).filter(|&count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four cores with two threads each, numbered as Intel servers do: 0 and 4 are siblings.
    fn eight(cpu: usize) -> Option<String> {
        (cpu < 8).then(|| format!("{},{}\n", cpu % 4, cpu % 4 + 4))
    }

    #[test]
    fn siblings_count_once() {
        assert_eq!(distinct_cores("\t0-7\n", eight), Some(4));
        assert_eq!(distinct_cores("0-3", eight), Some(4));
        assert_eq!(distinct_cores("1,5", eight), Some(1));
        assert_eq!(distinct_cores("0,2,4-5", eight), Some(3));
        assert_eq!(distinct_cores("0-8", eight), None, "processor 8 tells nothing");
        for odd in ["", "a", "3-1", "0-99999999999", "0-99999"] {
            assert_eq!(distinct_cores(odd, eight), None, "{odd:?}");
        }
    }

    #[test]
    fn threads_respect_both_limits() {
        assert_eq!(Cores { usable: 8, physical: Some(4) }.threads(), 4);
        assert_eq!(Cores { usable: 3, physical: Some(4) }.threads(), 3, "a cgroup quota");
        assert_eq!(Cores { usable: 8, physical: None }.threads(), 8);
        assert!(Cores::detect().threads() >= 1);
    }
}
