//! Residual sum.

use crate::{Cpu, Rows};

/// `x += y`.
pub(crate) fn run(_cpu: &Cpu, _x: &mut Rows, _y: &Rows) {
    todo!()
}
