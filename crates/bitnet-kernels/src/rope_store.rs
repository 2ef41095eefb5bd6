//! Rotary embedding of queries and keys, and the write into the KV cache.

use crate::{Batch, Cpu, Kv, RopeTable, Rows};

/// Rotates `q` in place and `k`, writes `k` and `v` into the batch's pages of `layer`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn run(
    _cpu: &Cpu,
    _q: &mut Rows,
    _k: &Rows,
    _v: &Rows,
    _rope: &RopeTable,
    _batch: &Batch,
    _layer: usize,
    _kv: &mut Kv,
) {
    todo!()
}
