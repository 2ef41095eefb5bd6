//! Gate non-linearity times up projection.

use crate::{Activation, Cpu, Rows};

/// `gate = activation(gate) * up`.
pub(crate) fn run(_cpu: &Cpu, _activation: Activation, _gate: &mut Rows, _up: &Rows) {
    todo!()
}
