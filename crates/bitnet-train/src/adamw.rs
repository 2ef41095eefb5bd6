//! AdamW (Loshchilov and Hutter 2019), with the gradient's norm clipped.

use crate::OptimizerRecipe;
use crate::network::Param;
use crate::schedule::Rate;
use pulp::Arch;
use rayon::prelude::*;

/// Added to the root of the mean square.
const EPS: f32 = 1e-8;
/// Values per task.
const GRAIN: usize = 32 * 1024;

/// Running means of a parameter's gradients and of their squares.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Moments {
    pub(crate) mean: Vec<f32>,
    pub(crate) square: Vec<f32>,
}

/// The optimiser's state.
pub(crate) struct AdamW {
    beta1: f64,
    beta2: f64,
    clip: f64,
    /// Steps done.
    pub(crate) steps: usize,
    /// In the order of the parameters.
    pub(crate) moments: Vec<Moments>,
}

impl AdamW {
    pub(crate) fn new(recipe: &OptimizerRecipe, params: &[Param]) -> AdamW {
        let zeros =
            |param: &Param| Moments { mean: vec![0.0; param.values.len()], square: vec![0.0; param.values.len()] };
        let &OptimizerRecipe { beta1, beta2, clip, .. } = recipe;
        AdamW { beta1, beta2, clip, steps: 0, moments: params.iter().map(zeros).collect() }
    }

    /// Norm of all gradients.
    pub(crate) fn norm(params: &[Param]) -> f64 {
        let squares = |part: &[f32]| part.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
        let sums: Vec<f64> =
            params.par_iter().flat_map(|param| param.gradient.par_chunks(GRAIN).map(squares)).collect();
        sums.iter().sum::<f64>().sqrt() // in one order
    }

    /// Moves all parameters and clears their gradients, whose norm is given.
    pub(crate) fn step(&mut self, params: &mut [Param], norm: f64, rate: Rate) {
        self.steps += 1;
        let steps = self.steps as i32;
        let (beta1, beta2) = (self.beta1 as f32, self.beta2 as f32);
        let factor = if norm > self.clip { (self.clip / norm) as f32 } else { 1.0 };
        // the biases of both means, taken into the learning rate and under the root
        let lr = (rate.lr / (1.0 - self.beta1.powi(steps))) as f32;
        let root = (1.0 / (1.0 - self.beta2.powi(steps))) as f32;
        for (Param { dims, values, gradient, .. }, moments) in params.iter_mut().zip(&mut self.moments) {
            let keep = if dims.len() > 1 { (1.0 - rate.lr * rate.weight_decay) as f32 } else { 1.0 };
            let state = moments.mean.par_chunks_mut(GRAIN).zip(moments.square.par_chunks_mut(GRAIN));
            values.par_chunks_mut(GRAIN).zip(gradient.par_chunks_mut(GRAIN)).zip(state).for_each(|((w, g), (m, s))| {
                Arch::new().dispatch(|| {
                    for (((w, g), m), s) in w.iter_mut().zip(g).zip(m).zip(s) {
                        let gradient = *g * factor;
                        *m = beta1 * *m + (1.0 - beta1) * gradient;
                        *s = beta2 * *s + (1.0 - beta2) * gradient * gradient;
                        *w = *w * keep - lr * *m / ((*s * root).sqrt() + EPS);
                        *g = 0.0;
                    }
                });
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three steps by the paper's formulas in f64.
    #[test]
    fn by_the_formulas() {
        let param = |dims: &[usize], values: &[f32]| Param {
            name: "x".into(),
            dims: dims.to_vec(),
            values: values.to_vec(),
            gradient: vec![0.0; values.len()],
        };
        let start = [0.5, -0.25, 1.0, 0.0];
        let mut params = vec![param(&[2, 2], &start), param(&[2], &[2.0, 1.0])];
        let recipe = OptimizerRecipe {
            steps: 3,
            batch: 1,
            accumulate: 1,
            peak_lr: 0.0,
            second_lr: 0.0,
            warmup: 0,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.95,
            clip: 1.0,
            quantization_warmup: 0,
        };
        let mut adamw = AdamW::new(&recipe, &params);
        let gradient = [3.0f32, 0.1, -0.2, 4.0];
        let mut want: Vec<f64> = start.iter().map(|&x| f64::from(x)).collect();
        let (mut m, mut s) = (vec![0f64; 4], vec![0f64; 4]);
        let rate = Rate { lr: 0.01, weight_decay: 0.1, quantization: 1.0 };
        for t in 1..=3 {
            params[0].gradient.copy_from_slice(&gradient);
            let norm = AdamW::norm(&params);
            assert!((norm - 25.05f64.sqrt()).abs() < 1e-6);
            adamw.step(&mut params, norm, rate);
            for (i, &g) in gradient.iter().enumerate() {
                let g = f64::from(g) / norm;
                m[i] = 0.9 * m[i] + 0.1 * g;
                s[i] = 0.95 * s[i] + 0.05 * g * g;
                let step = (m[i] / (1.0 - 0.9f64.powi(t))) / ((s[i] / (1.0 - 0.95f64.powi(t))).sqrt() + 1e-8);
                want[i] -= 0.01 * (step + 0.1 * want[i]);
            }
        }
        for (got, want) in params[0].values.iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 1e-6, "{got} {want}");
        }
        assert_eq!(params[1].values, [2.0, 1.0], "norms do not decay");
        assert_eq!(params[0].gradient, [0.0; 4], "ready for the next step");
    }
}
