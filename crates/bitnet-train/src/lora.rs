//! LoRA: float matrices of low rank beside the projections of a network that stays as it is. Products are computed in f32,
//! forwards as the engine does.

use crate::network::{Network, Param};
use crate::ops::dot;
use crate::random::Random;
use crate::vectorized::vectorized;
use crate::{LoraRecipe, TrainError};
use rayon::prelude::*;

/// The side-car of a network.
#[derive(Clone, Debug)]
pub(crate) struct Lora {
    pub(crate) recipe: LoraRecipe,
    /// Its first parameter.
    pub(crate) first: usize,
    /// The first of the two matrices beside a parameter; the other one comes after it.
    pairs: Vec<Option<usize>>,
}

impl Lora {
    /// `alpha / rank`.
    pub(crate) fn scaling(&self) -> f32 {
        (self.recipe.alpha / self.recipe.rank as f64) as f32
    }

    /// The index of `A` beside a projection.
    pub(crate) fn beside(&self, param: usize) -> Option<usize> {
        self.pairs.get(param).copied().flatten()
    }
}

impl Network {
    /// Freezes the network and puts a side-car beside every projection: `A` random, as wide as PEFT's uniform ones, `B` zero.
    pub(crate) fn adapt(&mut self, recipe: &LoraRecipe, seed: u64) {
        let first = self.params.len();
        let mut pairs = vec![None; first];
        for index in self.blocks.iter().flat_map(|b| [b.query, b.key, b.value, b.output, b.gate, b.up, b.down]) {
            let base = &mut self.params[index];
            base.gradient = Vec::new(); // never computed
            let &[rows, cols] = &base.dims[..] else { continue };
            let stem = format!("base_model.model.{}", base.name.trim_end_matches(".weight"));
            let rank = recipe.rank;
            pairs[index] = Some(self.params.len());
            let random = Random::new(seed, u64::MAX - self.params.len() as u64)
                .normal(rank * cols, 1.0 / (3.0 * cols as f64).sqrt());
            for (part, dims, values) in
                [("lora_A", vec![rank, cols], random), ("lora_B", vec![rows, rank], vec![0.0; rows * rank])]
            {
                let gradient = vec![0.0; values.len()];
                self.params.push(Param { name: format!("{stem}.{part}.weight"), dims, values, gradient });
            }
        }
        self.lora = Some(Lora { recipe: recipe.clone(), first, pairs });
    }

    /// Clears what a backward pass left in the gradients of frozen parameters.
    pub(crate) fn clear_frozen(&mut self) {
        let frozen = self.lora.as_ref().map_or(0, |lora| lora.first);
        self.params[..frozen].iter_mut().for_each(|param| param.gradient.fill(0.0));
    }

    /// Values of a side-car that are no numbers any more.
    pub(crate) fn check_lora(&self) -> Result<(), TrainError> {
        let bad =
            self.trained().iter().filter(|_| self.lora.is_some()).find(|p| p.values.iter().any(|x| !x.is_finite()));
        match bad {
            Some(param) => Err(TrainError::Weights { name: param.name.clone(), reason: "is not finite".into() }),
            None => Ok(()),
        }
    }
}

/// Two matrices `a` `[rank, inputs]` and `b` `[outputs, rank]` with a scaling.
#[derive(Clone, Copy)]
pub(crate) struct LowRank<'a> {
    pub(crate) a: &'a [f32],
    pub(crate) b: &'a [f32],
    pub(crate) rank: usize,
    pub(crate) scaling: f32,
}

impl LowRank<'_> {
    fn inputs(&self) -> usize {
        self.a.len() / self.rank
    }

    fn outputs(&self) -> usize {
        self.b.len() / self.rank
    }

    /// `A · x` of every row of `x`: `[tokens, rank]`.
    fn low(&self, x: &[f32]) -> Vec<f32> {
        let cols = self.inputs();
        let mut low = vec![0.0; x.len() / cols * self.rank];
        low.par_chunks_mut(self.rank).zip(x.par_chunks(cols)).for_each(|(low, x)| {
            vectorized(
                #[inline(always)]
                || low.iter_mut().zip(self.a.chunks_exact(cols)).for_each(|(low, a)| *low = dot(a, x)),
            );
        });
        low
    }

    /// `y += B · (A · x) · scaling`.
    pub(crate) fn add_to(&self, x: &[f32], y: &mut [f32]) {
        let low = self.low(x);
        y.par_chunks_mut(self.outputs()).zip(low.par_chunks(self.rank)).for_each(|(y, low)| {
            vectorized(
                #[inline(always)]
                || y.iter_mut().zip(self.b.chunks_exact(self.rank)).for_each(|(y, b)| *y += self.scaling * dot(b, low)),
            );
        });
    }

    /// From the gradient of `y`: adds to those of `x`, `A` and `B`.
    pub(crate) fn backward(&self, x: &[f32], dy: &[f32], dx: &mut [f32], da: &mut [f32], db: &mut [f32]) {
        let &LowRank { a, b, rank, scaling } = self;
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let low = self.low(x);
        let mut dlow = vec![0.0; low.len()];
        dlow.par_chunks_mut(rank).zip(dy.par_chunks(outputs)).for_each(|(dlow, dy)| {
            vectorized(
                #[inline(always)]
                || dy.iter().zip(b.chunks_exact(rank)).for_each(|(dy, b)| add_scaled(dlow, scaling * dy, b)),
            );
        });
        dx.par_chunks_mut(inputs).zip(dlow.par_chunks(rank)).for_each(|(dx, dlow)| {
            vectorized(
                #[inline(always)]
                || dlow.iter().zip(a.chunks_exact(inputs)).for_each(|(d, a)| add_scaled(dx, *d, a)),
            );
        });
        // over tokens, in one order
        da.par_chunks_mut(inputs).enumerate().for_each(|(row, da)| {
            vectorized(
                #[inline(always)]
                || {
                    x.chunks_exact(inputs)
                        .zip(dlow[row..].iter().step_by(rank))
                        .for_each(|(x, d)| add_scaled(da, *d, x))
                },
            );
        });
        db.par_chunks_mut(rank).enumerate().for_each(|(row, db)| {
            vectorized(
                #[inline(always)]
                || {
                    let dy = dy[row..].iter().step_by(outputs);
                    low.chunks_exact(rank).zip(dy).for_each(|(low, dy)| add_scaled(db, scaling * dy, low));
                },
            );
        });
    }
}

#[inline(always)]
fn add_scaled(out: &mut [f32], factor: f32, x: &[f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out += factor * x);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::{check_gradient, dot};

    #[test]
    fn gradients() {
        let mut random = Random::new(4, 4);
        let (tokens, inputs, outputs, rank) = (3, 5, 7, 2);
        let mut normal = |len| random.normal(len, 1.0);
        let (x, a, b, dy) =
            (normal(tokens * inputs), normal(rank * inputs), normal(outputs * rank), normal(tokens * outputs));
        let objective = |x: &[f32], a: &[f32], b: &[f32]| {
            let mut y = vec![0.0; tokens * outputs];
            LowRank { a, b, rank, scaling: 0.5 }.add_to(x, &mut y);
            dot(&y, &dy)
        };
        let (mut dx, mut da, mut db) = (vec![0.0; x.len()], vec![0.0; a.len()], vec![0.0; b.len()]);
        LowRank { a: &a, b: &b, rank, scaling: 0.5 }.backward(&x, &dy, &mut dx, &mut da, &mut db);
        check_gradient(&x, &dx, 1e-2, |x| objective(x, &a, &b));
        check_gradient(&a, &da, 1e-2, |a| objective(&x, a, &b));
        check_gradient(&b, &db, 1e-2, |b| objective(&x, &a, b));
    }

    #[test]
    fn by_hand() {
        // A = [1 2], B = [3; −1], x = [1, 1]: low = 3, y += 2 · [9, −3]
        let mut y = [1.0, 1.0];
        LowRank { a: &[1.0, 2.0], b: &[3.0, -1.0], rank: 1, scaling: 2.0 }.add_to(&[1.0, 1.0], &mut y);
        assert_eq!(y, [19.0, -5.0]);
    }
}
