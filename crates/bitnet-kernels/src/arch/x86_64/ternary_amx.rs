//! Ternary matrix products on the matrix unit (AMX int8), for prompts; few tokens go to AVX-512 VNNI.
//!
//! One `tdpbssd` adds the products of 16 tokens × 64 columns of activations with 64 columns × 16 rows of weights to
//! 16 × 16 sums of 32 bits, which cannot overflow up to the column limit that loading checks. Four of them share two
//! tiles of each operand:
//!
//! ```text
//!                 weights, 2 tiles of 16 rows
//!   2 tiles of      sums 0   sums 1
//!   tokens          sums 2   sums 3
//! ```
//!
//! Bounds, per core. *Operations*: `tdpbssd` takes as many clocks as it has tokens, 16, so 2048 operations per clock:
//! 7.4 Top/s were measured with registers alone, some 5.5 with the loads and the exchange of sums below. A prompt token of
//! BitNet 2B-4T is 4.17 G operations, thus 0.56 ms. *Weights*: 16 rows × 256 columns are transposed into tile order and
//! unpacked by 64 shuffles, 64 bit-matrix products and 64 stores; [`TOKEN_BLOCK`] tokens share that, and the 521 MB from
//! memory, fetched ahead. *Activations*: 64 clocks of products load two tiles of weights from the first-level cache and two
//! tiles (2 KB) of activations from the second, past the first. *Results*: half a kilobyte per token at a time, and what
//! they are combined with is done while they are near (see `ternary_matmul`): they exceed the caches, and a core moves some
//! 12 GB/s, so that without this they would take as long as the products.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::amx::{TILE_BYTES, TILE_ROWS, Tiles, WHOLE};
use super::amx_streams::Line;
use super::ternary_amx_few;
use super::ternary_avx512vnni::{self, load_unit, transpose};
use crate::cpu::{Quantized, UNIT};
use crate::ternary_matmul::Panel;

/// Tokens from which on the matrix unit is faster than vectors, whose unpacking in registers is cheaper for fewer.
const FEWEST: usize = 3;
/// Tokens that share unpacked weights: their sums stay on the stack, their activations in the second-level cache.
const TOKEN_BLOCK: usize = 256;
/// Tokens, and weight rows, of the four tiles of sums.
const SIDE: usize = 2 * TILE_ROWS;
/// Rows whose results are written together: half a kilobyte per token.
const ROW_BLOCK: usize = 4 * SIDE;
/// Tile products along a unit of columns.
pub(super) const STEPS: usize = UNIT / TILE_BYTES;
/// Units of columns that are unpacked at a time: 16 KB of weights stay in the first-level cache.
const UNIT_BLOCK: usize = 2;

/// Bit matrices that take two bits of every byte and move them down: the highest two, and so on. Row `i` of one makes bit `7 - i`.
pub(super) const BITS: [i64; STEPS] = [0x0102 << 54, 0x0102 << 52, 0x0102 << 50, 0x0102 << 48];

/// Weights of [`SIDE`] rows and 64 columns in tile order: dword `n` of line `k` has columns `4 k..4 k + 4` of row `n`,
/// the first 16 rows and then the others.
type Step = [[Line; TILE_ROWS]; 2];

/// Sums of one token. An odd number of cache lines, so that those of a tile's tokens are spread over the cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Sums([i32; ROW_BLOCK + 16]);

/// `store(row, token, sums)` for all rows of the panel, some at a time, and all tokens of `x`; sums
/// are `Σ q·code`.
///
/// # Safety
/// The processor must have AVX-512 F, BW, VL and VNNI and GFNI, and `amx::is_permitted()` have returned true.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,gfni")]
pub(crate) unsafe fn multiply(panel: Panel<'_>, x: &Quantized, mut store: impl FnMut(usize, usize, &[i32])) {
    if x.len() < FEWEST {
        // SAFETY: the features of that tier are among those of this one.
        return unsafe { ternary_avx512vnni::multiply(panel, x, store) };
    }
    if x.len() <= ternary_amx_few::MOST {
        // SAFETY: the caller's promise.
        return unsafe {
            match x.len() <= 8 {
                true => ternary_amx_few::multiply::<8>(panel, x, &mut store),
                false => ternary_amx_few::multiply::<16>(panel, x, &mut store),
            }
        };
    }
    let blocks = x.len().div_ceil(TOKEN_BLOCK);
    for block in 0..blocks {
        let tokens = x.len() * block / blocks..x.len() * (block + 1) / blocks;
        // SAFETY: the caller's promise.
        unsafe {
            if tokens.len() <= SIDE {
                many_tokens::<SIDE>(panel, x, tokens, &mut store);
            } else {
                many_tokens::<TOKEN_BLOCK>(panel, x, tokens, &mut store);
            }
        }
    }
}

/// All rows for a block of at most `N` tokens. An even number of tiles shares the tokens evenly; where that leaves a rest, the last
/// tiles begin earlier and compute some tokens again, so that there is neither padding nor a second configuration.
///
/// # Safety
/// As for [`multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,gfni")]
unsafe fn many_tokens<const N: usize>(
    panel: Panel<'_>,
    x: &Quantized,
    tokens: Range<usize>,
    store: &mut impl FnMut(usize, usize, &[i32]),
) {
    let tiles = 2 * tokens.len().div_ceil(SIDE);
    let height = tokens.len().div_ceil(tiles);
    let tile_tokens = |tile: usize| {
        let start = (tokens.start + tile * height).min(tokens.end - height);
        start..start + height
    };
    // SAFETY: the caller's promise; only one block of tokens is at work in a thread.
    let _configured = unsafe {
        let (tokens, codes) = ((height, TILE_BYTES), WHOLE);
        Tiles::configure([tokens, tokens, tokens, tokens, codes, codes, tokens, tokens])
    };
    let units = panel.row(0).len().div_ceil(64);
    let mut weights = [[[Line([0; TILE_BYTES]); TILE_ROWS]; 2]; UNIT_BLOCK * STEPS];
    let mut sums = [Sums([0; ROW_BLOCK + 16]); N];
    for first in (0..panel.rows()).step_by(ROW_BLOCK) {
        let rows = first..panel.rows().min(first + ROW_BLOCK);
        for (side, row) in rows.clone().step_by(SIDE).enumerate() {
            for start in (0..units).step_by(UNIT_BLOCK) {
                let units = start..(start + UNIT_BLOCK).min(units);
                unpack(panel, row, units.clone(), &mut weights);
                let weights = &weights[..units.len() * STEPS];
                for (pair, sums) in sums[..tiles * TILE_ROWS].chunks_exact_mut(SIDE).enumerate() {
                    let activations = [2 * pair, 2 * pair + 1].map(|tile| x.codes(tile_tokens(tile)));
                    // SAFETY: the tiles are configured for `height` tokens.
                    unsafe { add_products(activations, height, start, weights, sums, side) };
                }
            }
        }
        let mut done = tokens.start;
        for tile in 0..tiles {
            for (token, Sums(sums)) in
                tile_tokens(tile).zip(&sums[tile * TILE_ROWS..]).skip(done - tile_tokens(tile).start)
            {
                store(first, token, &sums[..rows.len()]);
            }
            done = tile_tokens(tile).end;
        }
    }
}

/// Adds the products of two tiles of `height` tokens (whole rows of [`Quantized`], from unit `start`) with the unpacked
/// weights to the sums number `side` of [`SIDE`] rows: of the first tile's tokens from 0, of the second's from
/// [`TILE_ROWS`]. At the start of a row the sums begin anew.
///
/// # Safety
/// The tiles of this thread must be configured for `height` rows.
#[inline]
unsafe fn add_products(
    activations: [&[i8]; 2],
    height: usize,
    start: usize,
    weights: &[Step],
    sums: &mut [Sums],
    side: usize,
) {
    let stride = activations[0].len() / height;
    assert!(height <= TILE_ROWS && activations.iter().all(|rows| rows.len() == height * stride));
    assert!(start * UNIT + weights.len() * TILE_BYTES <= stride);
    assert!(!weights.is_empty() && sums.len() == SIDE && (side + 1) * SIDE <= ROW_BLOCK);
    let [a, b] = activations.map(|rows| rows.as_ptr().wrapping_add(start * UNIT));
    let (upper, lower) = sums.split_at_mut(TILE_ROWS);
    // SAFETY: with steps of `stride`, tiles 6 and 7 read `height` rows of activations, 64 bytes per step, which end
    // within the slices by the assertions. Tiles 4 and 5 read one `Step` of 2048 bytes per step. Tiles 0..4 read and
    // write 16 sums each of `height` out of 16 tokens, of which each half has as many. Activations are not kept in the
    // nearest cache (`t1`), where the weights shall stay.
    unsafe {
        asm!(
            "test {start}, {start}",
            "jz 3f",
            "tileloadd tmm0, [{upper} + {sums}]",
            "tileloadd tmm1, [{upper} + {sums} + 64]",
            "tileloadd tmm2, [{lower} + {sums}]",
            "tileloadd tmm3, [{lower} + {sums} + 64]",
            "jmp 2f",
            "3:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloaddt1 tmm6, [{a} + {stride}]",
            "tileloadd tmm4, [{weights} + {line}]",
            "tdpbssd tmm0, tmm6, tmm4",
            "tileloadd tmm5, [{weights} + {line} + 1024]",
            "tdpbssd tmm1, tmm6, tmm5",
            "tileloaddt1 tmm7, [{b} + {stride}]",
            "tdpbssd tmm2, tmm7, tmm4",
            "tdpbssd tmm3, tmm7, tmm5",
            "add {a}, 64",
            "add {b}, 64",
            "add {weights}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{upper} + {sums}], tmm0",
            "tilestored [{upper} + {sums} + 64], tmm1",
            "tilestored [{lower} + {sums}], tmm2",
            "tilestored [{lower} + {sums} + 64], tmm3",
            start = in(reg) start,
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            weights = inout(reg) weights.as_ptr() => _,
            steps = inout(reg) weights.len() => _,
            upper = in(reg) upper[0].0[side * SIDE..].as_mut_ptr(),
            lower = in(reg) lower[0].0[side * SIDE..].as_mut_ptr(),
            stride = in(reg) stride,
            sums = in(reg) size_of::<Sums>(),
            line = in(reg) TILE_BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Unpacks `T` tiles of rows from `first`, and fetches those that come next; beyond the last row of the panel that row
/// again, whose sums nobody reads.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,gfni")]
fn unpack<const T: usize>(panel: Panel<'_>, first: usize, units: Range<usize>, out: &mut [[[Line; TILE_ROWS]; T]]) {
    let matrices = BITS.map(|matrix| _mm512_set1_epi64(matrix));
    let last = panel.rows() - 1;
    let row_bytes = panel.row(0).len();
    // The next rows lie behind these, and are fetched in order: memory likes that.
    let next = panel.row(first).as_ptr().wrapping_add(T * TILE_ROWS * row_bytes);
    for tile in 0..T {
        let mut rows: [&[u8]; TILE_ROWS] = [&[]; TILE_ROWS];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = panel.row((first + tile * TILE_ROWS + r).min(last));
        }
        for (unit, out) in units.clone().zip(out.chunks_exact_mut(STEPS)) {
            let next = next.wrapping_add(tile * TILE_ROWS * row_bytes + unit * TILE_ROWS * 64);
            let mut bits = [_mm512_setzero_si512(); TILE_ROWS];
            for r in 0..TILE_ROWS {
                // An address without memory does no harm.
                _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(r * 64).cast());
                bits[r] = load_unit(rows[r], unit);
            }
            let lines = transpose(bits);
            for (step, matrix) in out.iter_mut().zip(matrices) {
                for (out, bits) in step[tile].iter_mut().zip(lines) {
                    let codes = _mm512_gf2p8affine_epi64_epi8::<0>(bits, matrix);
                    // SAFETY: a line is 64 bytes, aligned.
                    unsafe { _mm512_store_si512(out.0.as_mut_ptr().cast(), codes) };
                }
            }
        }
    }
}
