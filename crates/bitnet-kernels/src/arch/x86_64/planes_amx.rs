//! Sums over the coarse plane of a head for several queries, on the matrix unit (AMX int8).
//!
//! A query is two rows of int8, so eight queries are the sixteen columns of a tile. Codes of sixteen rows × 512 columns are
//! unpacked and multiplied at a time.
//!
//! Bounds per row of 2560 columns: its 1600 bytes come from memory in some 340 clocks; vectors need 80 products and as many
//! loads for each query, 8 queries thus 320 clocks and more; the matrix unit needs 40 for all of them, besides 100 for unpacking.

use std::arch::asm;
use std::arch::x86_64::*;

use super::amx::{TILE_BYTES, TILE_ROWS, Tiles, WHOLE};
use super::planes::{coarse_sums_avx512, unpack_512, whole};
use super::ternary_amx::Line;
use crate::planes::{BLOCK, CoarseRows, Query};

/// Queries of a tile.
const QUERIES: usize = TILE_ROWS / 2;
/// From so many on the matrix unit is faster than vectors, which read at the speed of memory for fewer.
const FEWEST: usize = 4;
/// Blocks of columns of the longest rows, so that the activations fit the stack; longer ones go to vectors.
const MOST_BLOCKS: usize = 64;
/// Blocks of columns that are unpacked at a time.
const BLOCKS: usize = 4;
/// Tile products along a block.
const STEPS: usize = BLOCK / TILE_BYTES;

type Tile = [Line; TILE_ROWS];

/// Sums of 16 rows with 16 columns, for even and for odd steps: a product waits for the one before that adds to the same tile.
#[repr(align(64))]
struct Sums([[[i32; TILE_ROWS]; TILE_ROWS]; STEPS]);

/// `store(row, query, Σ (u / 2) x̂)` for all rows and queries.
///
/// # Safety
/// The processor must have AVX-512 F, BW, VL and VNNI, and `amx::is_permitted()` have returned true.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) unsafe fn coarse_sums(rows: CoarseRows<'_>, queries: &[Query], mut store: impl FnMut(usize, usize, i64)) {
    let blocks = rows.row(0).0.len();
    for (i, queries) in queries.chunks(QUERIES).enumerate() {
        let store = |row, query, sum| store(row, i * QUERIES + query, sum);
        // SAFETY: the caller's promise.
        unsafe {
            if queries.len() < FEWEST || blocks > MOST_BLOCKS {
                coarse_sums_avx512(rows, queries, store);
            } else {
                one_tile(rows, queries, store);
            }
        }
    }
}

/// The same for at most [`QUERIES`].
///
/// # Safety
/// As for [`coarse_sums`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn one_tile(rows: CoarseRows<'_>, queries: &[Query], mut store: impl FnMut(usize, usize, i64)) {
    // SAFETY: the caller's promise; this thread has no other tiles.
    let _configured = unsafe { Tiles::configure([WHOLE; 8]) };
    let mut activations = [[Line([0; TILE_BYTES]); TILE_ROWS]; MOST_BLOCKS * STEPS];
    for (q, query) in queries.iter().enumerate() {
        let (high, low) = query.halves();
        for (column, codes) in [(2 * q, high), (2 * q + 1, low)] {
            // Line `k` of a tile holds columns `4 k..4 k + 4` of every query.
            let fours = codes.as_flattened().as_chunks::<4>().0;
            for (line, four) in activations.as_flattened_mut().iter_mut().zip(fours) {
                line.0[4 * column..][..4].copy_from_slice(&four.map(|code| code as u8));
            }
        }
    }
    let blocks = rows.row(0).0.len();
    let mut codes = [[Line([0; TILE_BYTES]); TILE_ROWS]; BLOCKS * STEPS];
    let mut sums = Sums([[[0; TILE_ROWS]; TILE_ROWS]; STEPS]);
    for first in (0..rows.len()).step_by(TILE_ROWS) {
        for start in (0..blocks).step_by(BLOCKS) {
            let count = BLOCKS.min(blocks - start);
            for r in 0..TILE_ROWS {
                // Beyond the last row that row again, whose sums nobody reads.
                let (halves, bits) = rows.row((first + r).min(rows.len() - 1));
                let next = size_of_val(halves) + size_of_val(bits); // at least; rows lie one behind the other
                for (b, (halves, bits)) in halves[start..].iter().zip(&bits[start..]).take(count).enumerate() {
                    // An address without memory does no harm.
                    _mm_prefetch::<_MM_HINT_T1>(halves.as_ptr().wrapping_add(TILE_ROWS * next).cast());
                    for (step, code) in unpack_512(halves, bits).into_iter().enumerate() {
                        let line = &mut codes[b * STEPS + step][r];
                        // SAFETY: a line is 64 bytes, aligned.
                        unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), code) };
                    }
                }
                let bits = bits[start..].as_ptr().wrapping_byte_add(TILE_ROWS * next);
                _mm_prefetch::<_MM_HINT_T1>(bits.cast());
            }
            let steps = count * STEPS;
            // SAFETY: the tiles are configured as a whole.
            unsafe { add_products(&codes[..steps], &activations[start * STEPS..][..steps], start == 0, &mut sums) };
        }
        let [even, odd] = &sums.0;
        for r in 0..TILE_ROWS.min(rows.len() - first) {
            for q in 0..queries.len() {
                let sum = |column: usize| even[r][column] + odd[r][column];
                store(first + r, q, whole(sum(2 * q), sum(2 * q + 1)));
            }
        }
    }
}

/// Adds the products of codes `[16, 64]` with activations `[64, 16]` of every step to the sums, which begin anew if `fresh`.
///
/// # Safety
/// All tiles of this thread must be configured as a whole.
#[inline]
unsafe fn add_products(codes: &[Tile], activations: &[Tile], fresh: bool, sums: &mut Sums) {
    assert!(codes.len() == activations.len() && codes.len().is_multiple_of(STEPS) && !codes.is_empty());
    // SAFETY: every turn of the loop reads two tiles of 1024 bytes of both slices; sums are two such tiles.
    unsafe {
        asm!(
            "test {fresh}, {fresh}",
            "jnz 3f",
            "tileloadd tmm0, [{sums} + {line}]",
            "tileloadd tmm1, [{sums} + {line} + 1024]",
            "jmp 2f",
            "3:",
            "tilezero tmm0",
            "tilezero tmm1",
            "2:",
            "tileloadd tmm2, [{codes} + {line}]",
            "tileloadd tmm3, [{activations} + {line}]",
            "tdpbusd tmm0, tmm2, tmm3",
            "tileloadd tmm4, [{codes} + {line} + 1024]",
            "tileloadd tmm5, [{activations} + {line} + 1024]",
            "tdpbusd tmm1, tmm4, tmm5",
            "add {codes}, 2048",
            "add {activations}, 2048",
            "dec {turns}",
            "jnz 2b",
            "tilestored [{sums} + {line}], tmm0",
            "tilestored [{sums} + {line} + 1024], tmm1",
            fresh = in(reg) usize::from(fresh),
            codes = inout(reg) codes.as_ptr() => _,
            activations = inout(reg) activations.as_ptr() => _,
            turns = inout(reg) codes.len() / STEPS => _,
            sums = in(reg) sums.0.as_mut_ptr(),
            line = in(reg) TILE_BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
