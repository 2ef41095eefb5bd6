//! Sums of a coarse look at a head for several queries, on the matrix unit (AMX int8). A fine look is left to vectors: half the products,
//! nearly at the speed of memory.
//!
//! A query is two rows of int8, so eight queries are the sixteen columns of a tile.
//!
//! Bounds per row of 2560 columns: its 1600 bytes come from memory in some 340 clocks; vectors need 80 products and as many
//! loads for each query, 8 queries thus 320 clocks and more; the matrix unit needs 40 for all of them, besides 60 for unpacking.

use std::arch::x86_64::*;

use super::amx::{TILE_BYTES, TILE_ROWS, Tiles, WHOLE};
use super::amx_streams::{STREAMS, Streams, Sums, TURNS, Work, arrange, multiply_streams};
use super::planes::{first_sums_avx512, whole};
use crate::planes::{BITS, BLOCK, CodeRows, HALVES, Look, Query};

/// Queries of a tile.
const QUERIES: usize = TILE_ROWS / 2;
/// From so many on the matrix unit is faster than vectors, which read at the speed of memory for fewer.
const FEWEST: usize = 4;
/// Blocks of columns of the longest rows, so that the activations fit the stack; longer ones go to vectors.
const MOST_BLOCKS: usize = 64;
/// Rows that the streams share, at most.
const ROW_BLOCK: usize = 512;
/// How far ahead of the products a stream is fetched, in bytes.
const AHEAD: usize = 768;
/// Tile products along a block.
const STEPS: usize = BLOCK / TILE_BYTES;

/// See [`scalar::first_sums`](crate::planes::scalar::first_sums).
///
/// # Safety
/// The processor must have AVX-512 F, BW, VL and VNNI, and `amx::is_permitted()` have returned true.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) unsafe fn first_sums(
    look: Look,
    rows: CodeRows<'_>,
    queries: &[Query],
    mut store: impl FnMut(usize, usize, &[i64]),
) {
    let blocks = rows.row(0).halves.len();
    for (i, queries) in queries.chunks(QUERIES).enumerate() {
        let store = |row, query, sums: &[i64]| store(row, i * QUERIES + query, sums);
        // SAFETY: the caller's promise.
        unsafe {
            if look == Look::Fine || queries.len() < FEWEST || blocks > MOST_BLOCKS {
                first_sums_avx512(look, rows, queries, store);
            } else {
                one_tile(rows, queries, store);
            }
        }
    }
}

/// Coarse sums for at most [`QUERIES`].
///
/// # Safety
/// As for [`first_sums`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn one_tile(rows: CodeRows<'_>, queries: &[Query], mut store: impl FnMut(usize, usize, &[i64])) {
    // SAFETY: the caller's promise; this thread has no other tiles.
    let _configured = unsafe { Tiles::configure([WHOLE; 8]) };
    let last = queries.len() - 1;
    // Beyond the last query it again, whose sums nobody reads.
    let columns: [&[[i8; 64]]; 2 * QUERIES] = std::array::from_fn(|column| {
        let (high, low) = queries[last.min(column / 2)].halves();
        if column % 2 == 0 { high } else { low }.as_flattened().as_chunks().0
    });
    let mut activations = [[[[0; 4]; TILE_ROWS]; TILE_ROWS]; MOST_BLOCKS * STEPS];
    for (step, lines) in activations.iter_mut().enumerate().take(columns[0].len()) {
        *lines = arrange(columns.map(|column| &column[step]));
    }
    let mut sums = [[[[0; TILE_ROWS]; STREAMS]; TURNS]; ROW_BLOCK / STREAMS];
    for first in (0..rows.len()).step_by(ROW_BLOCK) {
        let count = rows.len().min(first + ROW_BLOCK) - first;
        let streams = Streams::share(first, count);
        // SAFETY: the tiles are configured as a whole.
        unsafe { multiply(rows, &streams, &activations, &mut sums) };
        streams.each(|row, (at, stream)| {
            let [even, odd] = &sums[at];
            let sum = |column: usize| even[stream][column] + odd[stream][column];
            let sums: [i64; QUERIES] = std::array::from_fn(|q| whole(sum(2 * q), sum(2 * q + 1)));
            store(row, 0, &sums[..queries.len()]);
        });
    }
}

/// Sums of the rows of all streams.
///
/// # Safety
/// The processor must have AVX-512 F and BW, and all tiles of this thread must be configured as a whole.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn multiply(
    rows: CodeRows<'_>,
    streams: &Streams,
    activations: &[[[[i8; 4]; TILE_ROWS]; TILE_ROWS]; MOST_BLOCKS * STEPS],
    sums: &mut [Sums<TILE_ROWS>],
) {
    let blocks = rows.row(0).halves.len();
    assert!((1..=MOST_BLOCKS).contains(&blocks) && streams.rows <= sums.len());
    assert!(streams.starts.iter().all(|start| start + streams.rows <= rows.len()));
    let starts = streams.starts.map(|start| rows.row(start).halves.as_ptr().cast());
    let mut work = Work::new(starts, streams.rows, rows.row_bytes(), blocks, activations.as_ptr().cast());
    // SAFETY: reads the halves of all blocks of the rows, and behind them 16 bytes of bits for each, which lie within `rows`
    // by the assertions; and as many blocks of `activations`. Writes the sums of all rows. An address that is only fetched
    // does no harm.
    unsafe {
        multiply_streams!(
            work: &mut work, tokens: TILE_BYTES, sums: sums.as_mut_ptr(),
            prepare: [],
            unpack: [
                "vmovdqu64 zmm0, [{row} + {at}]",
                "kmovq k1, [{row} + {bits}]",
                "kmovq k2, [{row} + {bits} + 8]",
                "prefetcht1 [{row} + {at} + {ahead}]",
                "vpsllw zmm1, zmm0, 1",
                "vpsrlw zmm2, zmm0, 3",
                "vpandq zmm1, zmm1, {even}",
                "vpandq zmm2, zmm2, {even}",
                "vpaddb zmm1{{k1}}, zmm1, {one}",
                "vpaddb zmm2{{k2}}, zmm2, {one}",
                "vmovdqa64 [{out}], zmm1",
                "vmovdqa64 [{out} + 1024], zmm2"
            ],
            next_unit: ["add {bits}, 16"],
            next_row: ["add {bits}, {bits_skip}"],
            multiply: [
                "tileloadd tmm6, [{columns} + {tokens}]",
                "tileloadd tmm4, [{ready} + {line}]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{columns} + {tokens} + {step}]",
                "tileloadd tmm5, [{ready} + {line} + 1024]",
                "tdpbssd tmm1, tmm5, tmm7",
                "add {columns}, 2 * {step}"
            ],
            bits = inout(reg) blocks * HALVES => _,
            bits_skip = in(reg) rows.row_bytes() - blocks * BITS,
            ahead = const AHEAD,
            even = in(zmm_reg) _mm512_set1_epi8(0x1e),
            one = in(zmm_reg) _mm512_set1_epi8(1),
        );
    }
}
