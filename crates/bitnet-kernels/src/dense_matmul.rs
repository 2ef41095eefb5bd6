//! `dense_matmul`: float activations × dense weights of any storage format.

use crate::dense_formats::{BF16, F16, F32, Format, PANEL, Panel, Q4_0, Q4K, Q6K, Q8_0, Ternary};
use crate::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::selection::Selection;
use crate::threads::ColumnTile;
use crate::{Cpu, DenseFormat, DenseWeights, KernelError, Rows};
use bytes::Bytes;
use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Weight rows that are multiplied together, so that their sums hide each other's latency.
const ROWS: usize = 4;
/// Tokens that share one decoded panel.
pub(crate) const TOKENS: usize = 64;
/// Multiply-adds that are worth handing to a thread.
const WORTH_A_THREAD: usize = 64 * 1024;

/// A dense matrix `[rows, cols]` whose bytes have been checked.
pub struct Dense {
    rows: usize,
    cols: usize,
    format: DenseFormat,
    row_bytes: usize,
    /// Scale of [`DenseFormat::Ternary`], else 1.
    scale: f32,
    bytes: Bytes,
    /// Of an output head that has memory for it.
    selection: Option<Mutex<Selection>>,
}

/// Bytes of a matrix that are read as a whole.
pub(crate) enum Streamed<'a> {
    Weights(&'a [u8]),
    Planes(MutexGuard<'a, Selection>),
}

impl Deref for Streamed<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Streamed::Weights(bytes) => bytes,
            Streamed::Planes(selection) => selection.coarse_plane().unwrap_or_default(),
        }
    }
}

/// Evaluates an expression with the [`Format`] of a matrix.
macro_rules! with_format {
    ($dense:expr, $format:ident => $body:expr) => {
        match $dense.format {
            DenseFormat::F32 => {
                let $format = F32;
                $body
            }
            DenseFormat::F16 => {
                let $format = F16;
                $body
            }
            DenseFormat::BF16 => {
                let $format = BF16;
                $body
            }
            DenseFormat::Q8_0 => {
                let $format = Q8_0;
                $body
            }
            DenseFormat::Q4_0 => {
                let $format = Q4_0;
                $body
            }
            DenseFormat::Q4K => {
                let $format = Q4K;
                $body
            }
            DenseFormat::Q6K => {
                let $format = Q6K;
                $body
            }
            DenseFormat::Ternary => {
                let $format = Ternary($dense.scale);
                $body
            }
        }
    };
}

fn block_of<F: Format>(_: F) -> (usize, usize) {
    (F::BLOCK, F::BYTES)
}

impl Dense {
    /// Checks byte length, and codes and scale of ternary matrices.
    pub(crate) fn new(weights: DenseWeights) -> Result<Dense, KernelError> {
        let DenseWeights { rows, cols, format, bytes } = weights;
        let mut dense = Dense { rows, cols, format, row_bytes: 0, scale: 1.0, bytes, selection: None };
        let (block, block_bytes) = with_format!(dense, format => block_of(format));
        let ternary = format == DenseFormat::Ternary;
        if cols % block != 0 && !ternary {
            return Err(KernelError::Shape {
                what: "dense row length",
                found: format!("{cols} columns of {format:?}"),
                expected: format!("a multiple of {block}"),
            });
        }
        let row_bytes = cols.div_ceil(block).checked_mul(block_bytes);
        let expected = row_bytes.and_then(|n| n.checked_mul(rows));
        let tail = expected.and_then(|n| dense.bytes.len().checked_sub(n));
        let fits = if ternary { matches!(tail, Some(4 | 32)) } else { tail == Some(0) };
        let (Some(row_bytes), Some(len), true) = (row_bytes, expected, fits) else {
            let expected = expected.map_or("a size that fits the address space".to_owned(), |n| n.to_string());
            return Err(KernelError::Shape {
                what: "dense weight bytes",
                found: format!("{} for [{rows}, {cols}] {format:?}", dense.bytes.len()),
                expected: if ternary { format!("{expected} and 4 or 32 for the scale") } else { expected },
            });
        };
        dense.row_bytes = row_bytes;
        if ternary {
            if let Some(byte) = dense.bytes[..len].iter().position(|b| b & (b >> 1) & 0x55 != 0) {
                return Err(KernelError::IllegalCode { byte });
            }
            let b = &dense.bytes[len..];
            dense.scale = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            if !(dense.scale.is_finite() && dense.scale > 0.0) {
                return Err(KernelError::Scale { index: 0, value: dense.scale });
            }
        }
        Ok(dense)
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of the values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What a product with one token reads: of a head with bit planes these, most of the time.
    pub(crate) fn streamed(&self) -> Streamed<'_> {
        match self.selection() {
            Some(selection) if selection.coarse_plane().is_some() => Streamed::Planes(selection),
            _ => Streamed::Weights(&self.bytes),
        }
    }

    /// Bytes of one row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The stored values of a row.
    pub(crate) fn row(&self, row: usize) -> &[u8] {
        &self.bytes[row * self.row_bytes..(row + 1) * self.row_bytes]
    }

    /// Memory for selecting rows, if this is a head that has it.
    pub(crate) fn selection(&self) -> Option<MutexGuard<'_, Selection>> {
        self.selection.as_ref().map(|selection| selection.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Decodes the panel of a row that starts at column `first`. The last lanes may lie behind the row's end: zeros.
    #[inline(always)]
    pub(crate) fn decode_panel<'p, L: Lanes>(
        &self,
        l: L,
        row: usize,
        first: usize,
        panel: &'p mut Panel,
    ) -> &'p [[f32; LANES]] {
        with_format!(self, format => format.decode(l, self.panel_bytes(format, row, first), panel));
        &panel[..(self.cols - first).min(PANEL).div_ceil(LANES)]
    }

    /// Calls `emit(first column, values)` for the decoded panels of a row. The last lanes may lie behind the row's end.
    #[inline(always)]
    pub(crate) fn decode_row<L: Lanes>(&self, l: L, row: usize, mut emit: impl FnMut(usize, &[[f32; LANES]])) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let mut panel = [[0.0; LANES]; PANEL / LANES];
        for first in (0..self.cols).step_by(PANEL) {
            emit(first, self.decode_panel(l, row, first, &mut panel));
        }
    }

    /// Bytes of the panel of `row` that starts at column `first`.
    #[inline(always)]
    fn panel_bytes<F: Format>(&self, _: F, row: usize, first: usize) -> &[u8] {
        let row = self.row(row);
        let start = first / F::BLOCK * F::BYTES;
        let len = PANEL / F::BLOCK * F::BYTES;
        &row[start..row.len().min(start + len)]
    }
}

/// Checks the weights, and makes room for what [`logits`](crate::logits) needs to use them as a head.
pub(crate) fn load(cpu: &Cpu, weights: DenseWeights) -> Result<Dense, KernelError> {
    let dense = Dense::new(weights)?;
    cpu.reserve_scratch(dense.cols.saturating_mul(TOKENS))?;
    Ok(dense)
}

/// As [`load`], with memory for selections if the format allows them.
pub(crate) fn load_head(cpu: &Cpu, weights: DenseWeights) -> Result<Dense, KernelError> {
    let mut head = load(cpu, weights)?;
    if Selection::bytes(head.format, head.rows, head.cols).is_some() {
        head.selection = Some(Mutex::new(Selection::reserve(head.rows, head.cols)?));
    }
    Ok(head)
}

/// `outs[i] = x · weights[i]ᵀ`.
pub(crate) fn run(cpu: &Cpu, x: &Rows, weights: &[&Dense], outs: &mut [&mut Rows]) {
    for out in outs.iter_mut() {
        out.set_len(x.len());
    }
    multiply(cpu, x.data(), x.cols(), 0, weights, outs);
}

/// Rows `first_row..` of `outs[i]` become `x · weights[i]ᵀ`, for `x` of `x.len() / cols` rows.
pub(crate) fn multiply(
    cpu: &Cpu,
    x: &[f32],
    cols: usize,
    first_row: usize,
    weights: &[&Dense],
    outs: &mut [&mut Rows],
) {
    assert_eq!(weights.len(), outs.len(), "one output per matrix");
    for (weights, out) in weights.iter().zip(outs.iter()) {
        assert_eq!((weights.cols, weights.rows), (cols, out.cols()), "shape of a dense matrix");
    }
    let worth = WORTH_A_THREAD / x.len().max(1);
    cpu.pool().columns(outs, worth..usize::MAX, |matrix, tile| {
        dispatch(cpu.isa(), Tile { x, weights: weights[matrix], first_row, tile });
    });
}

/// Some columns of the output: some rows of the weights.
struct Tile<'a> {
    x: &'a [f32],
    weights: &'a Dense,
    first_row: usize,
    tile: ColumnTile<'a>,
}

impl Kernel for Tile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L) {
        with_format!(self.weights, format => self.multiply(l, format));
    }
}

impl Tile<'_> {
    #[inline(always)]
    fn multiply<L: Lanes, F: Format>(&mut self, l: L, format: F) {
        let cols = self.weights.cols;
        if cols == 0 {
            for token in self.first_row..self.tile.rows().end {
                self.tile.row(token).fill(0.0);
            }
            return;
        }
        let x = self.x;
        for (block, x) in x.chunks(TOKENS * cols).enumerate() {
            let first_token = self.first_row + block * TOKENS;
            if x.len() == cols {
                self.one_token(l, format, x, first_token);
            } else {
                self.many_tokens(l, format, x, first_token);
            }
        }
    }

    /// Decodes the panels at column `first` of some weight rows.
    #[inline(always)]
    fn decode<L: Lanes, F: Format>(
        &self,
        l: L,
        format: F,
        row: usize,
        rows: usize,
        first: usize,
        out: &mut [Panel; ROWS],
    ) {
        for (r, panel) in out[..rows].iter_mut().enumerate() {
            // Four rows in turn, a panel of each: the processor does not foresee that, so fetch the next four.
            if row + r + ROWS < self.weights.rows {
                for line in self.weights.panel_bytes(format, row + r + ROWS, first).chunks(64) {
                    l.prefetch(line.as_ptr().cast());
                }
            }
            format.decode(l, self.weights.panel_bytes(format, row + r, first), panel);
        }
    }

    #[inline(always)]
    fn one_token<L: Lanes, F: Format>(&mut self, l: L, format: F, x: &[f32], token: usize) {
        let columns = self.tile.columns();
        let mut panels = [[[0.0; LANES]; PANEL / LANES]; ROWS];
        for row in columns.clone().step_by(ROWS) {
            let rows = ROWS.min(columns.end - row);
            let mut sums = [[l.splat(0.0); ROWS]];
            for (p, x) in x.chunks(PANEL).enumerate() {
                self.decode(l, format, row, rows, p * PANEL, &mut panels);
                accumulate(l, [x], &panels, &mut sums);
            }
            let out = &mut self.tile.row(token)[row - columns.start..];
            for (out, sum) in out.iter_mut().zip(sums[0]) {
                *out = l.sum(sum);
            }
        }
    }

    /// Decodes each panel once for all tokens.
    #[inline(always)]
    fn many_tokens<L: Lanes, F: Format>(&mut self, l: L, format: F, x: &[f32], first_token: usize) {
        let columns = self.tile.columns();
        let cols = self.weights.cols;
        let tokens = x.len() / cols;
        let mut panels = [[[0.0; LANES]; PANEL / LANES]; ROWS];
        let mut sums = [[l.splat(0.0); ROWS]; TOKENS];
        for row in columns.clone().step_by(ROWS) {
            let rows = ROWS.min(columns.end - row);
            sums[..tokens].fill([l.splat(0.0); ROWS]);
            for first in (0..cols).step_by(PANEL) {
                self.decode(l, format, row, rows, first, &mut panels);
                let panel = |token: usize| &x[token * cols + first..token * cols + cols.min(first + PANEL)];
                let (pairs, single) = sums[..tokens].as_chunks_mut::<2>();
                for (i, pair) in pairs.iter_mut().enumerate() {
                    if L::ACCUMULATORS >= 2 * ROWS {
                        accumulate(l, [panel(2 * i), panel(2 * i + 1)], &panels, pair);
                    } else {
                        for (t, sums) in pair.iter_mut().enumerate() {
                            accumulate(l, [panel(2 * i + t)], &panels, std::array::from_mut(sums));
                        }
                    }
                }
                for sums in single {
                    accumulate(l, [panel(tokens - 1)], &panels, std::array::from_mut(sums));
                }
            }
            for (t, sums) in sums[..tokens].iter().enumerate() {
                let out = &mut self.tile.row(first_token + t)[row - columns.start..];
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = l.sum(*sum);
                }
            }
        }
    }
}

/// Adds one panel's products of `T` tokens and [`ROWS`] weight rows.
#[inline(always)]
fn accumulate<L: Lanes, const T: usize>(l: L, x: [&[f32]; T], w: &[Panel; ROWS], sums: &mut [[L::V; ROWS]; T]) {
    let mut acc = *sums;
    let full = x[0].len().min(PANEL) / LANES;
    let lanes = x.map(|x| &x.as_chunks::<LANES>().0[..full]);
    for i in 0..full {
        for t in 0..T {
            let x = l.load(&lanes[t][i]);
            for r in 0..ROWS {
                acc[t][r] = l.fma(x, l.load(&w[r][i]), acc[t][r]);
            }
        }
    }
    if x[0].len() > full * LANES {
        for t in 0..T {
            let x = l.load_part(&x[t][full * LANES..]);
            for r in 0..ROWS {
                acc[t][r] = l.fma(x, l.load(&w[r][full]), acc[t][r]);
            }
        }
    }
    *sums = acc;
}
