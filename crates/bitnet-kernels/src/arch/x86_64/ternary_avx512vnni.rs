//! Ternary matrix products with AVX-512 VNNI.
//!
//! `vpdpbusd` adds four products of unsigned codes and int8 activations to a 32-bit lane, so nothing can overflow up
//! to the column limit that loading checks. One 64-byte load of weights holds two blocks of 128 columns;
//! [`Quantized`] keeps its columns in the matching order.

use std::arch::x86_64::*;
use std::ops::Range;

use super::bytes::{Avx512Vnni, Ymm};
use super::ternary_vectors;
use crate::cpu::{Quantized, UNIT};
use crate::ternary_matmul::{GroupPanel, Panel, ROW_TILE};

/// Tokens that share a load of unpacked weights: 4 × 6 accumulators, 4 weight vectors and the activations fit 32 registers.
const TOKEN_TILE: usize = 6;
/// Tokens that share unpacked weights: their sums stay on the stack.
const TOKEN_BLOCK: usize = 20 * TOKEN_TILE;
/// Rows whose results are stored together, a cache line per token.
const ROW_BLOCK: usize = 16;
/// Units of 256 columns that are unpacked at a time: 16 KB of codes and 24 KB of activations stay in the first-level cache.
const UNIT_BLOCK: usize = 16;

/// How far ahead of the products the weights are fetched: hides the latency of main memory, and unlike the processor's own prefetching goes on across pages.
const PREFETCH: usize = 4096;

/// `store(row, token, sums)` for all rows of the panel, some at a time, and all tokens of `x`; sums are `Σ q·code`.
///
/// # Safety
/// The processor must have AVX-512 F, BW, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) unsafe fn multiply(panel: Panel<'_>, x: &Quantized, mut store: impl FnMut(usize, usize, &[i32])) {
    match x.len() {
        0 => return,
        1 => return one_token(panel, x, &mut store),
        2 => return few_tokens::<2, 4>(panel, x, &mut store),
        3 => return few_tokens::<3, 4>(panel, x, &mut store),
        4 => return few_tokens::<4, 4>(panel, x, &mut store),
        5 => return few_tokens::<5, 4>(panel, x, &mut store),
        6 => return few_tokens::<6, 2>(panel, x, &mut store),
        7 => return few_tokens::<7, 2>(panel, x, &mut store),
        8 => return few_tokens::<8, 2>(panel, x, &mut store),
        _ => {}
    }
    for first in (0..x.len()).step_by(TOKEN_BLOCK) {
        let tokens = first..(first + TOKEN_BLOCK).min(x.len());
        many_tokens(panel, x, tokens, &mut store);
    }
}

/// All rows for one token. The panel is read in four streams, a quarter each: memory gives a core a quarter more that
/// way than in one.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn one_token(panel: Panel<'_>, x: &Quantized, store: &mut impl FnMut(usize, usize, &[i32])) {
    let activations = x.row(0).codes;
    let stream = panel.rows() / ROW_TILE;
    for row in 0..stream {
        let rows = [row, stream + row, 2 * stream + row, 3 * stream + row];
        let sums = dot_one(rows.map(|row| panel.row(row)), activations);
        for r in 0..ROW_TILE {
            store(rows[r], 0, &sums[r..r + 1]);
        }
    }
    for row in ROW_TILE * stream..panel.rows() {
        store(row, 0, &dot_one([panel.row(row); ROW_TILE], activations)[..1]);
    }
}

/// All rows for `T` tokens, the whole of `x`. Weights are unpacked in registers, `R` rows at a time: each 64 bytes of them
/// take `4 T` products, which keeps up with memory to about eight tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn few_tokens<const T: usize, const R: usize>(
    panel: Panel<'_>,
    x: &Quantized,
    store: &mut impl FnMut(usize, usize, &[i32]),
) {
    let activations: [&[i8]; T] = std::array::from_fn(|token| x.row(token).codes);
    let mask = _mm512_set1_epi8(3);
    let last = panel.rows() - 1;
    for first in (0..=last).step_by(ROW_TILE) {
        let rows = ROW_TILE.min(last + 1 - first);
        let mut sums = [[0; ROW_TILE]; T];
        for start in (0..ROW_TILE).step_by(R) {
            let codes: [&[u8]; ROW_TILE] = std::array::from_fn(|r| panel.row((first + start + r % R).min(last)));
            let mut acc = [[_mm512_setzero_si512(); ROW_TILE]; T];
            for unit in 0..units(&codes, &activations) {
                let mut bits = [_mm512_setzero_si512(); R];
                for r in 0..R {
                    bits[r] = load_unit(codes[r], unit);
                    prefetch(codes[r], unit);
                }
                for chunk in 0..4 {
                    let mut code = [_mm512_setzero_si512(); R];
                    for r in 0..R {
                        // Bits that cross bytes are masked away.
                        let moved = match chunk {
                            0 => _mm512_srli_epi16::<6>(bits[r]),
                            1 => _mm512_srli_epi16::<4>(bits[r]),
                            2 => _mm512_srli_epi16::<2>(bits[r]),
                            _ => bits[r],
                        };
                        code[r] = _mm512_and_si512(moved, mask);
                    }
                    for t in 0..T {
                        let q = load_chunk(activations[t], unit, chunk);
                        for r in 0..R {
                            acc[t][r] = _mm512_dpbusd_epi32(acc[t][r], code[r], q);
                        }
                    }
                }
            }
            for t in 0..T {
                let part = four_sums(acc[t]);
                sums[t][start..start + R].copy_from_slice(&part[..R]);
            }
        }
        for (token, sums) in sums.iter().enumerate() {
            store(first, token, &sums[..rows]);
        }
    }
}

/// Unpacked weights of [`ROW_TILE`] rows and one unit, by chunk: bytes 0..=2.
type UnpackedUnit = [[__m512i; ROW_TILE]; 4];

/// All rows for a block of tokens. Four rows are unpacked once and meet every token.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn many_tokens(panel: Panel<'_>, x: &Quantized, tokens: Range<usize>, store: &mut impl FnMut(usize, usize, &[i32])) {
    let mut unpacked: [UnpackedUnit; UNIT_BLOCK] = [[[_mm512_setzero_si512(); ROW_TILE]; 4]; UNIT_BLOCK];
    let last = panel.rows() - 1;
    for first in (0..=last).step_by(ROW_BLOCK) {
        let rows = first..(first + ROW_BLOCK).min(last + 1);
        let mut sums = [[0; ROW_BLOCK]; TOKEN_BLOCK];
        for row in rows.clone().step_by(ROW_TILE) {
            let codes = [row, row + 1, row + 2, row + 3].map(|row| panel.row(row.min(last)));
            let units = units(&codes, &[]);
            let blocks = units.div_ceil(UNIT_BLOCK);
            for block in 0..blocks {
                let units = units * block / blocks..units * (block + 1) / blocks;
                unpack(codes, units.clone(), &mut unpacked);
                dot_tokens(&unpacked[..units.len()], x, tokens.clone(), units.start, &mut sums, row - first);
            }
        }
        for (token, sums) in tokens.clone().zip(&sums) {
            store(first, token, &sums[..rows.len()]);
        }
    }
}

/// Adds the products of unpacked weights, from unit `start`, with all `tokens` to `sums[..][row..row + ROW_TILE]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn dot_tokens(
    unpacked: &[UnpackedUnit],
    x: &Quantized,
    tokens: Range<usize>,
    start: usize,
    sums: &mut [[i32; ROW_BLOCK]; TOKEN_BLOCK],
    row: usize,
) {
    let mut first = tokens.start;
    while first < tokens.end {
        let left = tokens.end - first;
        let tile = left.div_ceil(left.div_ceil(TOKEN_TILE));
        let sums = &mut sums[first - tokens.start..][..tile];
        match tile {
            1 => dot::<1>(unpacked, x, first, start, sums, row),
            2 => dot::<2>(unpacked, x, first, start, sums, row),
            3 => dot::<3>(unpacked, x, first, start, sums, row),
            4 => dot::<4>(unpacked, x, first, start, sums, row),
            5 => dot::<5>(unpacked, x, first, start, sums, row),
            _ => dot::<6>(unpacked, x, first, start, sums, row),
        }
        first += tile;
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack(codes: [&[u8]; ROW_TILE], units: Range<usize>, out: &mut [UnpackedUnit; UNIT_BLOCK]) {
    let mask = _mm512_set1_epi8(3);
    for (unit, out) in units.zip(out) {
        for r in 0..ROW_TILE {
            prefetch(codes[r], unit);
            let bits = load_unit(codes[r], unit);
            // Bits that cross bytes are masked away.
            out[0][r] = _mm512_and_si512(_mm512_srli_epi16::<6>(bits), mask);
            out[1][r] = _mm512_and_si512(_mm512_srli_epi16::<4>(bits), mask);
            out[2][r] = _mm512_and_si512(_mm512_srli_epi16::<2>(bits), mask);
            out[3][r] = _mm512_and_si512(bits, mask);
        }
    }
}

/// The same for `T` tokens from `token`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn dot<const T: usize>(
    unpacked: &[UnpackedUnit],
    x: &Quantized,
    token: usize,
    start: usize,
    sums: &mut [[i32; ROW_BLOCK]],
    row: usize,
) {
    let mut activations: [&[i8]; T] = [&[]; T];
    for t in 0..T {
        activations[t] = &x.row(token + t).codes[start * UNIT..(start + unpacked.len()) * UNIT];
    }
    let mut acc = [[_mm512_setzero_si512(); ROW_TILE]; T];
    for (unit, unpacked) in unpacked.iter().enumerate() {
        for chunk in 0..4 {
            for t in 0..T {
                let q = load_chunk(activations[t], unit, chunk);
                for r in 0..ROW_TILE {
                    acc[t][r] = _mm512_dpbusd_epi32(acc[t][r], unpacked[chunk][r], q);
                }
            }
        }
    }
    for t in 0..T {
        let part = four_sums(acc[t]);
        for r in 0..ROW_TILE {
            sums[t][row + r] += part[r];
        }
    }
}

/// Weights of the unit at `unit`: 64 bytes, or the last 32 of a row with an odd number of blocks. The missing half is
/// zero and meets activations that are zero.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_unit(row: &[u8], unit: usize) -> __m512i {
    debug_assert!(unit * 64 + 32 <= row.len());
    // SAFETY: callers pass `unit < row.len().div_ceil(64)`, and rows are whole blocks of 32 bytes.
    unsafe {
        let at = row.as_ptr().add(unit * 64);
        if (unit + 1) * 64 <= row.len() {
            _mm512_loadu_si512(at.cast())
        } else {
            _mm512_zextsi256_si512(_mm256_loadu_si256(at.cast()))
        }
    }
}

/// Activations that meet bits `7 - 2 chunk` and `6 - 2 chunk` of the weights of `unit`.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_chunk(row: &[i8], unit: usize, chunk: usize) -> __m512i {
    debug_assert!((unit + 1) * UNIT <= row.len());
    // SAFETY: rows are whole units, and callers assert that there are enough of them.
    unsafe { _mm512_loadu_si512(row.as_ptr().add(unit * UNIT + chunk * 64).cast()) }
}

/// Fetches what comes [`PREFETCH`] bytes after `unit`; an address without memory behind it does no harm.
#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch(row: &[u8], unit: usize) {
    _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(unit * 64 + PREFETCH).cast());
}

#[inline]
fn units<const T: usize>(codes: &[&[u8]; ROW_TILE], activations: &[&[i8]; T]) -> usize {
    let bytes = codes[0].len();
    let units = bytes.div_ceil(64);
    assert!(bytes.is_multiple_of(32) && codes.iter().all(|row| row.len() == bytes));
    assert!(activations.iter().all(|row| row.len() >= units * UNIT));
    units
}

/// Matrix–vector: 8 vector operations per 64 bytes of weights. The codes stay where they are in their bytes, each
/// position has its own sums, and these are shifted at the end, which is exact.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn dot_one(codes: [&[u8]; ROW_TILE], activations: &[i8]) -> [i32; ROW_TILE] {
    let units = units(&codes, &[activations]);
    let masks = [0xc0u8, 0x30, 0x0c, 0x03].map(|mask| _mm512_set1_epi8(mask as i8));
    let mut total = [_mm512_setzero_si512(); ROW_TILE];
    for r in 0..ROW_TILE {
        let mut acc = [_mm512_setzero_si512(); 4];
        for unit in 0..units {
            let bits = load_unit(codes[r], unit);
            prefetch(codes[r], unit);
            for chunk in 0..4 {
                let q = load_chunk(activations, unit, chunk);
                acc[chunk] = _mm512_dpbusd_epi32(acc[chunk], _mm512_and_si512(bits, masks[chunk]), q);
            }
        }
        let [a, b, c, d] = acc;
        let high = _mm512_add_epi32(_mm512_srai_epi32::<6>(a), _mm512_srai_epi32::<4>(b));
        total[r] = _mm512_add_epi32(high, _mm512_add_epi32(_mm512_srai_epi32::<2>(c), d));
    }
    four_sums(total)
}

/// The four sums of four vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn four_sums(v: [__m512i; ROW_TILE]) -> [i32; ROW_TILE] {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    let v = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd)); // a b c d, four times
    let v = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v));
    let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let mut out = [0; ROW_TILE];
    // SAFETY: `out` takes 16 bytes.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), v) };
    out
}

/// The product with several scales per row, whose groups may be as short as 32 columns: in vectors of 32 bytes.
///
/// # Safety
/// The processor must have AVX2, FMA, and AVX-512 F, VL and VNNI.
#[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512vnni")]
pub(crate) unsafe fn multiply_groups(panel: GroupPanel<'_>, x: &Quantized, store: impl FnMut(usize, usize, &[f32])) {
    // SAFETY: this function has the features.
    ternary_vectors::multiply_groups(unsafe { Ymm::<Avx512Vnni>::new() }, panel, x, store);
}
