//! Final norm and output head for chosen rows.

use crate::{Cpu, Dense, NormWeight, Rows};

/// `out[i] = head · RMSNorm(x[rows[i]])`.
pub(crate) fn run(_cpu: &Cpu, _x: &Rows, _rows: &[u32], _norm: &NormWeight, _head: &Dense, _out: &mut Rows) {
    todo!()
}
