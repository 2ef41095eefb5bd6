//! Per-token absmax int8.

use crate::{Cpu, NormWeight, Quantized, Rows};

/// RMSNorm (or none), then int8 codes, scale and sums of every row.
pub(crate) fn run(_cpu: &Cpu, _x: &Rows, _norm: Option<&NormWeight>, _out: &mut Quantized) {
    todo!()
}
