//! Learning rate and weight decay of a step.

use crate::OptimizerRecipe;

/// What the optimiser does in one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    /// Learning rate.
    pub(crate) lr: f64,
    /// Weight decay of matrices.
    pub(crate) weight_decay: f64,
    /// Share of quantisation, 0 to 1.
    pub(crate) quantization: f32,
}

/// Two stages of linear decay. The first line runs from `peak_lr` towards zero at the end of the whole run and is left
/// half-way; the second runs from `second_lr` to zero (The Era of 1-bit LLMs: Training Tips, Code and FAQ).
pub(crate) fn rate(recipe: &OptimizerRecipe, step: usize) -> Rate {
    let steps = recipe.steps as f64;
    let done = step as f64;
    let half = recipe.steps / 2;
    let (lr, weight_decay) = if step < half {
        (recipe.peak_lr * (1.0 - done / steps), recipe.weight_decay)
    } else {
        (recipe.second_lr * (1.0 - (done - half as f64) / (steps - half as f64)), 0.0)
    };
    let warm = if step < recipe.warmup { (done + 1.0) / recipe.warmup as f64 } else { 1.0 };
    let quantization = match recipe.quantization_warmup {
        0 => 1.0,
        steps => (done / steps as f64).min(1.0) as f32,
    };
    Rate { lr: lr * warm, weight_decay, quantization }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_stages() {
        let recipe = OptimizerRecipe {
            steps: 100,
            batch: 1,
            accumulate: 1,
            peak_lr: 1.0,
            second_lr: 0.4,
            warmup: 10,
            weight_decay: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            clip: 1.0,
            quantization_warmup: 20,
            average: 0.0,
            method: crate::Method::Adamw,
        };
        let at = |step| rate(&recipe, step);
        assert_eq!(at(0).lr, 0.1);
        assert_eq!(at(4).lr, 0.5 * 0.96);
        assert_eq!(at(10), Rate { lr: 0.9, weight_decay: 0.1, quantization: 0.5 });
        assert_eq!(at(49).lr, 0.51);
        assert_eq!(at(50), Rate { lr: 0.4, weight_decay: 0.0, quantization: 1.0 });
        assert_eq!(at(75).lr, 0.2);
        assert!(at(99).lr > 0.0);
    }
}
