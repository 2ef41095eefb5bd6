//! AdamW (Loshchilov and Hutter 2019).

use crate::vectorized::vectorized;
use rayon::prelude::*;

/// Added to the root of the mean square.
const EPS: f32 = 1e-8;
/// Values per task.
const GRAIN: usize = 32 * 1024;

/// A step of AdamW, the same for all parameters.
#[derive(Clone, Copy)]
pub(crate) struct AdamW {
    /// Decay of the gradient's mean and of its mean square.
    pub(crate) beta1: f32,
    pub(crate) beta2: f32,
    /// Factor of all gradients.
    pub(crate) factor: f32,
    /// Learning rate, divided by the bias of the mean.
    pub(crate) lr: f32,
    /// Inverse of the bias of the mean square.
    pub(crate) root: f32,
}

impl AdamW {
    /// Shrinks values to `keep` of themselves, moves them, and clears their gradients.
    pub(crate) fn step(
        self,
        values: &mut [f32],
        gradient: &mut [f32],
        mean: &mut [f32],
        square: &mut [f32],
        keep: f32,
    ) {
        let AdamW { beta1, beta2, factor, lr, root } = self;
        let state = mean.par_chunks_mut(GRAIN).zip(square.par_chunks_mut(GRAIN));
        values.par_chunks_mut(GRAIN).zip(gradient.par_chunks_mut(GRAIN)).zip(state).for_each(|((w, g), (m, s))| {
            vectorized(
                #[inline(always)]
                || {
                    for (((w, g), m), s) in w.iter_mut().zip(g.iter_mut()).zip(m.iter_mut()).zip(s.iter_mut()) {
                        let gradient = *g * factor;
                        *m = beta1 * *m + (1.0 - beta1) * gradient;
                        *s = beta2 * *s + (1.0 - beta2) * gradient * gradient;
                        *w = *w * keep - lr * *m / ((*s * root).sqrt() + EPS);
                        *g = 0.0;
                    }
                },
            );
        });
    }
}
