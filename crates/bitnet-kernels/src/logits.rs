//! `logits`: the final norm and the output head, for chosen rows only.

use crate::dense_matmul::{self, Dense, TOKENS};
use crate::{Computed, Cpu, NormWeight, Rows, Wanted, norm};

/// `out[i] = head · RMSNorm(x[rows[i]])`, or only what is wanted of it.
pub(crate) fn run(
    cpu: &Cpu,
    x: &Rows,
    rows: &[u32],
    norm: &NormWeight,
    head: &Dense,
    wanted: Wanted<'_>,
    out: &mut Rows,
) -> Computed {
    let cols = x.cols();
    assert_eq!(cols, norm.weight.len(), "channels of the final norm");
    assert_eq!((cols, out.cols()), (head.cols(), head.rows()), "shape of the head");
    if let Wanted::Top(tops) = wanted {
        assert_eq!(tops.len(), rows.len(), "what is wanted of every row");
    }
    out.set_len(rows.len());
    let mut scratch = cpu.scratch();
    for (block, rows) in rows.chunks(TOKENS).enumerate() {
        let normed = &mut scratch[..rows.len() * cols];
        cpu.pool().chunks(normed, cols, crate::threads::grain(cols), |i, out| {
            norm::row(cpu.isa(), x.row(rows[i] as usize), norm, out);
        });
        if let Wanted::Top(tops) = wanted
            && rows.len() == out.len() // so few that one block holds them
            && let Some(mut selection) = head.selection()
            && let Some(bytes) = selection.run(cpu, normed, head, tops, out)
        {
            return Computed { complete: false, bytes };
        }
        dense_matmul::multiply(cpu, normed, cols, block * TOKENS, &[head], &mut [out]);
    }
    let passes = rows.len().div_ceil(TOKENS);
    Computed { complete: true, bytes: (head.bytes() * passes) as u64 }
}
