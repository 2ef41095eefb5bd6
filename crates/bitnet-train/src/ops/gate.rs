//! The gate of a feed-forward part: `activation(gate) · up`.

use super::{GRAIN, exp};
use crate::vectorized::vectorized;
use rayon::prelude::*;

/// Non-linearity of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `max(x, 0)²`.
    Relu2,
    /// `x · sigmoid(x)`.
    Silu,
}

impl Activation {
    /// Value and derivative.
    #[inline(always)]
    fn at(self, x: f32) -> (f32, f32) {
        match self {
            Activation::Relu2 => {
                let x = if x > 0.0 { x } else { 0.0 };
                (x * x, 2.0 * x)
            }
            Activation::Silu => {
                let sigmoid = 1.0 / (1.0 + exp(-x));
                (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid)))
            }
        }
    }
}

/// `out = activation(gate) · up`.
pub(crate) fn gate(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(GRAIN).zip(gate.par_chunks(GRAIN)).zip(up.par_chunks(GRAIN)).for_each(|((out, gate), up)| {
        vectorized(
            #[inline(always)]
            || {
                for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                    *out = activation.at(gate).0 * up;
                }
            },
        );
    });
}

/// Replaces gate and up by their gradients.
pub(crate) fn gate_backward(activation: Activation, gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
    gate.par_chunks_mut(GRAIN).zip(up.par_chunks_mut(GRAIN)).zip(dy.par_chunks(GRAIN)).for_each(|((gate, up), dy)| {
        vectorized(
            #[inline(always)]
            || {
                for ((gate, up), &dy) in gate.iter_mut().zip(up.iter_mut()).zip(dy) {
                    let (value, slope) = activation.at(*gate);
                    (*gate, *up) = (dy * *up * slope, dy * value);
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::{check_gradient, dot};
    use crate::random::Random;

    #[test]
    fn by_hand() {
        assert_eq!(Activation::Relu2.at(-3.0), (0.0, 0.0));
        assert_eq!(Activation::Relu2.at(3.0), (9.0, 6.0));
        let (value, slope) = Activation::Silu.at(1.0);
        let sigmoid = 1.0 / (1.0 + (-1f64).exp());
        assert!((f64::from(value) - sigmoid).abs() < 1e-6);
        assert!((f64::from(slope) - sigmoid * (2.0 - sigmoid)).abs() < 1e-6);
    }

    #[test]
    fn gradients() {
        for activation in [Activation::Relu2, Activation::Silu] {
            let mut random = Random::new(2, 2);
            let (g, u, dy) = (random.normal(21, 1.0), random.normal(21, 1.0), random.normal(21, 1.0));
            let objective = |g: &[f32], u: &[f32]| {
                let mut y = vec![0.0; 21];
                gate(activation, g, u, &mut y);
                dot(&y, &dy)
            };
            let (mut dg, mut du) = (g.clone(), u.clone());
            gate_backward(activation, &mut dg, &mut du, &dy);
            check_gradient(&g, &dg, 1e-2, |g| objective(g, &u));
            check_gradient(&u, &du, 1e-2, |u| objective(&g, u));
        }
    }
}
