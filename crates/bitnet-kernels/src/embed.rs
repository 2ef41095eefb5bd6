//! `embed`: rows of the embedding table.

use crate::dense_matmul::Dense;
use crate::lanes::{Kernel, Lanes, dispatch};
use crate::threads::grain;
use crate::{Cpu, Rows};

/// `out[t] = table[ids[t]] * scale`.
pub(crate) fn run(cpu: &Cpu, table: &Dense, ids: &[u32], scale: f32, out: &mut Rows) {
    let cols = table.cols();
    assert_eq!(cols, out.cols(), "row length of the embedding");
    out.set_len(ids.len());
    cpu.pool().chunks(out.data_mut(), cols, grain(cols), |token, out| {
        dispatch(cpu.isa(), Row { table, row: ids[token] as usize, scale, out });
    });
}

struct Row<'a> {
    table: &'a Dense,
    row: usize,
    scale: f32,
    out: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Row { table, row, scale, out } = self;
        table.decode_row(l, row, |first, values| {
            for (out, x) in out[first..].iter_mut().zip(values.as_flattened()) {
                *out = x * scale;
            }
        });
    }
}
