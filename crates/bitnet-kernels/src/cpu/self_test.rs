//! A canary: kernels that compute something else than the oracle must not touch a model.

use crate::arch::{multiply, multiply_groups, quantize};
use crate::cpu::Quantized;
use crate::ternary_matmul::{GroupPanel, Ternary};
use crate::{Isa, KernelError, TernaryScales, TernaryWeights};

/// Odd counts, so that every tail of every kernel is used.
const ROWS: usize = 7;
const COLS: usize = 680;
const TOKENS: usize = 11;

/// Runs the integer kernels of a tier on fixed data and compares them, bit for bit, with the scalar oracle. Takes less
/// than a millisecond or so.
pub fn self_test(isa: Isa) -> Result<(), KernelError> {
    let isa = isa.require()?;
    let fails = |what| Err(KernelError::SelfTest { isa, what });

    let mut random = 1u32;
    let mut next = move || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        random >> 8
    };
    let values: Vec<f32> = (0..TOKENS * COLS).map(|_| next() as f32 / 1000.0 - 8000.0).collect();
    let x = quantized(isa, &values)?;
    let oracle = quantized(Isa::Scalar, &values)?;
    if (0..TOKENS).any(|token| oracle.row(token) != x.row(token)) {
        return fails("quantisation");
    }
    let weights: Vec<i8> = (0..ROWS * COLS).map(|_| (next() % 3) as i8 - 1).collect();
    let matrix = Ternary::unchecked(TernaryWeights::pack(&weights, ROWS, COLS, TernaryScales::Tensor(1.0))?);
    let panel = matrix.panel(0..ROWS);
    let product = |isa| {
        let mut out = [[0; ROWS]; TOKENS];
        multiply(isa, panel, &x, |row, token, sums| out[token][row..row + sums.len()].copy_from_slice(sums));
        out
    };
    if product(isa) != product(Isa::Scalar) {
        return fails("the ternary product");
    }
    let scales: Vec<f32> = (0..ROWS * 11).map(|_| next() as f32).collect();
    let panel = GroupPanel { codes: panel, len: 64, groups: 11, scales: &scales };
    let product = |isa| {
        let mut out = [[0; ROWS]; TOKENS];
        multiply_groups(isa, panel, &x, |row, token, values| {
            out[token][row..row + values.len()].iter_mut().zip(values).for_each(|(out, v)| *out = v.to_bits());
        });
        out
    };
    if product(isa) != product(Isa::Scalar) {
        return fails("the ternary product with grouped scales");
    }
    Ok(())
}

fn quantized(isa: Isa, values: &[f32]) -> Result<Quantized, KernelError> {
    let mut out = Quantized::new(TOKENS, COLS)?;
    out.set_len(TOKENS);
    let stride = out.stride();
    let (codes, scales, sums) = out.parts_mut();
    let rows = codes.chunks_mut(stride).zip(sums.chunks_mut(stride / crate::cpu::SUM_LEN)).zip(scales);
    for (((codes, sums), scale), values) in rows.zip(values.chunks(COLS)) {
        *scale = quantize(isa, values, None, codes, sums);
    }
    Ok(out)
}
