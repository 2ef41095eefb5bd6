//! Ternary matrix products with AVX-512 VNNI.
//!
//! `vpdpbusd` adds four products of unsigned codes and int8 activations to a 32-bit lane, so nothing can overflow up
//! to the column limit that loading checks. One 64-byte load of weights holds two blocks of 128 columns;
//! [`Quantized`] keeps its columns in the matching order.

use std::arch::x86_64::*;

use crate::cpu::{Quantized, UNIT};
use crate::ternary_matmul::{GroupPanel, Panel, ROW_TILE};

/// Tokens that share an unpacked weight vector: 4 × 6 accumulators, 4 weight vectors and the mask fit 32 registers.
const TOKEN_TILE: usize = 6;

/// `store(row, token, sums)` for all rows of the panel, [`ROW_TILE`] at a time (fewer at the end), and all tokens of
/// `x`; sums are `Σ q·code`.
///
/// # Safety
/// The processor must have AVX-512 F, BW, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) unsafe fn multiply(panel: Panel<'_>, x: &Quantized, mut store: impl FnMut(usize, usize, &[i32])) {
    let mut token = 0;
    while token < x.len() {
        let left = x.len() - token;
        let count = left.div_ceil(left.div_ceil(TOKEN_TILE));
        match count {
            1 => tokens::<1>(panel, x, token, &mut store),
            2 => tokens::<2>(panel, x, token, &mut store),
            3 => tokens::<3>(panel, x, token, &mut store),
            4 => tokens::<4>(panel, x, token, &mut store),
            5 => tokens::<5>(panel, x, token, &mut store),
            _ => tokens::<6>(panel, x, token, &mut store),
        }
        token += count;
    }
}

/// All rows for `T` tokens from `first`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn tokens<const T: usize>(panel: Panel<'_>, x: &Quantized, first: usize, store: &mut impl FnMut(usize, usize, &[i32])) {
    let mut activations: [&[i8]; T] = [&[]; T];
    for t in 0..T {
        activations[t] = x.row(first + t).codes;
    }
    for row in (0..panel.rows()).step_by(ROW_TILE) {
        let count = ROW_TILE.min(panel.rows() - row);
        let mut codes: [&[u8]; ROW_TILE] = [&[]; ROW_TILE];
        for r in 0..ROW_TILE {
            codes[r] = panel.row(row + r.min(count - 1));
        }
        if T == 1 {
            store(row, first, &dot_one(codes, activations[0])[..count]);
        } else {
            let sums = dot(codes, activations);
            for t in 0..T {
                store(row, first + t, &sums[t][..count]);
            }
        }
    }
}

/// Weights of the unit at `unit`: 64 bytes, or the last 32 of a row with an odd number of blocks. The missing half is
/// zero and meets activations that are zero.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_unit(row: &[u8], unit: usize) -> __m512i {
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

#[inline]
fn units<const T: usize>(codes: &[&[u8]; ROW_TILE], activations: &[&[i8]; T]) -> usize {
    let bytes = codes[0].len();
    let units = bytes.div_ceil(64);
    assert!(bytes % 32 == 0 && codes.iter().all(|row| row.len() == bytes));
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
    let mut acc = [[_mm512_setzero_si512(); 4]; ROW_TILE];
    for unit in 0..units {
        let mut bits = [_mm512_setzero_si512(); ROW_TILE];
        for r in 0..ROW_TILE {
            bits[r] = load_unit(codes[r], unit);
        }
        for chunk in 0..4 {
            let q = load_chunk(activations, unit, chunk);
            for r in 0..ROW_TILE {
                acc[r][chunk] = _mm512_dpbusd_epi32(acc[r][chunk], _mm512_and_si512(bits[r], masks[chunk]), q);
            }
        }
    }
    let mut total = [_mm512_setzero_si512(); ROW_TILE];
    for r in 0..ROW_TILE {
        let [a, b, c, d] = acc[r];
        let high = _mm512_add_epi32(_mm512_srai_epi32::<6>(a), _mm512_srai_epi32::<4>(b));
        total[r] = _mm512_add_epi32(high, _mm512_add_epi32(_mm512_srai_epi32::<2>(c), d));
    }
    sums(total)
}

/// `T` tokens: codes are unpacked to 0..=2 and used `T` times.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn dot<const T: usize>(codes: [&[u8]; ROW_TILE], activations: [&[i8]; T]) -> [[i32; ROW_TILE]; T] {
    let units = units(&codes, &activations);
    let mask = _mm512_set1_epi8(3);
    let mut acc = [[_mm512_setzero_si512(); ROW_TILE]; T];
    for unit in 0..units {
        let mut bits = [_mm512_setzero_si512(); ROW_TILE];
        for r in 0..ROW_TILE {
            bits[r] = load_unit(codes[r], unit);
        }
        for chunk in (0..4).rev() {
            let mut code = [_mm512_setzero_si512(); ROW_TILE];
            for r in 0..ROW_TILE {
                code[r] = _mm512_and_si512(bits[r], mask);
                bits[r] = _mm512_srli_epi16::<2>(bits[r]); // bits that cross bytes are masked away next time
            }
            for t in 0..T {
                let q = load_chunk(activations[t], unit, chunk);
                for r in 0..ROW_TILE {
                    acc[t][r] = _mm512_dpbusd_epi32(acc[t][r], code[r], q);
                }
            }
        }
    }
    let mut out = [[0; ROW_TILE]; T];
    for t in 0..T {
        out[t] = sums(acc[t]);
    }
    out
}

/// The four sums of four vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn sums(v: [__m512i; ROW_TILE]) -> [i32; ROW_TILE] {
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

/// The four sums of four vectors.
#[inline]
#[target_feature(enable = "avx2")]
fn sums4(v: [__m256i; ROW_TILE]) -> __m128i {
    let v = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v))
}

super::ternary_groups::group_kernel! {
    features: "avx2,fma,avx512f,avx512vl,avx512vnni",
    /// `acc + Σ` of the products of 4 neighbours.
    dot4: |acc, code, q| _mm256_dpbusd_epi32(acc, code, q)
}
