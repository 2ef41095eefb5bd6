//! The pivot of all ternary encodings: codes and scales.

use super::Encoding;
use crate::FormatError;

/// A ternary matrix: `weight[r, c] = codes[r * cols + c] * scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct Ternary {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// −1, 0 or +1, row-major.
    pub codes: Vec<i8>,
    /// The scales, finite and above zero.
    pub scales: Scales,
}

/// Scales of a ternary matrix.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// One for the whole tensor.
    Tensor(f32),
    /// One per `len` consecutive columns of a row, row-major: `[rows, cols.div_ceil(len)]`.
    Groups {
        /// Columns per scale; `cols` means one per row.
        len: usize,
        /// The scales.
        values: Vec<f32>,
    },
}

impl Ternary {
    /// Recognises weights that already are of the form {−s, 0, +s} with one s per tensor, per row or per group of
    /// 128 or 64 columns (TriLM, unpacked Bonsai). `None` when they are not.
    ///
    /// A row of fewer than 32 columns is not taken for a group: of a few values anything is ternary.
    pub fn detect(weights: &[f32], rows: usize, cols: usize) -> Option<Ternary> {
        let lens = [Some(weights.len()), (cols >= 32).then_some(cols)];
        let blocks = [128, 64].map(|len| (cols > len && cols.is_multiple_of(len)).then_some(len));
        lens.into_iter()
            .chain(blocks)
            .flatten()
            .find_map(|len| Ternary::from_grouped_values(weights, rows, cols, len).ok())
    }

    /// Splits values of the form {−s, 0, +s} with one s per `len` columns (`len >= rows * cols`: per tensor).
    /// `Err` holds the index of the first value that does not fit.
    pub(super) fn from_grouped_values(weights: &[f32], rows: usize, cols: usize, len: usize) -> Result<Ternary, usize> {
        if rows.checked_mul(cols) != Some(weights.len()) {
            return Err(0);
        }
        let mut codes = Vec::with_capacity(weights.len());
        let mut scales = Vec::new();
        let row_len = if len >= weights.len() { weights.len() } else { cols };
        for row in weights.chunks(row_len.max(1)) {
            for group in row.chunks(len.max(1)) {
                let mut scale = None;
                for &w in group {
                    if w != 0.0 && (!w.is_finite() || *scale.get_or_insert(w.abs()) != w.abs()) {
                        return Err(codes.len());
                    }
                    codes.push((w > 0.0) as i8 - (w < 0.0) as i8);
                }
                scales.push(scale);
            }
        }
        Ok(Ternary { rows, cols, codes, scales: Scales::settle(len, &scales, 1.0) })
    }

    /// One scale for the whole tensor if all blocks that hold a non-zero code agree on it.
    pub fn tensor_scale(&self) -> Option<f32> {
        match &self.scales {
            Scales::Tensor(scale) => Some(*scale),
            Scales::Groups { len, values } => {
                let mut used = self.groups(*len).zip(values).filter(|(codes, _)| codes.iter().any(|&c| c != 0));
                match used.next() {
                    Some((_, &first)) => used.all(|(_, &scale)| scale == first).then_some(first),
                    None => values.first().copied(),
                }
            }
        }
    }

    /// The values, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        match &self.scales {
            Scales::Tensor(scale) => self.codes.iter().map(|&c| c as f32 * scale).collect(),
            Scales::Groups { len, values } => {
                let groups = self.groups(*len).zip(values);
                groups.flat_map(|(codes, scale)| codes.iter().map(move |&c| c as f32 * scale)).collect()
            }
        }
    }

    /// Codes that share a scale, in the order of the scales.
    fn groups(&self, len: usize) -> impl Iterator<Item = &[i8]> {
        self.codes.chunks(self.cols.max(1)).flat_map(move |row| row.chunks(len.max(1)))
    }

    /// The scale that columns `from..to` of a row share; `Err` holds two that differ. Groups without a non-zero code in
    /// the range have no say.
    pub(super) fn scale_of_columns(&self, row: usize, from: usize, to: usize) -> Result<f32, (f32, f32)> {
        match &self.scales {
            Scales::Tensor(scale) => Ok(*scale),
            Scales::Groups { len, values } => {
                let per_row = self.cols.div_ceil(*len);
                let mut found = None;
                for group in from / len..to.div_ceil(*len) {
                    let scale = values[row * per_row + group];
                    let (a, b) = ((group * len).max(from), ((group + 1) * len).min(to));
                    if self.codes[row * self.cols + a..row * self.cols + b].iter().any(|&c| c != 0)
                        && *found.get_or_insert(scale) != scale
                    {
                        return Err((found.unwrap_or(scale), scale));
                    }
                }
                Ok(found.unwrap_or(values[row * per_row + from / len]))
            }
        }
    }

    /// Refuses a matrix whose parts contradict each other (the fields are public).
    pub(super) fn check(&self, encoding: Encoding) -> Result<(), FormatError> {
        let (rows, cols) = (self.rows, self.cols);
        if rows.checked_mul(cols) != Some(self.codes.len()) {
            return Err(encoding.error(format!("{} codes given for a matrix of {rows} x {cols}", self.codes.len())));
        }
        if let Some(at) = self.codes.iter().position(|c| !(-1..=1).contains(c)) {
            return Err(encoding.error_at(at, cols, format!("code {} is none of -1, 0, +1", self.codes[at])));
        }
        match &self.scales {
            Scales::Tensor(scale) => encoding.check_scale(*scale).map(|_| ()),
            Scales::Groups { len, values } => {
                if *len == 0 || rows.checked_mul(cols.div_ceil(*len)) != Some(values.len()) {
                    let n = values.len();
                    let what = format!("{n} scales in groups of {len} columns given for a matrix of {rows} x {cols}");
                    return Err(encoding.error(what));
                }
                values.iter().try_for_each(|&scale| encoding.check_scale(scale).map(|_| ()))
            }
        }
    }
}

impl Scales {
    /// Scales of groups of `len` columns, where `None` stands for a group without a non-zero code: it takes the first
    /// known scale (or `fallback` if none is known). If all agree there is one for the tensor.
    pub(super) fn settle(len: usize, scales: &[Option<f32>], fallback: f32) -> Scales {
        let first = scales.iter().flatten().next().copied().unwrap_or(fallback);
        if scales.iter().flatten().all(|&scale| scale == first) {
            Scales::Tensor(first)
        } else {
            Scales::Groups { len, values: scales.iter().map(|scale| scale.unwrap_or(first)).collect() }
        }
    }
}
