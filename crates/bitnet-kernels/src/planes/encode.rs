//! Quantises rows of a head into bit planes.

use super::{BITS, BLOCK, HALVES, RANGE, ROUNDING, RowFacts, upper};
use crate::Dense;
use crate::dense_formats::PANEL;
use crate::lanes::{Kernel, LANES, Lanes};

/// Quantises one row.
pub(super) struct Encode<'a> {
    pub(super) dense: &'a Dense,
    pub(super) row: usize,
    pub(super) coarse: &'a mut [u8],
    pub(super) fine: &'a mut [u8],
    pub(super) finest: &'a mut [u8],
}

/// Adding and subtracting it rounds small numbers to whole ones.
const WHOLE: f32 = 12_582_912.0; // 1.5 * 2^23

/// The code of `w` as a float: `w / step + 63.5`, rounded, in `0..=127`.
#[inline(always)]
fn code<L: Lanes>(l: L, w: L::V, inverse_step: L::V) -> L::V {
    let code = l.fma(w, inverse_step, l.splat(63.5));
    let code = l.smaller(l.larger(code, l.splat(0.0)), l.splat(127.0));
    l.sub(l.add(code, l.splat(WHOLE)), l.splat(WHOLE))
}

/// `code / 2` or `code / 4`, the rest dropped.
#[inline(always)]
fn shortened<L: Lanes>(l: L, code: L::V, by: f32) -> L::V {
    // the middle of what becomes one code lies at its whole number
    let code = l.fma(code, l.splat(1.0 / by), l.splat(0.5 / by - 0.5));
    l.sub(l.add(code, l.splat(WHOLE)), l.splat(WHOLE))
}

/// `squares + (w - step · (factor · code - middle))²`
#[inline(always)]
fn add_square<L: Lanes>(l: L, squares: L::V, w: L::V, minus_step: L::V, code: L::V, factor: f32, middle: f32) -> L::V {
    let error = l.fma(minus_step, l.fma(l.splat(factor), code, l.splat(-middle)), w);
    l.fma(error, error, squares)
}

/// Steps that are tried: the whole range of the row, one that suits normally distributed weights, and one in between.
const STEPS: usize = 3;

impl Kernel for Encode<'_> {
    type Output = RowFacts;

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> RowFacts {
        let Encode { dense, row, coarse, fine, finest } = self;
        let cols = dense.cols();
        let mut panel = [[0.0; LANES]; PANEL / LANES];
        let (mut max, mut squares) = (l.splat(0.0), l.splat(0.0));
        for first in (0..cols).step_by(PANEL) {
            for w in dense.decode_panel(l, row, first, &mut panel) {
                let w = l.load(w);
                max = l.larger(l.larger(w, l.sub(l.splat(0.0), w)), max);
                squares = l.fma(w, w, squares);
            }
        }
        let (max, squares) = (l.largest(max), l.sum(squares));
        if !RANGE.contains(&max) || !squares.is_finite() {
            // Zeros, or so small that it does not matter; all others are never left out.
            let small = squares.is_finite() && max < *RANGE.start();
            let length = if small { upper(f64::from(max) * (cols as f64).sqrt()) } else { f32::INFINITY };
            return RowFacts {
                step: 0.0,
                length,
                coarse_error: length,
                fine_error: length.into(),
                finest_error: length.into(),
            };
        }

        let whole = max / 64.0;
        let normal = (0.049 * (squares / cols as f32).sqrt()).min(whole);
        let steps: [f32; STEPS] = [normal, (normal * whole).sqrt(), whole];
        let mut errors = [l.splat(0.0); STEPS];
        for first in (0..cols).step_by(PANEL) {
            for w in dense.decode_panel(l, row, first, &mut panel) {
                let w = l.load(w);
                for i in 0..STEPS {
                    let coarse = shortened(l, code(l, w, l.splat(1.0 / steps[i])), 4.0);
                    errors[i] = add_square(l, errors[i], w, l.splat(-steps[i]), coarse, 4.0, 62.0);
                }
            }
        }
        let mut best = (f32::INFINITY, whole);
        for i in 0..STEPS {
            let error = l.sum(errors[i]);
            if error < best.0 {
                best = (error, steps[i]);
            }
        }

        let (coarse_error, step) = best;
        let (mut fine_error, mut finest_error) = (l.splat(0.0), l.splat(0.0));
        let (halves, bits) = coarse.split_at_mut(cols.div_ceil(BLOCK) * HALVES);
        let (halves, _) = halves.as_chunks_mut::<HALVES>();
        let (bits, _) = bits.as_chunks_mut::<BITS>();
        let (fine, _) = fine.as_chunks_mut::<BITS>();
        let (finest, _) = finest.as_chunks_mut::<BITS>();
        let mut codes = [[0; LANES]; PANEL / LANES];
        for first in (0..cols).step_by(PANEL) {
            let lanes = dense.decode_panel(l, row, first, &mut panel);
            let used = lanes.len();
            for (w, codes) in lanes.iter().zip(&mut codes) {
                let w = l.load(w);
                let code = code(l, w, l.splat(1.0 / step));
                let minus_step = l.splat(-step);
                fine_error = add_square(l, fine_error, w, minus_step, shortened(l, code, 2.0), 2.0, 63.0);
                finest_error = add_square(l, finest_error, w, minus_step, code, 1.0, 63.5);
                let mut lanes = [0.0; LANES];
                l.store(l.add(code, l.splat(WHOLE)), &mut lanes);
                for j in 0..LANES {
                    codes[j] = lanes[j].to_bits() as u8 & 127;
                }
            }
            codes[used..].fill([0; LANES]); // columns that do not exist meet activations of zero
            let (blocks, _) = codes.as_flattened().as_chunks::<BLOCK>();
            for (i, codes) in blocks.iter().enumerate() {
                let block = first / BLOCK + i;
                if block == halves.len() {
                    break;
                }
                for p in 0..HALVES {
                    halves[block][p] = codes[p] >> 3 | codes[HALVES + p] >> 3 << 4;
                }
                for (j, codes) in codes.as_chunks::<8>().0.iter().enumerate() {
                    let codes = u64::from_le_bytes(*codes);
                    bits[block][j] = lowest_bits(codes >> 2);
                    fine[block][j] = lowest_bits(codes >> 1);
                    finest[block][j] = lowest_bits(codes);
                }
            }
        }
        // Every lane rounds once per sum and step, which is less than the factor.
        let grow = |squares: f32| upper((f64::from(squares) * (1.0 + (cols + 64) as f64 * ROUNDING)).sqrt());
        RowFacts {
            step,
            length: grow(squares),
            coarse_error: grow(coarse_error),
            fine_error: grow(l.sum(fine_error)).into(),
            finest_error: grow(l.sum(finest_error)).into(),
        }
    }
}

/// The lowest bits of eight bytes.
#[inline(always)]
pub(crate) fn lowest_bits(bytes: u64) -> u8 {
    ((bytes & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}
