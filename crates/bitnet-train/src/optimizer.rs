//! What moves the weights: AdamW, or Muon for the projections; the gradient's norm is clipped first. Keeps a running mean of
//! the weights if asked.

use crate::adamw::AdamW;
use crate::network::{Param, TABLE};
use crate::schedule::Rate;
use crate::{Method, OptimizerRecipe, muon};
use rayon::prelude::*;

/// Values per task.
const GRAIN: usize = 32 * 1024;

/// Running means of a parameter's gradients and of their squares (which Muon does without).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Moments {
    pub(crate) mean: Vec<f32>,
    pub(crate) square: Vec<f32>,
}

/// The optimiser's state.
pub(crate) struct Optimizer {
    method: Method,
    beta1: f64,
    beta2: f64,
    clip: f64,
    decay: f64,
    /// Steps done.
    pub(crate) steps: usize,
    /// In the order of the parameters.
    pub(crate) moments: Vec<Moments>,
    /// Running mean of every parameter; empty when the recipe has none.
    pub(crate) average: Vec<Vec<f32>>,
}

impl Optimizer {
    pub(crate) fn new(recipe: &OptimizerRecipe, params: &[Param]) -> Optimizer {
        let &OptimizerRecipe { method, beta1, beta2, clip, average: decay, .. } = recipe;
        let zeros = |(index, param): (usize, &Param)| {
            let squares = if is_orthogonalised(method, index, param) { 0 } else { param.values.len() };
            Moments { mean: vec![0.0; param.values.len()], square: vec![0.0; squares] }
        };
        let moments = params.iter().enumerate().map(zeros).collect();
        let average = if decay > 0.0 { params.iter().map(|param| param.values.clone()).collect() } else { Vec::new() };
        Optimizer { method, beta1, beta2, clip, decay, steps: 0, moments, average }
    }

    /// Moves all parameters and clears their gradients, whose norm is given.
    pub(crate) fn step(&mut self, params: &mut [Param], norm: f64, rate: Rate) {
        self.steps += 1;
        let steps = self.steps as i32;
        let factor = if norm > self.clip { (self.clip / norm) as f32 } else { 1.0 };
        let adamw = AdamW {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            factor,
            // the biases of both means, taken into the learning rate and under the root
            lr: (rate.lr / (1.0 - self.beta1.powi(steps))) as f32,
            root: (1.0 / (1.0 - self.beta2.powi(steps))) as f32,
        };
        let method = self.method;
        let matrices_keep = (1.0 - rate.lr * rate.weight_decay) as f32;
        let all = params.par_iter_mut().zip(&mut self.moments).enumerate();
        all.filter(|(index, (param, _))| is_orthogonalised(method, *index, param)).for_each(|(_, (param, moments))| {
            if let &[rows, cols] = &param.dims[..] {
                let Param { values, gradient, .. } = param;
                let lr = rate.lr as f32;
                muon::step([rows, cols], values, gradient, &mut moments.mean, factor, matrices_keep, lr);
            }
        });
        for (index, (param, moments)) in params.iter_mut().zip(&mut self.moments).enumerate() {
            if !is_orthogonalised(method, index, param) {
                let keep = if param.dims.len() > 1 { matrices_keep } else { 1.0 };
                adamw.step(&mut param.values, &mut param.gradient, &mut moments.mean, &mut moments.square, keep);
            }
        }
        // the mean of few steps is that of fewer, or first weights would stay in it for long
        let steps = self.steps as f64;
        let decay = self.decay.min((1.0 + steps) / (10.0 + steps)) as f32;
        for (average, param) in self.average.iter_mut().zip(params) {
            average.par_chunks_mut(GRAIN).zip(param.values.par_chunks(GRAIN)).for_each(|(average, values)| {
                average.iter_mut().zip(values).for_each(|(a, w)| *a = *w + decay * (*a - *w));
            });
        }
    }
}

/// Whether a parameter is moved by Muon: a projection, not the embedding, not a norm.
fn is_orthogonalised(method: Method, index: usize, param: &Param) -> bool {
    method == Method::Muon && index != TABLE && param.dims.len() == 2
}

/// Norm of all gradients.
pub(crate) fn norm_of_gradients(params: &[Param]) -> f64 {
    let squares = |part: &[f32]| part.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
    let sums: Vec<f64> = params.par_iter().flat_map(|param| param.gradient.par_chunks(GRAIN).map(squares)).collect();
    sums.iter().sum::<f64>().sqrt() // in one order
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
            average: 0.0,
            method: crate::Method::Adamw,
        };
        let mut optimizer = Optimizer::new(&recipe, &params);
        let gradient = [3.0f32, 0.1, -0.2, 4.0];
        let mut want: Vec<f64> = start.iter().map(|&x| f64::from(x)).collect();
        let (mut m, mut s) = (vec![0f64; 4], vec![0f64; 4]);
        let rate = Rate { lr: 0.01, weight_decay: 0.1, quantization: 1.0 };
        for t in 1..=3 {
            params[0].gradient.copy_from_slice(&gradient);
            let norm = norm_of_gradients(&params);
            assert!((norm - 25.05f64.sqrt()).abs() < 1e-6);
            optimizer.step(&mut params, norm, rate);
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
