//! int8 activations × ternary weights.

use crate::{Cpu, KernelError, Quantized, Rows, TernaryWeights};

/// A ternary matrix that has been checked.
pub struct Ternary(#[allow(dead_code)] TernaryWeights);

/// Checks byte length, codes and scales.
pub(crate) fn load(_cpu: &Cpu, weights: TernaryWeights) -> Result<Ternary, KernelError> {
    Ok(Ternary(weights))
}

/// `outs[i] = x · weights[i]ᵀ`.
pub(crate) fn run(_cpu: &Cpu, _x: &Quantized, _weights: &[&Ternary], _outs: &mut [&mut Rows]) {
    todo!()
}
