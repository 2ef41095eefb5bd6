//! What the operating system says about this machine. What it does not say is `None`, never a guess.

use std::process::Command;

use sysinfo::{CGroupLimits, System};

/// The processor's name.
pub(crate) fn processor() -> Option<String> {
    if cfg!(target_os = "linux") {
        let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
        field(&info, "model name").map(str::to_owned)
    } else if cfg!(target_os = "macos") {
        sysctl("machdep.cpu.brand_string")
    } else {
        std::env::var("PROCESSOR_IDENTIFIER").ok()
    }
}

/// Bytes of main memory: all, and what new work can take without swapping; of the container's share, if there is one.
pub(crate) fn memory() -> (Option<u64>, Option<u64>) {
    let known = |bytes| (bytes > 0).then_some(bytes);
    let mut system = System::new();
    system.refresh_memory();
    let memory = (known(system.total_memory()), known(system.available_memory()));
    // The limits need the total, or sysinfo panics.
    match memory.0.and_then(|_| system.cgroup_limits()) {
        Some(limits) => in_container(memory, &limits),
        None => memory,
    }
}

/// All memory and what is available of it, under the limit of a cgroup. Mapped and cached files count as used there, but give way.
fn in_container(memory: (Option<u64>, Option<u64>), limits: &CGroupLimits) -> (Option<u64>, Option<u64>) {
    let left = limits.total_memory.saturating_sub(limits.rss);
    (memory.0.map(|total| total.min(limits.total_memory)), memory.1.map(|available| available.min(left)))
}

/// Bytes of a memory page.
pub(crate) fn page_size() -> Option<u64> {
    if cfg!(target_os = "linux") {
        // The auxiliary vector the kernel gave this process: pairs of machine words, key 6 is AT_PAGESZ.
        const AT_PAGESZ: usize = 6;
        const WORD: usize = size_of::<usize>();
        let vector = std::fs::read("/proc/self/auxv").ok()?;
        let word = |bytes: &[u8]| bytes.try_into().ok().map(usize::from_ne_bytes);
        vector
            .chunks_exact(2 * WORD)
            .find(|pair| word(&pair[..WORD]) == Some(AT_PAGESZ))
            .and_then(|pair| word(&pair[WORD..]))
            .map(|n| n as u64)
    } else if cfg!(target_os = "macos") {
        sysctl("hw.pagesize").and_then(|n| n.parse().ok())
    } else {
        None
    }
}

/// Whether memory comes in huge pages without being asked for (transparent huge pages of Linux).
pub(crate) fn huge_pages() -> Option<bool> {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    Some(setting.contains("[always]"))
}

/// The first `key : value` line of a Linux information file.
fn field<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    info.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

fn sysctl(name: &str) -> Option<String> {
    let output = Command::new("sysctl").args(["-n", name]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_linux_files() {
        let info = "model\t\t: 207\nmodel name\t: Some CPU @ 2 GHz\n";
        assert_eq!(field(info, "model name"), Some("Some CPU @ 2 GHz"));
        assert_eq!(field(info, "mod"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_has_pages() {
        assert!(page_size().is_some_and(u64::is_power_of_two));
    }

    #[test]
    fn containers_have_less_than_their_machine() {
        let limits = |total_memory, rss| CGroupLimits { total_memory, rss, free_memory: 1, free_swap: 0 };
        let within = |machine: (u64, u64), limits| in_container((Some(machine.0), Some(machine.1)), &limits);
        assert_eq!(within((64, 40), limits(8, 3)), (Some(8), Some(5)), "cached files do not count");
        assert_eq!(within((64, 4), limits(8, 3)), (Some(8), Some(4)), "the machine has less left");
        assert_eq!(within((64, 40), limits(8, 9)), (Some(8), Some(0)), "nothing left is not unknown");
        assert_eq!(within((64, 40), limits(64, 9)), (Some(64), Some(40)), "no limit");
    }

    #[test]
    fn this_machine_has_memory() {
        let (total, available) = memory();
        assert!(total > available && available > Some(0));
    }
}
