//! Read bandwidth of main memory.

use std::hint::black_box;
use std::time::Instant;

use crate::threads::Pool;

/// Bytes read per pass: more than the last-level cache of most processors.
const BYTES: usize = 512 << 20;
/// Passes over the memory; the best counts, the others were disturbed.
const PASSES: usize = 5;
/// Words that a thread takes at a time.
const PIECE: usize = 1 << 17;

/// Bytes per second that `threads` threads together read from main memory, sequentially, each byte once: the bound of
/// everything that a decode step does. Takes 512 MiB of memory and about a second.
///
/// NaN when there is no such memory or no such threads. Where the last-level cache is larger than 512 MiB the figure
/// is that of the cache.
pub fn read_bandwidth(threads: usize) -> f64 {
    let words = BYTES / size_of::<u64>();
    let mut data = Vec::new();
    let (Ok(()), Ok(pool)) = (data.try_reserve_exact(words), Pool::new(threads.max(1))) else {
        return f64::NAN;
    };
    data.extend((0..words as u64).map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15))); // fresh pages, none shared
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let start = Instant::now();
        pool.run(words.div_ceil(PIECE), |piece| {
            black_box(or(&data[piece * PIECE..((piece + 1) * PIECE).min(words)]));
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    BYTES as f64 / best
}

/// One operation per word in independent chains, which compilers make vectors of, so that the loads are what takes time.
/// Four streams at once: one alone does not get all that memory gives to a core.
fn or(words: &[u64]) -> u64 {
    let mut lanes = [0; 8];
    let (half, rest) = words.split_at(words.len() / 2);
    let ((a, b), (c, d)) = (half.split_at(half.len() / 2), rest.split_at(rest.len() / 2));
    let streams = a.chunks_exact(8).zip(b.chunks_exact(8)).zip(c.chunks_exact(8).zip(d.chunks_exact(8)));
    for ((a, b), (c, d)) in streams {
        for i in 0..8 {
            lanes[i] |= a[i] | b[i] | c[i] | d[i];
        }
    }
    lanes.into_iter().fold(0, |all, lane| all | lane)
}
