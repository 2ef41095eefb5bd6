//! Activations in main memory.

use crate::KernelError;
use crate::aligned::Aligned;

/// Float activations `[rows, cols]`, row-major, first value on a cache line.
pub struct Rows {
    data: Aligned<f32>,
    capacity: usize,
    rows: usize,
    cols: usize,
}

impl Rows {
    pub(crate) fn new(capacity: usize, cols: usize) -> Result<Rows, KernelError> {
        let len = capacity.saturating_mul(cols);
        Ok(Rows { data: Aligned::zeroed("float activations", len)?, capacity, rows: 0, cols })
    }

    /// Values per row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Current number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// True when there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Sets the number of rows; their values are whatever stood there before.
    ///
    /// # Panics
    /// If the capacity does not suffice.
    pub fn set_len(&mut self, rows: usize) {
        assert!(rows <= self.capacity, "{rows} rows in a buffer for {}", self.capacity);
        self.rows = rows;
    }

    /// Row `row`.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data()[row * self.cols..(row + 1) * self.cols]
    }

    /// Row `row`, to be written.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let cols = self.cols;
        &mut self.data_mut()[row * cols..(row + 1) * cols]
    }

    /// The current rows, one after the other.
    pub fn data(&self) -> &[f32] {
        &self.data[..self.rows * self.cols]
    }

    /// The current rows, to be written.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.rows * self.cols]
    }
}

/// Columns in a unit of the int8 layout: two blocks of the weight layout, one 64-byte load of weights.
pub(crate) const UNIT: usize = 256;
/// Columns that share one entry of [`Quantized::sums`].
pub(crate) const SUM_LEN: usize = 32;

/// Bytes of a row of [`Quantized`]: whole units and a cache line, so that the same columns of many rows do not compete for
/// the same places of the nearest cache.
fn stride(cols: usize) -> usize {
    cols.checked_next_multiple_of(UNIT).unwrap_or(usize::MAX).saturating_add(64)
}

/// int8 activations `[rows, cols]` with one scale per row.
///
/// Columns are permuted so that one 64-byte load meets one shift of a 64-byte load of weights: in each unit of 256
/// columns, column `128 b + 32 j + p` (`b` in 0..2, `j` in 0..4, `p` in 0..32) stands at `64 j + 32 b + p`. Rows are
/// padded with zeros to whole units, and to an odd number of cache lines.
pub struct Quantized {
    data: Aligned<i8>,
    scales: Vec<RowScale>,
    sums: Vec<i32>,
    capacity: usize,
    rows: usize,
    cols: usize,
}

/// What turns the codes of a row back into values.
#[derive(Clone, Copy, Default, PartialEq)]
pub(crate) struct RowScale {
    /// Code = value × scale.
    pub(crate) scale: f32,
    /// Sum of all codes.
    pub(crate) sum: i32,
}

/// Where column `col` stands in a row of [`Quantized`].
pub(crate) fn position(col: usize) -> usize {
    let (unit, rest) = (col / UNIT, col % UNIT);
    let (block, chunk, byte) = (rest / 128, rest % 128 / 32, rest % 32);
    unit * UNIT + chunk * 64 + block * 32 + byte
}

/// One row of [`Quantized`].
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct QuantizedRow<'a> {
    /// The codes, permuted and padded.
    pub(crate) codes: &'a [i8],
    /// Code = value × scale.
    pub(crate) scale: f32,
    /// Sum of all codes.
    pub(crate) sum: i32,
    /// Sum of each 32 consecutive columns' codes.
    pub(crate) sums: &'a [i32],
}

impl Quantized {
    pub(crate) fn new(capacity: usize, cols: usize) -> Result<Quantized, KernelError> {
        let stride = stride(cols);
        let data = Aligned::zeroed("int8 activations", capacity.saturating_mul(stride))?;
        let scales = vec![RowScale::default(); capacity]; // small beside `data`
        let sums = vec![0; capacity * (stride / SUM_LEN)];
        Ok(Quantized { data, scales, sums, capacity, rows: 0, cols })
    }

    /// Values per row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Current number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// True when there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Scale of row `row`: code = value × scale.
    pub fn scale(&self, row: usize) -> f32 {
        self.scales[..self.rows][row].scale
    }

    /// int8 code of column `col` in row `row`.
    pub fn code(&self, row: usize, col: usize) -> i8 {
        assert!(col < self.cols, "column {col} of {}", self.cols);
        self.row(row).codes[position(col)]
    }

    pub(crate) fn set_len(&mut self, rows: usize) {
        assert!(rows <= self.capacity, "{rows} rows in a buffer for {}", self.capacity);
        self.rows = rows;
    }

    /// Bytes from row to row.
    pub(crate) fn stride(&self) -> usize {
        stride(self.cols)
    }

    pub(crate) fn row(&self, row: usize) -> QuantizedRow<'_> {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let stride = self.stride();
        let sums = stride / SUM_LEN;
        let RowScale { scale, sum } = self.scales[row];
        QuantizedRow {
            codes: &self.data[row * stride..(row + 1) * stride],
            scale,
            sum,
            sums: &self.sums[row * sums..(row + 1) * sums],
        }
    }

    /// Codes of consecutive rows, one after the other.
    #[cfg(target_arch = "x86_64")] // the matrix unit has strides
    pub(crate) fn codes(&self, rows: std::ops::Range<usize>) -> &[i8] {
        assert!(rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        let stride = self.stride();
        &self.data[rows.start * stride..rows.end * stride]
    }

    /// Codes, scales and sums of the current rows, to be written.
    pub(crate) fn parts_mut(&mut self) -> (&mut [i8], &mut [RowScale], &mut [i32]) {
        let stride = self.stride();
        (
            &mut self.data[..self.rows * stride],
            &mut self.scales[..self.rows],
            &mut self.sums[..self.rows * (stride / SUM_LEN)],
        )
    }
}
