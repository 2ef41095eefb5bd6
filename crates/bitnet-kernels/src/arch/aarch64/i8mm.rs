//! Ternary products of several tokens with the matrix instructions of ARMv8.6: `smmla` multiplies two rows of eight bytes
//! with two others and adds the four sums to 32-bit lanes, twice the products of `sdot`. Nothing can overflow up to the
//! column limit that loading checks.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::cpu::{Quantized, UNIT};
use crate::ternary_matmul::Panel;

/// Pairs of rows that share a load of activations.
const ROW_PAIRS: usize = 4;
/// Rows that are computed together.
const ROW_TILE: usize = 2 * ROW_PAIRS;
/// Tokens that share unpacked weights: two pairs, 2 × 4 sums, 4 × 4 vectors of weights and the activations fit 32 registers.
const TOKEN_TILE: usize = 4;
/// Tokens that all rows meet before the next ones: their activations stay in the second-level cache.
const TOKEN_BLOCK: usize = 32;

/// `store(row, token, sums)` for all rows of the panel, some at a time, and all tokens of `x`; sums are `Σ q·code`.
///
/// # Safety
/// The processor must have NEON, the dot product and the int8 matrix instructions.
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(crate) unsafe fn multiply(panel: Panel<'_>, x: &Quantized, mut store: impl FnMut(usize, usize, &[i32])) {
    if x.len() == 1 {
        // SAFETY: the processor has the features.
        return unsafe { super::dotprod::multiply(panel, x, store) };
    }
    for block in (0..x.len()).step_by(TOKEN_BLOCK) {
        let end = (block + TOKEN_BLOCK).min(x.len());
        for row in (0..panel.rows()).step_by(ROW_TILE) {
            let count = ROW_TILE.min(panel.rows() - row);
            let codes = std::array::from_fn(|r: usize| panel.row(row + r.min(count - 1)));
            for token in (block..end).step_by(TOKEN_TILE) {
                let tile = TOKEN_TILE.min(end - token);
                let mut store = |sums: &[[i32; ROW_TILE]]| {
                    sums[..tile].iter().enumerate().for_each(|(t, sums)| store(row, token + t, &sums[..count]));
                };
                match tile {
                    1 | 2 => store(dot::<1>(codes, x, token, tile).as_flattened()),
                    _ => store(dot::<2>(codes, x, token, tile).as_flattened()),
                }
            }
        }
    }
}

/// Eight rows and `count` tokens from `first`, in `P` pairs.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn dot<const P: usize>(
    codes: [&[u8]; ROW_TILE],
    x: &Quantized,
    first: usize,
    count: usize,
) -> [[[i32; ROW_TILE]; 2]; P] {
    let blocks = codes[0].len() / 32;
    let row = |token: usize| x.row(first + token.min(count - 1)).codes;
    let x: [[&[i8]; 2]; P] = std::array::from_fn(|p| [row(2 * p), row(2 * p + 1)]);
    assert!(codes.iter().all(|row| row.len() == blocks * 32));
    assert!(x.as_flattened().iter().all(|x| x.len() * 2 >= blocks * UNIT));
    let mask = vdupq_n_u8(3);
    let mut sums = [[vdupq_n_s32(0); ROW_PAIRS]; P];
    for half in 0..2 * blocks {
        // Eight bytes of one row beside those of the next.
        let mut bits = [[vdupq_n_u8(0); 2]; ROW_PAIRS];
        for r in 0..ROW_PAIRS {
            // SAFETY: a row has 32 bytes per block, and `half < 2 blocks`.
            let [a, b] = [2 * r, 2 * r + 1].map(|r| unsafe { vld1q_u8(codes[r].as_ptr().add(16 * half)) });
            let (a, b) = (vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b));
            bits[r] = [vreinterpretq_u8_u64(vzip1q_u64(a, b)), vreinterpretq_u8_u64(vzip2q_u64(a, b))];
        }
        // Four halves of two blocks make a unit.
        let at = half / 4 * UNIT + half % 4 * 16;
        for chunk in (0..4).rev() {
            let mut code = [[vdupq_n_s8(0); 2]; ROW_PAIRS];
            for r in 0..ROW_PAIRS {
                for i in 0..2 {
                    code[r][i] = vreinterpretq_s8_u8(vandq_u8(bits[r][i], mask));
                    bits[r][i] = vshrq_n_u8::<2>(bits[r][i]);
                }
            }
            for p in 0..P {
                // SAFETY: a row has whole units of 256 columns, at least one per two blocks.
                let [a, b] = x[p].map(|x| unsafe { vld1q_s8(x.as_ptr().add(at + chunk * 64)) });
                let (a, b) = (vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b));
                let q = [vreinterpretq_s8_s64(vzip1q_s64(a, b)), vreinterpretq_s8_s64(vzip2q_s64(a, b))];
                for r in 0..ROW_PAIRS {
                    sums[p][r] = add(add(sums[p][r], code[r][0], q[0]), code[r][1], q[1]);
                }
            }
        }
    }
    let mut out = [[[0; ROW_TILE]; 2]; P];
    for p in 0..P {
        for r in 0..ROW_PAIRS {
            out[p][0][2 * r] = vgetq_lane_s32::<0>(sums[p][r]);
            out[p][1][2 * r] = vgetq_lane_s32::<1>(sums[p][r]);
            out[p][0][2 * r + 1] = vgetq_lane_s32::<2>(sums[p][r]);
            out[p][1][2 * r + 1] = vgetq_lane_s32::<3>(sums[p][r]);
        }
    }
    out
}

/// `sums + rows · tokensᵀ`, each two times eight bytes; lane `2 r + t` of the result is for row `r` and token `t`.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn add(mut sums: int32x4_t, rows: int8x16_t, tokens: int8x16_t) -> int32x4_t {
    // The intrinsic `vmmlaq_s32` is not stable yet.
    // SAFETY: works on registers alone, and the processor has the instruction.
    unsafe {
        asm!(
            "smmla {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sums, in(vreg) rows, in(vreg) tokens,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}
