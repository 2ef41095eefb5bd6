//! RMSNorm.

use crate::{Cpu, Isa, NormWeight, Rows};

/// `1 / sqrt(mean(x²) + eps)` of one row. A normed value is `(x * inverse_rms) * weight`.
pub(crate) fn inverse_rms(_isa: Isa, _row: &[f32], _eps: f32) -> f32 {
    todo!()
}

/// `out = RMSNorm(x)`, per chunk of the weight's length.
pub(crate) fn run(_cpu: &Cpu, _x: &Rows, _norm: &NormWeight, _out: &mut Rows) {
    todo!()
}
