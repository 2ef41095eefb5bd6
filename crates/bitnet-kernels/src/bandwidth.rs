//! Read bandwidth of main memory.

/// Bytes per second that `threads` threads read from main memory together.
pub fn read_bandwidth(_threads: usize) -> f64 {
    todo!()
}
