//! Ternary matrix products with AVX2.
//!
//! `vpmaddubsw` multiplies unsigned codes 0..=2 with int8 activations and adds pairs: |pair| ≤ 2 · 2 · 127 = 508. The
//! four chunks of a block of 128 columns add at most 2032 to a 16-bit lane, so 16 blocks (32512) fit before the sums
//! move on to 32 bits. Activations are −127..=127 by construction, and code 3 is refused when weights are loaded.

use std::arch::x86_64::*;

use crate::cpu::{Quantized, UNIT};
use crate::ternary_matmul::{GroupPanel, Panel, ROW_TILE};

/// Blocks of 128 columns that a 16-bit lane can take.
const FLUSH: usize = 16;
/// How far ahead of the products the weights are fetched.
const PREFETCH: usize = 4096;
/// Tokens that share an unpacked weight vector.
const TOKEN_TILE: usize = 4;

/// `store(row, token, sums)` for all rows of the panel, some at a time, and all tokens of `x`; sums are `Σ q·code`.
///
/// # Safety
/// The processor must have AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn multiply(panel: Panel<'_>, x: &Quantized, mut store: impl FnMut(usize, usize, &[i32])) {
    let mut token = 0;
    while token < x.len() {
        let left = x.len() - token;
        let count = left.div_ceil(left.div_ceil(TOKEN_TILE));
        match count {
            1 => one_token(panel, x, token, &mut store),
            2 => tokens::<2, 2>(panel, x, token, &mut store),
            3 => tokens::<3, 2>(panel, x, token, &mut store),
            _ => tokens::<4, 2>(panel, x, token, &mut store),
        }
        token += count;
    }
}

/// All rows for one token, read in four streams, as in the AVX-512 tier.
#[target_feature(enable = "avx2")]
fn one_token(panel: Panel<'_>, x: &Quantized, token: usize, store: &mut impl FnMut(usize, usize, &[i32])) {
    let activations = x.row(token).codes;
    let stream = panel.rows() / ROW_TILE;
    for row in 0..stream {
        for row in [row, stream + row, 2 * stream + row, 3 * stream + row] {
            store(row, token, &dot([panel.row(row)], [activations])[0]);
        }
    }
    for row in ROW_TILE * stream..panel.rows() {
        store(row, token, &dot([panel.row(row)], [activations])[0]);
    }
}

/// All rows for `T` tokens from `first`, `R` rows at a time.
#[target_feature(enable = "avx2")]
fn tokens<const T: usize, const R: usize>(
    panel: Panel<'_>,
    x: &Quantized,
    first: usize,
    store: &mut impl FnMut(usize, usize, &[i32]),
) {
    let mut activations: [&[i8]; T] = [&[]; T];
    for t in 0..T {
        activations[t] = x.row(first + t).codes;
    }
    for row in (0..panel.rows()).step_by(R) {
        let count = R.min(panel.rows() - row);
        let mut codes: [&[u8]; R] = [&[]; R];
        for r in 0..R {
            codes[r] = panel.row(row + r.min(count - 1));
        }
        let sums = dot(codes, activations);
        for t in 0..T {
            store(row, first + t, &sums[t][..count]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn dot<const T: usize, const R: usize>(codes: [&[u8]; R], activations: [&[i8]; T]) -> [[i32; R]; T] {
    let blocks = codes[0].len() / 32;
    assert!(codes.iter().all(|row| row.len() == blocks * 32));
    assert!(activations.iter().all(|row| row.len() * 2 >= blocks * UNIT));
    let mask = _mm256_set1_epi8(3);
    let ones = _mm256_set1_epi16(1);
    let mut wide = [[_mm256_setzero_si256(); R]; T];
    for start in (0..blocks).step_by(FLUSH) {
        let mut narrow = [[_mm256_setzero_si256(); R]; T];
        for block in start..(start + FLUSH).min(blocks) {
            let mut bits = [_mm256_setzero_si256(); R];
            for r in 0..R {
                // SAFETY: `block < blocks`, and each row has 32 bytes per block; prefetching never faults.
                bits[r] = unsafe {
                    let at = codes[r].as_ptr().add(block * 32);
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(PREFETCH).cast());
                    _mm256_loadu_si256(at.cast())
                };
            }
            let at = block / 2 * UNIT + block % 2 * 32;
            for chunk in (0..4).rev() {
                let mut code = [_mm256_setzero_si256(); R];
                for r in 0..R {
                    code[r] = _mm256_and_si256(bits[r], mask);
                    bits[r] = _mm256_srli_epi16::<2>(bits[r]); // bits that cross bytes are masked away next time
                }
                for t in 0..T {
                    // SAFETY: a row has whole units of 256 columns, at least one per two blocks.
                    let q = unsafe { _mm256_loadu_si256(activations[t].as_ptr().add(at + chunk * 64).cast()) };
                    for r in 0..R {
                        narrow[t][r] = _mm256_add_epi16(narrow[t][r], _mm256_maddubs_epi16(code[r], q));
                    }
                }
            }
        }
        for t in 0..T {
            for r in 0..R {
                wide[t][r] = _mm256_add_epi32(wide[t][r], _mm256_madd_epi16(narrow[t][r], ones));
            }
        }
    }
    let mut sums = [[0; R]; T];
    for t in 0..T {
        for r in 0..R {
            sums[t][r] = sum(wide[t][r]);
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum(v: __m256i) -> i32 {
    let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
    _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v)))
}

/// The four sums of four vectors.
#[inline]
#[target_feature(enable = "avx2")]
fn sums4(v: [__m256i; ROW_TILE]) -> __m128i {
    let v = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v))
}

super::ternary_groups::group_kernel! {
    features: "avx2,fma",
    /// `acc + Σ` of the products of 4 neighbours.
    dot4: |acc, code, q| _mm256_add_epi32(
        acc,
        _mm256_madd_epi16(_mm256_maddubs_epi16(code, q), _mm256_set1_epi16(1)),
    )
}
