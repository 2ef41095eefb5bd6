//! Read bandwidth of main memory: the bound of everything that a decode step does.

use std::hint::black_box;
use std::ops::Deref;
use std::time::{Duration, Instant};

use crate::threads::Pool;
use crate::{Cpu, Dense, Ternary};

/// Bytes of fresh memory: more than the last-level cache of most processors.
const BYTES: usize = 512 << 20;
/// Passes over the memory; the best counts, the others were disturbed.
const PASSES: u32 = 5;
/// Less than this would measure the clock.
const AT_LEAST: Duration = Duration::from_millis(20);
/// Bytes that a thread takes at a time.
const PIECE: usize = 1 << 20;

/// Bytes per second that `threads` threads together read from fresh memory, sequentially, each byte once. Takes 512 MiB of
/// memory and about a second.
///
/// NaN when there is no such memory or no such threads. Where the last-level cache is larger than 512 MiB the figure
/// is that of the cache.
pub fn read_bandwidth(threads: usize) -> f64 {
    let mut data: Vec<u8> = Vec::new();
    let (Ok(()), Ok(pool)) = (data.try_reserve_exact(BYTES), Pool::new(threads.max(1))) else {
        return f64::NAN;
    };
    data.resize(BYTES, 0x55); // not zero: every page is touched
    fastest(&pool, &[&data])
}

/// As [`read_bandwidth`] with the threads of `cpu`, from the memory in which these weights lie: pages of a file map where they are
/// used in place, and of the output head its bit planes once they are made. It is what bounds a step that reads them, whatever the
/// kind of pages. Small models lie in a cache, and the figure is the cache's.
pub fn weight_bandwidth(cpu: &Cpu, ternary: &[&Ternary], dense: &[&Dense]) -> f64 {
    let mut dense = dense.to_vec();
    // A head is locked while it is read: each once, and in one order, since others may be locking them too.
    dense.sort_by_key(|dense| std::ptr::from_ref(*dense));
    dense.dedup_by_key(|dense| std::ptr::from_ref(*dense));
    let dense: Vec<_> = dense.iter().map(|dense| dense.streamed()).collect();
    let parts = ternary.iter().map(|ternary| ternary.codes()).chain(dense.iter().map(Deref::deref));
    fastest(cpu.pool(), &parts.collect::<Vec<_>>())
}

/// Bytes per second of the fastest of several passes.
fn fastest(pool: &Pool, parts: &[&[u8]]) -> f64 {
    let pieces: Vec<&[u8]> = parts.iter().flat_map(|part| part.chunks(PIECE)).collect();
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    let mut passes = 0;
    while passes < PASSES || begin.elapsed() < AT_LEAST {
        let start = Instant::now();
        pool.run(pieces.len(), |piece| {
            black_box(or(pieces[piece]));
        });
        best = best.min(start.elapsed().as_secs_f64());
        passes += 1;
    }
    bytes as f64 / best
}

/// One operation per word in independent chains, which compilers make vectors of, so that the loads are what takes time.
/// Four streams at once: one alone does not get all that memory gives to a core.
fn or(bytes: &[u8]) -> u64 {
    let (half, rest) = bytes.split_at(bytes.len() / 2);
    let ((a, b), (c, d)) = (half.split_at(half.len() / 2), rest.split_at(rest.len() / 2));
    let (a, b, c, d) = (a.as_chunks::<64>().0, b.as_chunks().0, c.as_chunks().0, d.as_chunks().0);
    let mut lanes = [0; 8];
    for ((a, b), (c, d)) in a.iter().zip(b).zip(c.iter().zip(d)) {
        let (a, b, c, d) = (words(a), words(b), words(c), words(d));
        for i in 0..8 {
            lanes[i] |= a[i] | b[i] | c[i] | d[i];
        }
    }
    lanes.into_iter().fold(0, |all, lane| all | lane)
}

#[inline(always)]
fn words(line: &[u8; 64]) -> [u64; 8] {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(line.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}
