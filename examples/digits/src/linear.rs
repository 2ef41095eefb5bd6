//! BitLinear with a straight-through estimator, moved by AdamW; or the same layer in floats.

use crate::random::Random;
use bitnet::formats::Ternary;
use rayon::prelude::*;

/// Weights `[outputs, inputs]` with gradient and the moments of AdamW.
pub(crate) struct Linear {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) ternary: bool,
    pub(crate) weights: Vec<f32>,
    gradient: Vec<f32>,
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl Linear {
    pub(crate) fn new(inputs: usize, outputs: usize, ternary: bool, random: &mut Random) -> Linear {
        let width = (6.0 / inputs as f32).sqrt();
        let weights = (0..inputs * outputs).map(|_| width * random.signed()).collect();
        let zeros = || vec![0.0; inputs * outputs];
        Linear { outputs, inputs, ternary, weights, gradient: zeros(), mean: zeros(), square: zeros() }
    }

    #[cfg(test)]
    pub(crate) fn gradient(&self) -> &[f32] {
        &self.gradient
    }

    /// Codes and scale by absmean, as every loader makes them.
    pub(crate) fn codes(&self) -> Ternary {
        Ternary::absmean(&self.weights, self.outputs, self.inputs)
            .expect("training stops at weights that are not finite")
    }

    /// What the layer multiplies with.
    pub(crate) fn effective(&self) -> Vec<f32> {
        if self.ternary { self.codes().to_f32() } else { self.weights.clone() }
    }

    /// Rounds rows of inputs as the layer sees them: absmax int8 for each row.
    pub(crate) fn round(&self, x: &mut [f32]) {
        if !self.ternary {
            return;
        }
        x.par_chunks_mut(self.inputs).for_each(|x| {
            let scale = (1.0 / x.iter().fold(1e-5f32, |m, x| m.max(x.abs()))) * 127.0;
            x.iter_mut().for_each(|x| *x = (*x * scale).round_ties_even() / scale);
        });
    }

    /// `y = x Wᵀ`.
    pub(crate) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let weights = self.effective();
        // a row per input, so that sums go along outputs
        let mut columns = vec![0.0; weights.len()];
        for (output, row) in weights.chunks_exact(self.inputs).enumerate() {
            row.iter().enumerate().for_each(|(input, &w)| columns[input * self.outputs + output] = w);
        }
        let mut y = vec![0.0; x.len() / self.inputs * self.outputs];
        y.par_chunks_mut(self.outputs).zip(x.par_chunks(self.inputs)).for_each(|(y, x)| {
            x.iter().zip(columns.chunks_exact(self.outputs)).for_each(|(&x, column)| add_scaled(y, x, column));
        });
        y
    }

    /// Adds to the gradient `dyᵀ x`, and gives `dx = dy W`.
    pub(crate) fn backward(&mut self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        let weights = self.effective();
        self.gradient.par_chunks_mut(self.inputs).enumerate().for_each(|(output, gradient)| {
            let dy = dy[output..].iter().step_by(self.outputs);
            dy.zip(x.chunks_exact(self.inputs)).for_each(|(&dy, x)| add_scaled(gradient, dy, x));
        });
        let mut dx = vec![0.0; x.len()];
        dx.par_chunks_mut(self.inputs).zip(dy.par_chunks(self.outputs)).for_each(|(dx, dy)| {
            dy.iter().zip(weights.chunks_exact(self.inputs)).for_each(|(&dy, w)| add_scaled(dx, dy, w));
        });
        dx
    }

    /// Step `t` (from 1) of AdamW, to the master weights: rounding passes the gradient unchanged.
    pub(crate) fn step(&mut self, t: i32, rate: f32) {
        const BETAS: (f32, f32) = (0.9, 0.999);
        const DECAY: f32 = 0.01;
        let (first, second) = (1.0 - BETAS.0.powi(t), 1.0 - BETAS.1.powi(t));
        let moments = self.mean.iter_mut().zip(&mut self.square);
        for ((w, g), (m, s)) in self.weights.iter_mut().zip(&mut self.gradient).zip(moments) {
            *m += (1.0 - BETAS.0) * (*g - *m);
            *s += (1.0 - BETAS.1) * (*g * *g - *s);
            *w -= rate * (*m / first / ((*s / second).sqrt() + 1e-8) + DECAY * *w);
            *g = 0.0;
        }
    }
}

fn add_scaled(out: &mut [f32], factor: f32, x: &[f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out += factor * x);
}
