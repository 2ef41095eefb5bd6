//! Causal attention over the KV pages.

use crate::{Batch, Cpu, Kv, Rows};

/// `out = softmax(q kᵀ · scale) v`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn run(
    _cpu: &Cpu,
    _q: &Rows,
    _kv: &Kv,
    _batch: &Batch,
    _layer: usize,
    _scale: f32,
    _window: Option<usize>,
    _out: &mut Rows,
) {
    todo!()
}
