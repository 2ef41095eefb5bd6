//! Ternary matrix products of few tokens on the matrix unit (AMX int8): some sequences that decode together.
//!
//! Bounds per kilobyte of weights (16 rows × 256 columns): a core gets it from memory in 65 to 75 ns; alone, 64 bit-matrix
//! products and stores take 30, and four tile products with two loads of tiles each 25. Together they take 85 to 90.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::amx::{TILE_BYTES, TILE_ROWS, Tiles, WHOLE};
use super::amx_streams::{STREAMS, Streams, Sums, TURNS, Work, arrange, multiply_streams};
use super::ternary_amx::{BITS, STEPS};
use crate::cpu::{Quantized, UNIT};
use crate::ternary_matmul::Panel;

/// Tokens, at most: columns of a tile.
pub(super) const MOST: usize = 16;
/// Bytes of weights of a row in a unit.
const UNIT_BYTES: usize = UNIT / 4;
/// Units whose activations are arranged at a time: 7,168 columns.
const UNIT_BLOCK: usize = 28;
/// How far ahead of the products a stream is fetched, in bytes.
const AHEAD: usize = 768;
/// Rows that the streams share, at most.
const ROW_BLOCK: usize = 512;

/// Activations of a unit: lines of four columns of `N` tokens.
type Arranged<const N: usize> = [[[[i8; 4]; N]; TILE_ROWS]; STEPS];

/// `store(row, token, sums)` for all rows of the panel, some at a time, and all tokens of `x`, at most `N`; sums are `Σ q·code`.
///
/// # Safety
/// The processor must have AVX-512 F and BW and GFNI, and `amx::is_permitted()` have returned true.
#[target_feature(enable = "avx512f,avx512bw,gfni")]
pub(super) unsafe fn multiply<const N: usize>(
    panel: Panel<'_>,
    x: &Quantized,
    store: &mut impl FnMut(usize, usize, &[i32]),
) {
    let tokens = (TILE_ROWS, N * size_of::<i32>());
    // SAFETY: the caller's promise; this thread has no other tiles.
    let _configured = unsafe { Tiles::configure([tokens, tokens, tokens, tokens, WHOLE, WHOLE, tokens, tokens]) };
    let units = panel.row(0).len().div_ceil(UNIT_BYTES);
    let blocks = units.div_ceil(UNIT_BLOCK);
    let mut activations = [const { MaybeUninit::uninit() }; UNIT_BLOCK];
    let mut sums = [[[[0; N]; STREAMS]; TURNS]; ROW_BLOCK / STREAMS];
    let mut totals = [[0; ROW_BLOCK]; N];
    for first in (0..panel.rows()).step_by(ROW_BLOCK) {
        let rows = panel.rows().min(first + ROW_BLOCK) - first;
        let streams = Streams::share(first, rows);
        for block in 0..blocks {
            let units = units * block / blocks..units * (block + 1) / blocks;
            if first == 0 || blocks > 1 {
                arrange_units::<N>(x, units.clone(), &mut activations);
            }
            // SAFETY: so many units are arranged; the tiles are configured for `N` tokens.
            unsafe { multiply_block::<N>(panel, &streams, units, &activations, &mut sums) };
            streams.each(|row, (at, stream)| {
                let [a, b] = &sums[at];
                for (token, totals) in totals.iter_mut().enumerate() {
                    let total = &mut totals[row - first];
                    *total = if block == 0 { 0 } else { *total } + (a[stream][token] + b[stream][token]);
                }
            });
        }
        for (token, totals) in totals.iter().enumerate().take(x.len()) {
            store(first, token, &totals[..rows]);
        }
    }
}

/// Arranges the activations of some units; beyond the last token it again, whose sums nobody reads.
#[target_feature(enable = "avx512f")]
fn arrange_units<const N: usize>(x: &Quantized, units: Range<usize>, out: &mut [MaybeUninit<Arranged<N>>; UNIT_BLOCK]) {
    let tokens: [&[[i8; 64]]; MOST] = std::array::from_fn(|token| {
        x.row(token.min(x.len() - 1)).codes[units.start * UNIT..units.end * UNIT].as_chunks().0
    });
    for (unit, out) in out.iter_mut().enumerate().take(units.len()) {
        let mut arranged = [[[[0; 4]; N]; TILE_ROWS]; STEPS];
        for (step, lines) in arranged.iter_mut().enumerate() {
            let whole = arrange(tokens.map(|token| &token[unit * STEPS + step]));
            for (line, whole) in lines.iter_mut().zip(&whole) {
                line.copy_from_slice(&whole[..N]);
            }
        }
        out.write(arranged);
    }
}

/// Sums of the rows of all streams over some units.
///
/// # Safety
/// The processor must have AVX-512 F and BW and GFNI. The tiles of this thread must be configured for `N` tokens, and
/// so many units of `activations` have been written.
#[target_feature(enable = "avx512f,avx512bw,gfni")]
unsafe fn multiply_block<const N: usize>(
    panel: Panel<'_>,
    streams: &Streams,
    units: Range<usize>,
    activations: &[MaybeUninit<Arranged<N>>; UNIT_BLOCK],
    sums: &mut [Sums<N>],
) {
    let row_bytes = panel.row(0).len();
    assert!(!units.is_empty() && units.len() <= UNIT_BLOCK && units.end <= row_bytes.div_ceil(UNIT_BYTES));
    assert!((1..=sums.len()).contains(&streams.rows));
    assert!(streams.starts.iter().all(|start| start + streams.rows <= panel.rows()));
    let end_bytes = row_bytes.min(units.end * UNIT_BYTES) - (units.end - 1) * UNIT_BYTES;
    let starts = streams.starts.map(|start| panel.row(start)[units.start * UNIT_BYTES..].as_ptr());
    let mut work = Work::new(starts, streams.rows, row_bytes, units.len(), activations.as_ptr().cast());
    let [high, second, third, low] = BITS.map(|matrix| _mm512_set1_epi64(matrix));
    // SAFETY: reads the units of all rows, 64 bytes or what `last_mask` leaves of them, which lie within the panel by the
    // assertions; and `units.len()` units of `activations`, which the caller promises to have been written. Writes the sums of
    // all rows. An address that is only fetched does no harm.
    unsafe {
        multiply_streams!(
            work: &mut work, tokens: N * size_of::<i32>(), sums: sums.as_mut_ptr(),
            prepare: [
                "mov {row}, -1",
                "cmp qword ptr [{work} + {to_unpack}], 1",
                "cmove {row}, {last_mask}",
                "kmovq k1, {row}"
            ],
            unpack: [
                "vmovdqu8 zmm0{{k1}}{{z}}, [{row} + {at}]",
                "prefetcht1 [{row} + {at} + {ahead}]",
                "vgf2p8affineqb zmm1, zmm0, {high}, 0",
                "vgf2p8affineqb zmm2, zmm0, {second}, 0",
                "vgf2p8affineqb zmm3, zmm0, {third}, 0",
                "vgf2p8affineqb zmm4, zmm0, {low}, 0",
                "vmovdqa64 [{out}], zmm1",
                "vmovdqa64 [{out} + 1024], zmm2",
                "vmovdqa64 [{out} + 2048], zmm3",
                "vmovdqa64 [{out} + 3072], zmm4"
            ],
            next_unit: [],
            next_row: [],
            multiply: [
                "tileloadd tmm6, [{columns} + {tokens}]",
                "tileloadd tmm4, [{ready} + {line}]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{columns} + {tokens} + {step}]",
                "tileloadd tmm5, [{ready} + {line} + 1024]",
                "tdpbssd tmm1, tmm5, tmm7",
                "tileloadd tmm6, [{columns} + {tokens} + 2 * {step}]",
                "tileloadd tmm4, [{ready} + {line} + 2048]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{columns} + {tokens} + 3 * {step}]",
                "tileloadd tmm5, [{ready} + {line} + 3072]",
                "tdpbssd tmm1, tmm5, tmm7",
                "add {columns}, 4 * {step}"
            ],
            last_mask = in(reg) u64::MAX >> (UNIT_BYTES - end_bytes),
            ahead = const AHEAD,
            high = in(zmm_reg) high,
            second = in(zmm_reg) second,
            third = in(zmm_reg) third,
            low = in(zmm_reg) low,
        );
    }
}
