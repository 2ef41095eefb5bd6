//! Arrays cut into pieces, of which each belongs to one thread at a time.

use std::marker::PhantomData;
use std::ops::Range;

use super::Pool;
use crate::Rows;
use crate::portions::Portions;

/// Columns of f32 results in two cache lines: threads never write to the same pair of lines.
const COLUMN_STEP: usize = 32;
/// Output matrices that one pass over the pool serves; more are done in several passes.
const MATRICES: usize = 4;

/// How many rows of `len` floats go to a thread at a time in verbs that read each value once or twice: fewer would
/// cost more than they save.
pub(crate) fn grain(len: usize) -> usize {
    (8 * 1024 / len.max(1)).max(1)
}

/// An array and the length of its rows.
type ByRows<'a, T> = (&'a mut [T], usize);

impl Pool {
    /// Cuts `data` into chunks of `len` (the last may be shorter) and calls `body(index, chunk)` for each; `grain`
    /// chunks at a time go to a thread.
    pub(crate) fn chunks<T: Send>(
        &self,
        data: &mut [T],
        len: usize,
        grain: usize,
        body: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let chunks = data.len().div_ceil(len.max(1));
        let grain = grain.max(1);
        let data = Disjoint::new(data);
        self.run(chunks.div_ceil(grain), |part| {
            for chunk in part * grain..((part + 1) * grain).min(chunks) {
                // SAFETY: each chunk belongs to one part, and the chunks do not overlap.
                body(chunk, unsafe { data.slice(chunk * len..((chunk + 1) * len).min(data.len)) });
            }
        });
    }

    /// Calls `body(index, a_row, b_row, c_row, d_row)` for `rows` rows of four arrays; `grain` rows at a time go to a thread.
    pub(crate) fn zip_rows<A: Send, B: Send, C: Send, D: Send>(
        &self,
        rows: usize,
        grain: usize,
        arrays: (ByRows<'_, A>, ByRows<'_, B>, ByRows<'_, C>, ByRows<'_, D>),
        body: impl Fn(usize, &mut [A], &mut [B], &mut [C], &mut [D]) + Sync,
    ) {
        let ((a, a_len), (b, b_len), (c, c_len), (d, d_len)) = arrays;
        let (a, b, c, d) = (Disjoint::new(a), Disjoint::new(b), Disjoint::new(c), Disjoint::new(d));
        let grain = grain.max(1);
        self.run(rows.div_ceil(grain), |part| {
            for row in part * grain..((part + 1) * grain).min(rows) {
                // SAFETY: each row belongs to one part, and the rows of an array do not overlap.
                let (a, b, c, d) = unsafe {
                    (
                        a.slice(row * a_len..(row + 1) * a_len),
                        b.slice(row * b_len..(row + 1) * b_len),
                        c.slice(row * c_len..(row + 1) * c_len),
                        d.slice(row * d_len..(row + 1) * d_len),
                    )
                };
                body(row, a, b, c, d);
            }
        });
    }

    /// Cuts `data` into chunks of `len` bytes and deals them out: `body(part, dealt, own)` gets every `parts`-th, from number `part` on, and
    /// as its own the `part`-th row of `scratch`, of `scratch.1` values.
    pub(crate) fn deal<T: Send>(
        &self,
        data: &mut [u8],
        len: usize,
        parts: usize,
        scratch: (&mut [T], usize),
        body: impl Fn(usize, Dealt<'_>, &mut [T]) + Sync,
    ) {
        let (scratch, row) = scratch;
        let (data, scratch) = (Disjoint::new(data), Disjoint::new(scratch));
        self.run(parts, |part| {
            // SAFETY: each row belongs to one part, and the rows do not overlap.
            let own = unsafe { scratch.slice(part * row..(part + 1) * row) };
            body(part, Dealt { data: &data, len, part, parts }, own);
        });
    }

    /// Splits the columns of all `outs` among the threads: every column range of every matrix goes to one call of
    /// `body(matrix, tile)`, which may write these columns of all rows. Ranges start at multiples of [`COLUMN_STEP`], and a thread
    /// takes at least and at most so many columns as `grain` says (see [`Portions`]).
    pub(crate) fn columns(
        &self,
        outs: &mut [&mut Rows],
        grain: Range<usize>,
        body: impl Fn(usize, ColumnTile<'_>) + Sync,
    ) {
        for (pass, outs) in outs.chunks_mut(MATRICES).enumerate() {
            let mut ends = [0; MATRICES]; // running totals of the steps of each matrix
            let mut targets: [Option<Target<'_>>; MATRICES] = [const { None }; MATRICES];
            let mut total = 0;
            for (i, out) in outs.iter_mut().enumerate() {
                let (rows, cols) = (out.len(), out.cols());
                total += cols.div_ceil(COLUMN_STEP);
                ends[i] = total;
                targets[i] = Some(Target { data: Disjoint::new(out.data_mut()), rows, cols });
            }
            let (least, most) = (grain.start.div_ceil(COLUMN_STEP), grain.end.div_ceil(COLUMN_STEP));
            let portions = Portions { total, threads: self.threads(), least, most };
            self.run(portions.count(), |number| {
                let steps = portions.get(number);
                let mut start = 0;
                for (i, (target, end)) in targets.iter().flatten().zip(ends).enumerate() {
                    let steps = steps.start.max(start)..steps.end.min(end);
                    if !steps.is_empty() {
                        let columns = (steps.start - start) * COLUMN_STEP..(steps.end - start) * COLUMN_STEP;
                        let columns = columns.start..columns.end.min(target.cols);
                        body(pass * MATRICES + i, ColumnTile { target, columns, rows: 0..target.rows });
                    }
                    start = end;
                }
            });
        }
    }

    /// Cuts `out` into tiles of `rows` rows and `cols` columns (the last may be smaller) and calls `body` for each, those of the
    /// same columns one after the other: they share what they read.
    pub(crate) fn tiles(&self, out: &mut Rows, rows: usize, cols: usize, body: impl Fn(ColumnTile<'_>) + Sync) {
        let (all_rows, all_cols) = (out.len(), out.cols());
        let target = Target { data: Disjoint::new(out.data_mut()), rows: all_rows, cols: all_cols };
        let along = all_rows.div_ceil(rows);
        self.run(along * all_cols.div_ceil(cols), |part| {
            let (down, right) = (part % along * rows, part / along * cols);
            body(ColumnTile {
                target: &target,
                columns: right..all_cols.min(right + cols),
                rows: down..all_rows.min(down + rows),
            });
        });
    }
}

/// A slice of which several threads write disjoint pieces.
struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: pieces are handed out as `&mut [T]` to other threads, hence `T: Send`; that they are disjoint is the duty
// of the callers of `slice`.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    fn new(data: &'a mut [T]) -> Self {
        Disjoint { start: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
    }

    /// # Safety
    /// No two living slices may overlap.
    #[allow(clippy::mut_from_ref)] // that is the point; see the contract
    unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "piece outside of the slice");
        // SAFETY: in bounds by the assertion, borrowed for `'a`, and exclusive by contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// Every `parts`-th chunk of some bytes, exclusively borrowed.
pub(crate) struct Dealt<'a> {
    data: &'a Disjoint<'a, u8>,
    len: usize,
    part: usize,
    parts: usize,
}

impl Dealt<'_> {
    /// The chunk that is number `i` of these.
    pub(crate) fn chunk(&mut self, i: usize) -> &mut [u8] {
        let number = i.checked_mul(self.parts).and_then(|first| first.checked_add(self.part));
        let start = number.and_then(|number| number.checked_mul(self.len)).expect("a chunk within the slice");
        // SAFETY: each chunk belongs to one part, and `&mut self` keeps this one from handing out two at a time.
        unsafe { self.data.slice(start..start + self.len) }
    }
}

struct Target<'a> {
    data: Disjoint<'a, f32>,
    rows: usize,
    cols: usize,
}

/// A range of columns of an output matrix, in all rows or some, exclusively borrowed.
pub(crate) struct ColumnTile<'a> {
    target: &'a Target<'a>,
    columns: Range<usize>,
    rows: Range<usize>,
}

impl ColumnTile<'_> {
    /// The columns of this tile.
    pub(crate) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// The rows of this tile.
    pub(crate) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// This tile's part of row `row`: one value per column of [`columns`](Self::columns).
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(self.rows.contains(&row), "row {row} of a tile of {:?}", self.rows);
        let start = row * self.target.cols;
        // SAFETY: `Pool::columns` and `Pool::tiles` make tiles that do not overlap, so no other tile holds these
        // elements, and `&mut self` keeps this tile from handing out two rows at a time.
        unsafe { self.target.data.slice(start + self.columns.start..start + self.columns.end) }
    }

    /// This tile's parts of some rows.
    pub(crate) fn rows_mut(&mut self, rows: Range<usize>) -> impl Iterator<Item = &mut [f32]> {
        assert!(self.rows.start <= rows.start && rows.end <= self.rows.end, "rows {rows:?} of {:?}", self.rows);
        let ColumnTile { target, columns, .. } = self;
        rows.map(move |row| {
            let start = row * target.cols;
            // SAFETY: as in `row`; each row is handed out once.
            unsafe { target.data.slice(start + columns.start..start + columns.end) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_cover_every_matrix_once() {
        let pool = Pool::new(3).unwrap();
        let sizes = [1, 31, 32, 33, 100, 257];
        let mut outs: Vec<Rows> = sizes.iter().map(|&cols| Rows::new(3, cols).unwrap()).collect();
        outs.iter_mut().for_each(|out| out.set_len(3));
        let mut refs: Vec<&mut Rows> = outs.iter_mut().collect();
        pool.columns(&mut refs, 1..1000, |matrix, mut tile| {
            assert_eq!(tile.columns().start % COLUMN_STEP, 0);
            for row in tile.rows() {
                let start = tile.columns().start;
                for (i, value) in tile.row(row).iter_mut().enumerate() {
                    *value += (matrix * 10_000 + row * 1000 + start + i) as f32;
                }
            }
        });
        for (matrix, out) in outs.iter().enumerate() {
            for row in 0..3 {
                for (col, value) in out.row(row).iter().enumerate() {
                    assert_eq!(*value, (matrix * 10_000 + row * 1000 + col) as f32);
                }
            }
        }
    }

    /// Rows of four arrays go together.
    #[test]
    fn zipped_rows_belong_together() {
        let pool = Pool::new(2).unwrap();
        let (mut a, mut b, mut c, mut d) = ([0u8; 12], [0u16; 6], [0u32; 18], [0i8; 0]);
        pool.zip_rows(6, 1, ((&mut a, 2), (&mut b, 1), (&mut c, 3), (&mut d, 0)), |row, a, b, c, d| {
            a.fill(row as u8);
            b.fill(row as u16);
            c.fill(row as u32);
            assert!(d.is_empty());
        });
        assert!((0..12).all(|i| a[i] == (i / 2) as u8) && (0..6).all(|i| b[i] == i as u16));
        assert!((0..18).all(|i| c[i] == (i / 3) as u32));
    }
}
