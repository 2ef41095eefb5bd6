//! `logits`: the final norm and the output head, for chosen rows only.

use crate::dense_matmul::{self, Dense, TOKENS};
use crate::{Cpu, NormWeight, Rows, norm};

/// `out[i] = head · RMSNorm(x[rows[i]])`.
pub(crate) fn run(cpu: &Cpu, x: &Rows, rows: &[u32], norm: &NormWeight, head: &Dense, out: &mut Rows) {
    let cols = x.cols();
    assert_eq!(cols, norm.weight.len(), "channels of the final norm");
    out.set_len(rows.len());
    let mut scratch = cpu.scratch();
    for (block, rows) in rows.chunks(TOKENS).enumerate() {
        let normed = &mut scratch[..rows.len() * cols];
        cpu.pool().chunks(normed, cols, crate::threads::grain(cols), |i, out| {
            norm::row(cpu.isa(), x.row(rows[i] as usize), norm, out);
        });
        dense_matmul::multiply(cpu, normed, cols, block * TOKENS, &[head], &mut [out]);
    }
}
