//! Dense matrix products.

use crate::{Cpu, DenseWeights, KernelError, Rows};

/// A dense matrix that has been checked.
pub struct Dense(#[allow(dead_code)] pub(crate) DenseWeights);

/// Checks byte length and shape.
pub(crate) fn load(_weights: DenseWeights) -> Result<Dense, KernelError> {
    todo!()
}

/// `outs[i] = x · weights[i]ᵀ`.
pub(crate) fn run(_cpu: &Cpu, _x: &Rows, _weights: &[&Dense], _outs: &mut [&mut Rows]) {
    todo!()
}
