//! Embedding rows.

use crate::{Cpu, Dense, Rows};

/// `out[t] = table[ids[t]] * scale`.
pub(crate) fn run(_cpu: &Cpu, _table: &Dense, _ids: &[u32], _scale: f32, _out: &mut Rows) {
    todo!()
}
