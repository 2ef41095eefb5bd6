//! Ternary matrix products of few tokens on the matrix unit (AMX int8): some sequences that decode together.
//!
//! Sixteen rows and 256 columns at a time are unpacked, four kilobytes, and meet all tokens at once. A tile product takes as
//! many clocks as there are tokens, but the next one may add to the same sums only after 52: four tiles of sums take turns,
//! one for each step of 64 columns in a unit. Unpacking more columns at a time was slower (see docs/src/performance.md).
//!
//! Bounds per kilobyte of weights (16 rows × 256 columns): a core gets it from memory in some 250 clocks, and there are 64
//! shuffles, 64 bit-matrix products, 64 stores and 64 loads of lines. With 8 tokens it takes about 560.

use std::arch::asm;

use super::amx::{TILE_BYTES, TILE_ROWS, Tiles, WHOLE};
use super::ternary_amx::{Line, STEPS, unpack};
use crate::cpu::{Quantized, UNIT};
use crate::ternary_matmul::Panel;

/// Tokens, at most: rows of a tile.
pub(super) const MOST: usize = TILE_ROWS;

/// Sums of 16 tokens × 16 rows of weights.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Sums([[i32; TILE_ROWS]; MOST]);

/// `store(row, token, sums)` for all rows of the panel, some at a time, and all tokens of `x`, at most [`MOST`]; sums are
/// `Σ q·code`.
///
/// # Safety
/// The processor must have AVX-512 F and BW and GFNI, and `amx::is_permitted()` have returned true.
#[target_feature(enable = "avx512f,avx512bw,gfni")]
pub(super) unsafe fn multiply(panel: Panel<'_>, x: &Quantized, store: &mut impl FnMut(usize, usize, &[i32])) {
    let tokens = (x.len(), TILE_BYTES);
    // SAFETY: the caller's promise; this thread has no other tiles.
    let _configured = unsafe { Tiles::configure([tokens, tokens, tokens, tokens, WHOLE, WHOLE, tokens, tokens]) };
    let units = panel.row(0).len().div_ceil(64);
    let activations = x.codes(0..x.len());
    let mut weights = [[[Line([0; TILE_BYTES]); TILE_ROWS]; 1]; STEPS];
    let mut sums = [Sums([[0; TILE_ROWS]; MOST]); STEPS];
    for first in (0..panel.rows()).step_by(TILE_ROWS) {
        for unit in 0..units {
            unpack(panel, first, unit..unit + 1, &mut weights);
            // SAFETY: the tiles are configured for the tokens of `x`.
            unsafe { add_products(activations, x.len(), unit, &weights, &mut sums) };
        }
        let [a, b, c, d] = &sums;
        for token in 0..x.len() {
            let mut line = [0; TILE_ROWS];
            for (r, line) in line.iter_mut().enumerate() {
                *line = (a.0[token][r] + b.0[token][r]) + (c.0[token][r] + d.0[token][r]);
            }
            store(first, token, &line[..TILE_ROWS.min(panel.rows() - first)]);
        }
    }
}

/// Adds the products of activations (whole rows of [`Quantized`], columns of `unit`) with unpacked weights to four tiles of
/// sums, one for each step of a unit. At the start of a row the sums begin anew.
///
/// # Safety
/// The tiles of this thread must be configured for `tokens` rows.
#[inline]
unsafe fn add_products(
    activations: &[i8],
    tokens: usize,
    unit: usize,
    weights: &[[[Line; TILE_ROWS]; 1]; STEPS],
    sums: &mut [Sums; STEPS],
) {
    let stride = activations.len() / tokens;
    assert!(tokens <= MOST && activations.len() == tokens * stride);
    assert!((unit + 1) * UNIT <= stride);
    // SAFETY: with steps of `stride`, tiles 6 and 7 read `tokens` rows of activations, 256 bytes, which end
    // within the slice by the assertions. Tiles 4 and 5 read the 4096 bytes of weights. Tiles 0..4 read and write 64
    // bytes of sums for each of `tokens`, out of 16.
    unsafe {
        asm!(
            "test {unit}, {unit}",
            "jz 3f",
            "tileloadd tmm0, [{sums} + {line}]",
            "tileloadd tmm1, [{sums} + {line} + 1024]",
            "tileloadd tmm2, [{sums} + {line} + 2048]",
            "tileloadd tmm3, [{sums} + {line} + 3072]",
            "jmp 2f",
            "3:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm6, [{activations} + {stride}]",
            "tileloadd tmm4, [{weights} + {line}]",
            "tdpbssd tmm0, tmm6, tmm4",
            "tileloadd tmm7, [{activations} + {stride} + 64]",
            "tileloadd tmm5, [{weights} + {line} + 1024]",
            "tdpbssd tmm1, tmm7, tmm5",
            "tileloadd tmm6, [{activations} + {stride} + 128]",
            "tileloadd tmm4, [{weights} + {line} + 2048]",
            "tdpbssd tmm2, tmm6, tmm4",
            "tileloadd tmm7, [{activations} + {stride} + 192]",
            "tileloadd tmm5, [{weights} + {line} + 3072]",
            "tdpbssd tmm3, tmm7, tmm5",
            "tilestored [{sums} + {line}], tmm0",
            "tilestored [{sums} + {line} + 1024], tmm1",
            "tilestored [{sums} + {line} + 2048], tmm2",
            "tilestored [{sums} + {line} + 3072], tmm3",
            unit = in(reg) unit,
            activations = in(reg) activations.as_ptr().add(unit * UNIT),
            weights = in(reg) weights.as_ptr(),
            sums = in(reg) sums.as_mut_ptr(),
            stride = in(reg) stride,
            line = in(reg) TILE_BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
