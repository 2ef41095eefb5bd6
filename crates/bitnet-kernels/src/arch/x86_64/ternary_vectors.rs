//! Ternary matrix products over [`Bytes`]: SSE4.1, AVX2, AVX-VNNI, and for grouped scales AVX-512 VNNI.
//!
//! Codes 0..=2 are unsigned, activations are −127..=127 by construction, and code 3 is refused when weights are
//! loaded: the products between two calls of [`Bytes::widen`] are no more than [`Bytes::ROOM`], so nothing overflows.

use std::arch::x86_64::*;
use std::ops::Range;

use super::bytes::Bytes;
use crate::cpu::{Quantized, QuantizedRow, UNIT};
use crate::ternary_matmul::{GroupPanel, Panel, ROW_TILE};

/// How far ahead of the products the weights are fetched. No multiple of 4096: streams are often that far apart, and a cache has few places
/// for lines of equal last bits.
const PREFETCH: usize = 3072;
/// Rows that share activations: their sums for all tokens of a tile fit sixteen registers.
const R: usize = 2;
/// Rows whose results are stored together, a cache line per token.
const LINE: usize = 16;

/// `store(row, token, sums)` for all rows of the panel, some at a time, and `tokens` of `x`; sums are `Σ q·code`.
#[inline(always)]
pub(super) fn multiply<B: Bytes>(
    b: B,
    panel: Panel<'_>,
    x: &Quantized,
    tokens: Range<usize>,
    mut store: impl FnMut(usize, usize, &[i32]),
) {
    let mut token = tokens.start;
    while token < tokens.end {
        let left = tokens.end - token;
        let count = left.div_ceil(left.div_ceil(B::TOKEN_TILE));
        match count {
            1 => one_token(b, panel, x, token, &mut store),
            2 => few_tokens::<B, 2>(b, panel, x, token, &mut store),
            3 => few_tokens::<B, 3>(b, panel, x, token, &mut store),
            4 => few_tokens::<B, 4>(b, panel, x, token, &mut store),
            5 => few_tokens::<B, 5>(b, panel, x, token, &mut store),
            _ => few_tokens::<B, 6>(b, panel, x, token, &mut store),
        }
        token += count;
    }
}

/// All rows for one token. The panel is read in four streams, a quarter each: memory gives a core a quarter more that
/// way than in one.
#[inline(always)]
fn one_token<B: Bytes>(
    b: B,
    panel: Panel<'_>,
    x: &Quantized,
    token: usize,
    store: &mut impl FnMut(usize, usize, &[i32]),
) {
    let activations = x.row(token).codes;
    let stream = panel.rows() / ROW_TILE;
    for line in (0..stream).step_by(LINE) {
        let mut sums = [[0; LINE]; ROW_TILE];
        let rows = LINE.min(stream - line);
        for row in 0..rows {
            for r in (0..ROW_TILE).step_by(R) {
                let first = r * stream + line + row;
                let [pair] = dot(b, [panel.row(first), panel.row(first + stream)], [activations]);
                (sums[r][row], sums[r + 1][row]) = (pair[0], pair[1]);
            }
        }
        for r in 0..ROW_TILE {
            store(r * stream + line, token, &sums[r][..rows]);
        }
    }
    for row in ROW_TILE * stream..panel.rows() {
        let [pair] = dot(b, [panel.row(row); R], [activations]);
        store(row, token, &pair[..1]);
    }
}

/// All rows for `T` tokens from `first`.
#[inline(always)]
fn few_tokens<B: Bytes, const T: usize>(
    b: B,
    panel: Panel<'_>,
    x: &Quantized,
    first: usize,
    store: &mut impl FnMut(usize, usize, &[i32]),
) {
    let mut activations: [&[i8]; T] = [&[]; T];
    for t in 0..T {
        activations[t] = x.row(first + t).codes;
    }
    let last = panel.rows() - 1;
    for line in (0..=last).step_by(LINE) {
        let mut sums = [[0; LINE]; T];
        for row in (line..=last.min(line + LINE - 1)).step_by(R) {
            let pair = dot(b, [panel.row(row), panel.row(last.min(row + 1))], activations);
            for t in 0..T {
                sums[t][row - line..][..R].copy_from_slice(&pair[t]);
            }
        }
        for t in 0..T {
            store(line, first + t, &sums[t][..LINE.min(last + 1 - line)]);
        }
    }
}

/// Codes of a chunk of 32 columns, or a part of it.
#[inline(always)]
fn codes<B: Bytes>(b: B, bits: B::V, chunk: usize) -> B::V {
    // Bits that cross bytes are masked away.
    let bits = match chunk {
        0 => b.shift_right::<6>(bits),
        1 => b.shift_right::<4>(bits),
        2 => b.shift_right::<2>(bits),
        _ => bits,
    };
    b.and(bits, b.splat(3))
}

/// Where the activations stand that meet chunk 0 of the weights at byte `at`; those of the next chunks follow in steps
/// of 64.
#[inline(always)]
fn position(at: usize) -> usize {
    at / 64 * UNIT + at % 64
}

#[inline(always)]
fn dot<B: Bytes, const T: usize>(b: B, rows: [&[u8]; R], activations: [&[i8]; T]) -> [[i32; R]; T] {
    let len = rows[0].len();
    assert!(len.is_multiple_of(32) && rows.iter().all(|row| row.len() == len));
    assert!(activations.iter().all(|row| row.len() * 2 >= len.next_multiple_of(64) * 8));
    let mut wide = [[b.zero(); R]; T];
    for start in (0..len).step_by(B::ROOM / 4 * B::WIDTH) {
        let mut narrow = [[b.zero(); R]; T];
        for at in (start..len.min(start + B::ROOM / 4 * B::WIDTH)).step_by(B::WIDTH) {
            let mut bits = [b.zero(); R];
            for r in 0..R {
                // SAFETY: rows are whole blocks of 32 bytes; prefetching never faults.
                bits[r] = unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(rows[r].as_ptr().wrapping_add(at + PREFETCH).cast());
                    b.load(rows[r].as_ptr().add(at))
                };
            }
            for chunk in 0..4 {
                let mut code = [b.zero(); R];
                for r in 0..R {
                    code[r] = codes(b, bits[r], chunk);
                }
                for t in 0..T {
                    // SAFETY: activations are whole units, enough of them by the assertion above.
                    let q = unsafe { b.load(activations[t].as_ptr().add(position(at) + chunk * 64).cast()) };
                    for r in 0..R {
                        narrow[t][r] = b.add_products(narrow[t][r], code[r], q);
                    }
                }
            }
        }
        for t in 0..T {
            for r in 0..R {
                wide[t][r] = b.add32(wide[t][r], b.widen(narrow[t][r]));
            }
        }
    }
    let mut sums = [[0; R]; T];
    for t in (0..T).step_by(2) {
        let other = (T - 1).min(t + 1);
        let mut four = [0; 4];
        // SAFETY: every x86-64 processor has SSE2; `four` has 16 bytes.
        unsafe {
            let v = b.four_sums([wide[t][0], wide[t][1], wide[other][0], wide[other][1]]);
            _mm_storeu_si128(four.as_mut_ptr().cast(), v);
        }
        sums[t] = [four[0], four[1]];
        sums[other] = [four[2], four[3]];
    }
    sums
}

/// `store(row, token, values)` as for [`multiply`]; values are `Σ_g fma(Σ q·w, scale_g)`. It works on 32 columns at a
/// time, because that is the granularity of groups, and on four rows, so that their sums are reduced and scaled together.
#[inline(always)]
pub(super) fn multiply_groups<B: Bytes>(
    b: B,
    panel: GroupPanel<'_>,
    x: &Quantized,
    mut store: impl FnMut(usize, usize, &[f32]),
) {
    for row in (0..panel.codes.rows()).step_by(ROW_TILE) {
        let count = ROW_TILE.min(panel.codes.rows() - row);
        for token in 0..x.len() {
            store(row, token, &four_rows(b, panel, row, count, x.row(token))[..count]);
        }
    }
}

#[inline(always)]
fn four_rows<B: Bytes>(
    b: B,
    panel: GroupPanel<'_>,
    first: usize,
    count: usize,
    x: QuantizedRow<'_>,
) -> [f32; ROW_TILE] {
    let mut rows: [&[u8]; ROW_TILE] = [&[]; ROW_TILE];
    let mut scales: [&[f32]; ROW_TILE] = [&[]; ROW_TILE];
    for r in 0..ROW_TILE {
        let row = first + r.min(count - 1);
        rows[r] = panel.codes.row(row);
        scales[r] = &panel.scales[row * panel.groups..(row + 1) * panel.groups];
    }
    let blocks = rows[0].len() / 32;
    assert!(rows.iter().all(|row| row.len() == blocks * 32) && x.codes.len() * 2 >= blocks * UNIT);
    let chunks_per_group = panel.len.div_ceil(32);
    let mut value = [0.0; ROW_TILE];
    let (mut narrow, mut wide) = ([b.zero(); ROW_TILE], [b.zero(); ROW_TILE]);
    let (mut group, mut in_group, mut correction) = (0, 0, 0);
    for block in 0..blocks {
        for chunk in 0..4 {
            for at in (block * 32..block * 32 + 32).step_by(B::WIDTH) {
                // SAFETY: the chunk is within its unit, and there are enough units by the assertion above.
                let q = unsafe { b.load(x.codes.as_ptr().add(position(at) + chunk * 64).cast()) };
                for r in 0..ROW_TILE {
                    // SAFETY: all rows have `blocks` times 32 bytes.
                    let bits = unsafe { b.load(rows[r].as_ptr().add(at)) };
                    narrow[r] = b.add_products(narrow[r], codes(b, bits, chunk), q);
                }
            }
            correction += x.sums[block * 4 + chunk];
            in_group += 1;
            let ends = in_group == chunks_per_group || block + 1 == blocks && chunk == 3;
            if ends || in_group % (B::ROOM / (32 / B::WIDTH)) == 0 {
                for r in 0..ROW_TILE {
                    wide[r] = b.add32(wide[r], b.widen(narrow[r]));
                    narrow[r] = b.zero();
                }
            }
            if ends {
                if group < panel.groups {
                    let scales = scales.map(|scales| scales[group]);
                    // SAFETY: every x86-64 processor has SSE2; the arrays have 16 bytes.
                    unsafe {
                        let sums = _mm_sub_epi32(b.four_sums(wide), _mm_set1_epi32(correction));
                        let scales = _mm_loadu_ps(scales.as_ptr());
                        let scaled = b.fma(_mm_cvtepi32_ps(sums), scales, _mm_loadu_ps(value.as_ptr()));
                        _mm_storeu_ps(value.as_mut_ptr(), scaled);
                    }
                }
                wide = [b.zero(); ROW_TILE];
                (group, in_group, correction) = (group + 1, 0, 0);
            }
        }
    }
    value
}
