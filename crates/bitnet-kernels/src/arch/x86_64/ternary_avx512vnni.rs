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

/// Tokens up to which it is fastest to unpack weights in registers, for at most eight of them at a time.
const FEW: usize = 28;
/// Rows whose products with few tokens are stored together.
const FEW_ROWS: usize = 96;
/// Tokens of a vector of sums.
const VECTOR: usize = 16;
/// Vectors of tokens that share a weight: 8 × 3 sums, 3 vectors of activations and a weight fit 32 registers.
const TILE: usize = 3;
/// Rows that share activations.
const TILE_ROWS: usize = 8;
/// Vectors of tokens that share unpacked weights.
const VECTOR_BLOCK: usize = 4 * TILE;
/// Rows that share arranged activations.
const ROW_BLOCK: usize = 320;
/// Rows whose results are stored together, some cache lines per token.
const LINE: usize = 64;
/// Units of 256 columns at a time: a tile of activations and eight rows, 42 KB, fit the first-level cache.
const UNIT_BLOCK: usize = 3;

/// How far ahead of the products the weights are fetched: hides the latency of main memory, and unlike the processor's own prefetching goes on across pages.
const PREFETCH: usize = 4096;

/// `store(row, token, sums)` for all rows of the panel, some at a time, and all tokens of `x`; sums are `Σ q·code`.
///
/// # Safety
/// The processor must have AVX-512 F, BW, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) unsafe fn multiply(panel: Panel<'_>, x: &Quantized, mut store: impl FnMut(usize, usize, &[i32])) {
    if x.len() > FEW {
        return many_tokens(panel, x, &mut store);
    }
    match std::arch::is_x86_feature_detected!("gfni") {
        true => few::<true>(panel, x, &mut store),
        false => few::<false>(panel, x, &mut store),
    }
}

/// All rows for at most [`FEW`] tokens; with `GFNI` the processor must have it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn few<const GFNI: bool>(panel: Panel<'_>, x: &Quantized, store: &mut impl FnMut(usize, usize, &[i32])) {
    let mut token = 0;
    while token < x.len() {
        let left = x.len() - token;
        let count = left.div_ceil(left.div_ceil(8));
        match count {
            1 => one_token(panel, x, token, store),
            2 => few_tokens::<2, 4, GFNI>(panel, x, token, store),
            3 => few_tokens::<3, 4, GFNI>(panel, x, token, store),
            4 => few_tokens::<4, 4, GFNI>(panel, x, token, store),
            5 => few_tokens::<5, 4, GFNI>(panel, x, token, store),
            6 => few_tokens::<6, 3, GFNI>(panel, x, token, store),
            7 => few_tokens::<7, 3, GFNI>(panel, x, token, store),
            _ => few_tokens::<8, 3, GFNI>(panel, x, token, store),
        }
        token += count;
    }
}

/// All rows for one token. The panel is read in four streams, a quarter each: memory gives a core a quarter more that
/// way than in one.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn one_token(panel: Panel<'_>, x: &Quantized, token: usize, store: &mut impl FnMut(usize, usize, &[i32])) {
    let activations = x.row(token).codes;
    let stream = panel.rows() / ROW_TILE;
    for row in 0..stream {
        let rows = [row, stream + row, 2 * stream + row, 3 * stream + row];
        let sums = dot_one(rows.map(|row| panel.row(row)), activations);
        for r in 0..ROW_TILE {
            store(rows[r], token, &sums[r..r + 1]);
        }
    }
    for row in ROW_TILE * stream..panel.rows() {
        store(row, token, &dot_one([panel.row(row); ROW_TILE], activations)[..1]);
    }
}

/// All rows for `T` tokens from `token`. Weights are unpacked in registers, `R` rows at a time, which share every load of
/// activations.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn few_tokens<const T: usize, const R: usize, const GFNI: bool>(
    panel: Panel<'_>,
    x: &Quantized,
    token: usize,
    store: &mut impl FnMut(usize, usize, &[i32]),
) {
    let activations: [&[i8]; T] = std::array::from_fn(|t| x.row(token + t).codes);
    let last = panel.rows() - 1;
    let mut sums = [[0; FEW_ROWS]; T];
    for first in (0..=last).step_by(FEW_ROWS) {
        let rows = FEW_ROWS.min(last + 1 - first);
        for start in (0..rows).step_by(R) {
            // No closures: they would not have the features, and be called.
            let mut codes: [&[u8]; R] = [&[]; R];
            for r in 0..R {
                codes[r] = panel.row((first + start + r).min(last));
            }
            let products = dot_few::<T, R, GFNI>(codes, activations);
            for r in 0..R.min(rows - start) {
                for t in 0..T {
                    sums[t][start + r] = products[r][t];
                }
            }
        }
        for (t, sums) in sums.iter().enumerate() {
            store(first, token + t, &sums[..rows]);
        }
    }
}

/// Products of `R` rows with `T` tokens, of which there are at most eight.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn dot_few<const T: usize, const R: usize, const GFNI: bool>(
    codes: [&[u8]; R],
    activations: [&[i8]; T],
) -> [[i32; 8]; R] {
    let mut acc = [[_mm512_setzero_si512(); 8]; R];
    for unit in 0..units(&codes, &activations) {
        let mut bits = [_mm512_setzero_si512(); R];
        for r in 0..R {
            bits[r] = load_unit(codes[r], unit);
            prefetch(codes[r], unit);
        }
        for chunk in 0..4 {
            let mut code = [_mm512_setzero_si512(); R];
            for r in 0..R {
                code[r] = if GFNI { moved_bits(bits[r], chunk) } else { shifted_bits(bits[r], chunk) };
            }
            for t in 0..T {
                let q = load_chunk(activations[t], unit, chunk);
                for r in 0..R {
                    acc[r][t] = _mm512_dpbusd_epi32(acc[r][t], code[r], q);
                }
            }
        }
    }
    let mut out = [[0; 8]; R];
    for r in 0..R {
        out[r] = eight_sums(acc[r]);
    }
    out
}

/// The codes of `chunk`: bits `7 - 2 chunk` and `6 - 2 chunk` of every byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn shifted_bits(bits: __m512i, chunk: usize) -> __m512i {
    let moved = match chunk {
        0 => _mm512_srli_epi16::<6>(bits),
        1 => _mm512_srli_epi16::<4>(bits),
        2 => _mm512_srli_epi16::<2>(bits),
        _ => bits,
    };
    _mm512_and_si512(moved, _mm512_set1_epi8(3)) // bits that cross bytes are masked away
}

/// The same in one instruction. The processor must have GFNI.
#[inline]
#[target_feature(enable = "avx512f")]
fn moved_bits(bits: __m512i, chunk: usize) -> __m512i {
    /// Bit matrices that give a byte's bits `p + 1` and `p` for p = 6, 4, 2, 0: byte `7 - i` of each makes bit `i`.
    static MATRICES: [u64; 4] = [0x4080 << 48, 0x1020 << 48, 0x0408 << 48, 0x0102 << 48];
    let codes;
    // SAFETY: reads one of the matrices. (The intrinsic would be called, not inlined, for its feature is not one of the callers'.)
    unsafe {
        std::arch::asm!(
            "vgf2p8affineqb {codes}, {bits}, qword ptr [{matrix}]{{1to8}}, 0",
            codes = out(zmm_reg) codes,
            bits = in(zmm_reg) bits,
            matrix = in(reg) &MATRICES[chunk],
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    codes
}

/// Four consecutive columns, of sixteen tokens or of sixteen places of a row of weights.
type Columns = __m512i;
/// Steps of four columns in a unit.
const STEPS: usize = UNIT / 4;
/// Unpacked weights of some rows.
type Unpacked = [[Columns; UNIT_BLOCK * STEPS / VECTOR]; TILE_ROWS];

/// All rows for all tokens. A lane of sums belongs to a token, so that sums need not be added across lanes: four columns
/// of a row, broadcast, meet four columns of sixteen tokens, which lie side by side after a transposition.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn many_tokens(panel: Panel<'_>, x: &Quantized, store: &mut impl FnMut(usize, usize, &[i32])) {
    let (vectors, rows) = (x.len().div_ceil(VECTOR), panel.rows());
    let (parts, blocks) = (rows.div_ceil(ROW_BLOCK), vectors.div_ceil(VECTOR_BLOCK));
    for part in 0..parts {
        let rows = rows * part / parts..rows * (part + 1) / parts;
        for block in 0..blocks {
            let tokens = vectors * block / blocks * VECTOR..x.len().min(vectors * (block + 1) / blocks * VECTOR);
            multiply_block(panel, rows.clone(), x, tokens, store);
        }
    }
}

/// At most [`ROW_BLOCK`] rows and [`VECTOR_BLOCK`] vectors of tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply_block(
    panel: Panel<'_>,
    rows: Range<usize>,
    x: &Quantized,
    tokens: Range<usize>,
    store: &mut impl FnMut(usize, usize, &[i32]),
) {
    let zero = _mm512_setzero_si512();
    let mut sums = [[zero; VECTOR_BLOCK]; ROW_BLOCK];
    let mut activations = [zero; TILE * UNIT_BLOCK * STEPS];
    let mut unpacked = [[[zero; UNIT_BLOCK * STEPS / VECTOR]; TILE_ROWS]; ROW_BLOCK / TILE_ROWS];
    let vectors = tokens.len().div_ceil(VECTOR);
    let tiles = vectors.div_ceil(TILE);
    let tile = |tile: usize| vectors * tile / tiles..vectors * (tile + 1) / tiles;
    let units = panel.row(0).len().div_ceil(64);
    let blocks = units.div_ceil(UNIT_BLOCK);
    for block in 0..blocks {
        let units = units * block / blocks..units * (block + 1) / blocks;
        let steps = units.len() * STEPS;
        for (first, out) in rows.clone().step_by(TILE_ROWS).zip(&mut unpacked) {
            unpack(panel, first..rows.end.min(first + TILE_ROWS), units.clone(), out);
        }
        for tile in (0..tiles).map(tile) {
            for (v, vector) in tile.clone().enumerate() {
                let first = tokens.start + vector * VECTOR;
                arrange(x, first..tokens.end.min(first + VECTOR), units.clone(), &mut activations[v..], tile.len());
            }
            let activations = &activations[..tile.len() * steps];
            for ((_, unpacked), sums) in rows.clone().step_by(TILE_ROWS).zip(&unpacked).zip(sums.as_chunks_mut().0) {
                match tile.len() {
                    1 => add_products::<1>(unpacked, activations, sums, tile.start),
                    2 => add_products::<2>(unpacked, activations, sums, tile.start),
                    _ => add_products::<3>(unpacked, activations, sums, tile.start),
                }
            }
        }
    }
    for vector in 0..vectors {
        let first_token = tokens.start + vector * VECTOR;
        for (first, sums) in rows.clone().step_by(LINE).zip(sums.chunks(LINE)) {
            let mut lines = [[zero; LINE / VECTOR]; VECTOR];
            for (part, sums) in sums.as_chunks::<VECTOR>().0.iter().enumerate() {
                let mut square = [zero; VECTOR];
                for (square, sums) in square.iter_mut().zip(sums) {
                    *square = sums[vector];
                }
                for (line, sums) in lines.iter_mut().zip(transpose(square)) {
                    line[part] = sums;
                }
            }
            for (token, line) in (first_token..tokens.end).zip(&lines) {
                // SAFETY: vectors are arrays of integers.
                let line: &[i32; LINE] = unsafe { &*line.as_ptr().cast() };
                store(first, token, &line[..LINE.min(rows.end - first)]);
            }
        }
    }
}

/// Writes the activations of at most sixteen tokens to every `stride`th place of `out`, four columns at a time; other
/// tokens are repeated, whose sums nobody reads.
#[inline]
#[target_feature(enable = "avx512f")]
fn arrange(x: &Quantized, tokens: Range<usize>, units: Range<usize>, out: &mut [Columns], stride: usize) {
    let mut rows: [&[[i8; 64]]; VECTOR] = [&[]; VECTOR];
    for (t, row) in rows.iter_mut().enumerate() {
        let codes = x.row((tokens.start + t).min(tokens.end - 1)).codes;
        *row = codes[units.start * UNIT..units.end * UNIT].as_chunks().0;
    }
    for chunk in 0..units.len() * (UNIT / 64) {
        let mut square = [_mm512_setzero_si512(); VECTOR];
        for (square, row) in square.iter_mut().zip(rows) {
            // SAFETY: the load is that of an array of 64 bytes.
            *square = unsafe { _mm512_loadu_si512(row[chunk].as_ptr().cast()) };
        }
        for (i, columns) in transpose(square).into_iter().enumerate() {
            out[(chunk * VECTOR + i) * stride] = columns;
        }
    }
}

/// Unpacks at most [`TILE_ROWS`] rows to bytes 0..=2, in the order of the activations; of fewer, the last one again.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack(panel: Panel<'_>, rows: Range<usize>, units: Range<usize>, out: &mut Unpacked) {
    for (r, out) in out.iter_mut().enumerate() {
        let row = panel.row((rows.start + r).min(rows.end - 1));
        for (unit, out) in units.clone().zip(out.as_chunks_mut().0) {
            prefetch(row, unit);
            let bits = load_unit(row, unit);
            *out = [shifted_bits(bits, 0), shifted_bits(bits, 1), shifted_bits(bits, 2), shifted_bits(bits, 3)];
        }
    }
}

/// Adds the products of unpacked weights with `V` vectors of tokens to the sums from vector `first` on.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn add_products<const V: usize>(
    unpacked: &Unpacked,
    activations: &[Columns],
    sums: &mut [[__m512i; VECTOR_BLOCK]; TILE_ROWS],
    first: usize,
) {
    let activations = activations.as_chunks::<V>().0;
    assert!(activations.len() <= size_of_val(&unpacked[0]) / 4);
    let mut acc = [[_mm512_setzero_si512(); V]; TILE_ROWS];
    for r in 0..TILE_ROWS {
        acc[r].copy_from_slice(&sums[r][first..first + V]);
    }
    for (step, activations) in activations.iter().enumerate() {
        for r in 0..TILE_ROWS {
            // SAFETY: a row of unpacked weights has that many groups of four bytes.
            let weights = _mm512_set1_epi32(unsafe { unpacked[r].as_ptr().cast::<i32>().add(step).read() });
            for v in 0..V {
                acc[r][v] = _mm512_dpbusd_epi32(acc[r][v], weights, activations[v]);
            }
        }
    }
    for r in 0..TILE_ROWS {
        sums[r][first..first + V].copy_from_slice(&acc[r]);
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

/// 16 × 16 dwords.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    // First squares of 4 × 4: lane `l` of `columns[4 g + c]` is column `4 l + c` of rows `4 g..4 g + 4`.
    let mut columns = rows;
    for columns in columns.chunks_exact_mut(4) {
        let (a, b) = (_mm512_unpacklo_epi32(columns[0], columns[1]), _mm512_unpacklo_epi32(columns[2], columns[3]));
        let (c, d) = (_mm512_unpackhi_epi32(columns[0], columns[1]), _mm512_unpackhi_epi32(columns[2], columns[3]));
        columns[0] = _mm512_unpacklo_epi64(a, b);
        columns[1] = _mm512_unpackhi_epi64(a, b);
        columns[2] = _mm512_unpacklo_epi64(c, d);
        columns[3] = _mm512_unpackhi_epi64(c, d);
    }
    let mut out = rows;
    for c in 0..4 {
        let even = |g: usize| _mm512_shuffle_i32x4::<0b10_00_10_00>(columns[g + c], columns[g + 4 + c]);
        let odd = |g: usize| _mm512_shuffle_i32x4::<0b11_01_11_01>(columns[g + c], columns[g + 4 + c]);
        out[c] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even(0), even(8));
        out[4 + c] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd(0), odd(8));
        out[8 + c] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even(0), even(8));
        out[12 + c] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd(0), odd(8));
    }
    out
}

#[inline]
fn units<const R: usize, const T: usize>(codes: &[&[u8]; R], activations: &[&[i8]; T]) -> usize {
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

/// The eight sums of eight vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn eight_sums(v: [__m512i; 8]) -> [i32; 8] {
    let pair = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let four = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)); // a b c d, four times
    let (low, high) = (four(pair(v[0], v[1]), pair(v[2], v[3])), four(pair(v[4], v[5]), pair(v[6], v[7])));
    let even = _mm512_shuffle_i32x4::<0b10_00_10_00>(low, high);
    let v = _mm512_add_epi32(even, _mm512_shuffle_i32x4::<0b11_01_11_01>(low, high)); // low low high high
    let v = _mm512_add_epi32(v, _mm512_shuffle_i32x4::<0b11_11_01_01>(v, v)); // low · high ·
    let v = _mm512_castsi512_si256(_mm512_shuffle_i32x4::<0b10_00_10_00>(v, v));
    let mut out = [0; 8];
    // SAFETY: `out` takes 32 bytes.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) };
    out
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    /// Where there is GFNI, nothing else would run the other way.
    #[test]
    fn codes_are_the_same_with_and_without_gfni() {
        if !Isa::available().contains(&Isa::Avx512Vnni) {
            eprintln!("SKIPPED: this processor has no AVX-512 VNNI");
            return;
        }
        let bytes: [u8; 64] = std::array::from_fn(|i| (i * 73 + 11) as u8);
        let gfni = std::arch::is_x86_feature_detected!("gfni");
        for chunk in 0..4 {
            let expected = bytes.map(|byte| byte >> (6 - 2 * chunk) & 3);
            // SAFETY: the processor has AVX-512 F and BW, and GFNI where `moved_bits` is called; vectors are arrays of bytes.
            unsafe {
                let bits = _mm512_loadu_si512(bytes.as_ptr().cast());
                assert_eq!(std::mem::transmute::<__m512i, [u8; 64]>(shifted_bits(bits, chunk)), expected);
                if gfni {
                    assert_eq!(std::mem::transmute::<__m512i, [u8; 64]>(moved_bits(bits, chunk)), expected);
                }
            }
        }
    }
}
