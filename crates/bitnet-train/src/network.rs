//! The network: float master weights under their Hugging Face names, and what is multiplied with in one step.

use crate::lora::Lora;
use crate::matmul::{Operand, Packed, Values};
use crate::ops::{Rotations, Rounding, ternary_values};
use crate::pass::Pass;
use crate::random::Random;
use crate::{Family, ModelRecipe, TrainError};
use rayon::prelude::*;
use std::collections::BTreeSet;

/// Standard deviation of first weights, as in BitNet b1.58 2B-4T.
const DEVIATION: f64 = 0.02;

/// A weight and its gradient.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub(crate) name: String,
    /// `[channels]` of a norm, `[outputs, inputs]` of a matrix.
    pub(crate) dims: Vec<usize>,
    pub(crate) values: Vec<f32>,
    pub(crate) gradient: Vec<f32>,
}

impl Param {
    /// The name of the module whose weight it is.
    pub(crate) fn module(&self) -> &str {
        self.name.trim_end_matches(".weight")
    }
}

/// Where the weights of a block stand among all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) attention_norm: usize,
    pub(crate) query: usize,
    pub(crate) key: usize,
    pub(crate) value: usize,
    pub(crate) output: usize,
    pub(crate) ffn_norm: usize,
    pub(crate) gate: usize,
    pub(crate) up: usize,
    pub(crate) down: usize,
    pub(crate) attention_sub_norm: Option<usize>,
    pub(crate) ffn_sub_norm: Option<usize>,
}

impl Block {
    /// The projections that are fed with each of the four inputs.
    pub(crate) fn by_input(&self) -> [Vec<usize>; 4] {
        [vec![self.query, self.key, self.value], vec![self.output], vec![self.gate, self.up], vec![self.down]]
    }
}

/// The embedding table, which is the output head too.
pub(crate) const TABLE: usize = 0;

/// Float master weights.
pub struct Network {
    pub(crate) recipe: ModelRecipe,
    pub(crate) vocab: usize,
    pub(crate) params: Vec<Param>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) final_norm: usize,
    pub(crate) rotations: Rotations,
    /// Projections that stay floats in a ternary network, by the index of their parameter.
    pub(crate) floats: BTreeSet<usize>,
    /// A side-car: then its parameters, which stand after all others, are the only ones that are trained.
    pub(crate) lora: Option<Lora>,
}

impl Network {
    /// Random weights: a function of the seed.
    pub fn new(recipe: &ModelRecipe, vocab: usize, seed: u64) -> Network {
        let m = recipe;
        let (queries, keys) = (m.heads * m.head_dim, m.kv_heads * m.head_dim);
        let mut params: Vec<Param> = Vec::new();
        let mut add = |name: String, dims: &[usize]| {
            let len = dims.iter().product();
            let values = match dims.len() {
                1 => vec![1.0; len],
                // purposes of the data order are epochs, counted from 1
                _ => Random::new(seed, u64::MAX - params.len() as u64).normal(len, DEVIATION),
            };
            let name = format!("model.{name}.weight");
            params.push(Param { name, dims: dims.to_vec(), values, gradient: vec![0.0; len] });
            params.len() - 1
        };
        add("embed_tokens".into(), &[vocab, m.hidden]);
        let sub_norms = m.family == Family::Bitnet;
        let mut block = |layer: usize| {
            let mut add = |name: &str, dims: &[usize]| add(format!("layers.{layer}.{name}"), dims);
            Block {
                attention_norm: add("input_layernorm", &[m.hidden]),
                query: add("self_attn.q_proj", &[queries, m.hidden]),
                key: add("self_attn.k_proj", &[keys, m.hidden]),
                value: add("self_attn.v_proj", &[keys, m.hidden]),
                output: add("self_attn.o_proj", &[m.hidden, queries]),
                ffn_norm: add("post_attention_layernorm", &[m.hidden]),
                gate: add("mlp.gate_proj", &[m.ffn, m.hidden]),
                up: add("mlp.up_proj", &[m.ffn, m.hidden]),
                down: add("mlp.down_proj", &[m.hidden, m.ffn]),
                attention_sub_norm: sub_norms.then(|| add("self_attn.attn_sub_norm", &[queries])),
                ffn_sub_norm: sub_norms.then(|| add("mlp.ffn_sub_norm", &[m.ffn])),
            }
        };
        let blocks = (0..m.layers).map(&mut block).collect();
        let final_norm = add("norm".into(), &[m.hidden]);
        let rotations = Rotations::new(m.context, m.head_dim, m.rope_theta);
        Network {
            recipe: recipe.clone(),
            vocab,
            params,
            blocks,
            final_norm,
            rotations,
            floats: BTreeSet::new(),
            lora: None,
        }
    }

    /// The parameters that move.
    pub(crate) fn trained(&self) -> &[Param] {
        &self.params[self.lora.as_ref().map_or(0, |lora| lora.first)..]
    }

    pub(crate) fn trained_mut(&mut self) -> &mut [Param] {
        &mut self.params[self.lora.as_ref().map_or(0, |lora| lora.first)..]
    }

    /// Weights in all that are trained.
    pub fn parameters(&self) -> usize {
        self.trained().iter().map(|param| param.values.len()).sum()
    }

    /// Floating-point operations of forward and backward pass per token: six per weight of a matrix, four of a frozen one, and twelve per
    /// channel of attention and position (Chowdhery et al. 2022, appendix B).
    pub fn flops_per_token(&self) -> f64 {
        // the gradient of a frozen projection is not computed
        let per_weight = |param: &Param| if param.gradient.is_empty() { 4 } else { 6 };
        let matrices = self.params.iter().filter(|param| param.dims.len() == 2);
        let weights: usize = matrices.map(|param| per_weight(param) * param.values.len()).sum();
        let m = &self.recipe;
        weights as f64 + 12.0 * (m.layers * m.heads * m.head_dim * m.context) as f64
    }

    /// Logits `[tokens, vocab]` of a text, with full quantisation: what the exported model computes, within
    /// float order.
    ///
    /// # Errors
    /// More tokens than the context, ids outside of the vocabulary, weights that are not finite.
    pub fn logits(&self, ids: &[u32]) -> Result<Vec<f32>, TrainError> {
        if ids.len() > self.recipe.context || ids.iter().any(|&id| id as usize >= self.vocab) {
            let (context, vocab) = (self.recipe.context, self.vocab);
            return Err(TrainError::Recipe(format!("expected at most {context} ids below {vocab}")));
        }
        let weights = Weights::new(self, 1.0)?;
        Ok(Pass::default().logits(self, &weights, ids))
    }
}

/// A matrix as one step multiplies with it: ternary, and packed for both directions.
pub(crate) struct Matrix {
    /// Factor of all values.
    pub(crate) scale: f32,
    /// Of the values, and of what they are multiplied with.
    pub(crate) rounding: Rounding,
    /// For `x · Wᵀ`.
    pub(crate) forward: Packed,
    /// For `dy · W`.
    pub(crate) backward: Packed,
}

/// All matrices of one step, by the index of their parameter; norms have none.
pub(crate) struct Weights {
    matrices: Vec<Option<Matrix>>,
}

impl Weights {
    /// Quantises and packs all matrices; `share` of quantisation.
    pub(crate) fn new(network: &Network, share: f32) -> Result<Weights, TrainError> {
        let rounding = Rounding::new(network.recipe.ternary, share);
        let pack = |(index, param): (usize, &Param)| {
            let &[rows, cols] = &param.dims[..] else { return Ok(None) };
            if network.lora.as_ref().is_some_and(|lora| index >= lora.first) {
                return Ok(None); // computed in floats
            }
            // the head stays in full precision
            let float = index == TABLE || network.floats.contains(&index);
            let rounding = if float { Rounding::Float } else { rounding };
            let (values, scale) = ternary_values(&param.values, rows, cols, rounding)
                .map_err(|e| TrainError::Weights { name: param.name.clone(), reason: e.to_string() })?;
            let (mut forward, mut backward) = (Packed::default(), Packed::default());
            forward.pack(&Operand::rows(Values::Bf16(&values), rows, cols));
            backward.pack(&Operand::columns(Values::Bf16(&values), rows, cols));
            Ok(Some(Matrix { scale, rounding, forward, backward }))
        };
        let matrices = network.params.par_iter().enumerate().map(pack).collect::<Result<_, TrainError>>()?;
        Ok(Weights { matrices })
    }

    /// The matrix of a parameter.
    ///
    /// # Panics
    /// If the parameter is a norm: an error in the network's code.
    pub(crate) fn matrix(&self, param: usize) -> &Matrix {
        self.matrices[param].as_ref().expect("a matrix, not a norm")
    }
}
