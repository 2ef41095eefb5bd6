//! `exp` and what follows from it, the same bits on every tier and platform.

use crate::lanes::Lanes;

/// `exp(x)` within 1 ulp: 0 below about −104, ∞ above about 88.7, gradual underflow, NaN stays NaN.
///
/// `x = n ln 2 + r` with `ln 2` in two parts (Cody–Waite), `exp(r)` by the degree-6 polynomial of Cephes' `expf`, and
/// `2^n` in two factors, so that neither leaves the normal range.
#[inline(always)]
pub(crate) fn exp<L: Lanes>(l: L, x: L::V) -> L::V {
    let c = |x: f32| l.splat(x);
    // The bound stands first: a NaN in the second operand passes.
    let x = l.larger(c(-104.0), l.smaller(c(89.0), x));
    // Adding 1.5 · 2^23 rounds to a whole number, ties to even.
    let n = l.sub(l.fma(x, c(std::f32::consts::LOG2_E), c(12_582_912.0)), c(12_582_912.0));
    let r = l.fma(n, c(-0.693_359_4), x);
    let r = l.fma(n, c(2.121_944_4e-4), r);
    let mut p = c(1.987_569_1e-4);
    p = l.fma(p, r, c(1.398_199_9e-3));
    p = l.fma(p, r, c(8.333_452e-3));
    p = l.fma(p, r, c(4.166_579_6e-2));
    p = l.fma(p, r, c(1.666_666_5e-1));
    p = l.fma(p, r, c(0.5));
    p = l.fma(l.mul(p, r), r, r);
    p = l.add(p, c(1.0));
    let half = l.sub(l.fma(n, c(0.5), c(12_582_912.0)), c(12_582_912.0));
    l.mul(l.mul(p, l.pow2(half)), l.pow2(l.sub(n, half)))
}

/// `x / (1 + exp(-x))`, which is `x · sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu<L: Lanes>(l: L, x: L::V) -> L::V {
    l.div(x, l.add(l.splat(1.0), exp(l, l.sub(l.splat(0.0), x))))
}

/// GELU in its tanh form. `(1 + tanh z) / 2 = 1 / (1 + exp(-2z))`, which loses no digits where tanh is near −1.
#[inline(always)]
pub(crate) fn gelu_tanh<L: Lanes>(l: L, x: L::V) -> L::V {
    // z = √(2/π) (x + 0.044715 x³)
    let inner = l.fma(l.mul(x, x), l.splat(0.044715), l.splat(1.0));
    let minus_2z = l.mul(l.mul(x, l.splat(-2.0 * 0.797_884_6)), inner);
    l.div(x, l.add(l.splat(1.0), exp(l, minus_2z)))
}
