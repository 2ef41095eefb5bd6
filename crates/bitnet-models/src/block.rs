//! One decoder block: its weights, and how projections that share an input are applied.

use crate::ModelError;
use crate::adapter::{LowRank, LowRankRows, LowRankWeights};
use crate::config::Config;
use crate::names::{BlockRole, Projection, Role};
use crate::state::{Input, Inputs};
use crate::weights::{Loader, Matrix};
use bitnet_kernels::{Activation, Backend};
use std::panic::resume_unwind;
use std::{array, thread};

/// The weights of a decoder block.
pub(crate) struct Block<B: Backend> {
    pub(crate) attention_norm: B::Norm,
    pub(crate) qkv: Group<B>,
    pub(crate) query_key_norms: Option<(B::Norm, B::Norm)>,
    pub(crate) attention_sub_norm: Option<B::Norm>,
    pub(crate) output: Group<B>,
    pub(crate) post_attention_norm: Option<B::Norm>,
    pub(crate) ffn_norm: B::Norm,
    pub(crate) gate_up: Group<B>,
    pub(crate) ffn_sub_norm: Option<B::Norm>,
    pub(crate) down: Group<B>,
    pub(crate) post_ffn_norm: Option<B::Norm>,
    pub(crate) window: Option<usize>,
}

/// Threads that convert weights at load. Each holds one matrix in f32 at most, so more would cost memory.
const CONVERTERS: usize = 4;

impl<B: Backend> Block<B> {
    /// All blocks, converted side by side where weights need conversion.
    pub(crate) fn load_all(loader: &mut Loader<'_>, config: &Config, backend: &B) -> Result<Vec<Self>, ModelError> {
        // one on systems that cannot tell, among them those without threads
        let threads = thread::available_parallelism().map_or(1, usize::from).min(CONVERTERS).min(config.layers);
        if threads < 2 {
            return (0..config.layers).map(|layer| Self::load(loader, config, backend, layer)).collect();
        }
        let mut parts = Vec::with_capacity(threads);
        thread::scope(|scope| {
            let start = |first: usize| {
                let mut part = loader.fork();
                scope.spawn(move || {
                    let layers = (first..config.layers).step_by(threads);
                    let blocks = layers.map(|layer| Self::load(&mut part, config, backend, layer)).collect();
                    (blocks, part)
                })
            };
            let workers: Vec<_> = (0..threads).map(start).collect();
            for worker in workers {
                let (blocks, part) = worker.join().unwrap_or_else(|panic| resume_unwind(panic));
                let blocks: Result<Vec<_>, ModelError> = blocks;
                loader.join(part);
                parts.push(blocks?.into_iter());
            }
            Ok::<_, ModelError>(())
        })?;
        Ok((0..config.layers).filter_map(|layer| parts[layer % threads].next()).collect())
    }

    /// Its matrices.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear<B>> {
        [&self.qkv, &self.output, &self.gate_up, &self.down].into_iter().flat_map(|group| match &group.matrices {
            Matrices::Together(linear) => vec![linear],
            Matrices::Apart(linears) => linears.iter().map(|(_, linear)| linear).collect(),
        })
    }

    /// Puts the matrices of a side-car beside their projection.
    pub(crate) fn adapt(&mut self, weights: LowRankWeights, backend: &B) -> Result<(), ModelError> {
        let (group, index) = match weights.projection {
            Projection::Query => (&mut self.qkv, 0),
            Projection::Key => (&mut self.qkv, 1),
            Projection::Value => (&mut self.qkv, 2),
            Projection::Output => (&mut self.output, 0),
            Projection::Gate => (&mut self.gate_up, 0),
            Projection::Up => (&mut self.gate_up, 1),
            Projection::Down => (&mut self.down, 0),
        };
        group.adapters.push((index, LowRank::load(weights, backend)?));
        Ok(())
    }

    fn load(loader: &mut Loader<'_>, config: &Config, backend: &B, layer: usize) -> Result<Self, ModelError> {
        let mut build = Builder { loader, config, backend, layer };
        let (query_norm, key_norm) = (build.norm(BlockRole::QueryNorm)?, build.norm(BlockRole::KeyNorm)?);
        Ok(Block {
            attention_norm: norm(build.loader, backend, Role::Block(layer, BlockRole::AttentionNorm), config.hidden)?,
            qkv: build.group(&[Projection::Query, Projection::Key, Projection::Value])?,
            query_key_norms: query_norm.zip(key_norm),
            attention_sub_norm: build.norm(BlockRole::AttentionSubNorm)?,
            output: build.group(&[Projection::Output])?,
            post_attention_norm: build.norm(BlockRole::PostAttentionNorm)?,
            ffn_norm: norm(build.loader, backend, Role::Block(layer, BlockRole::FfnNorm), config.hidden)?,
            gate_up: build.group(&[Projection::Gate, Projection::Up])?,
            ffn_sub_norm: build.norm(BlockRole::FfnSubNorm)?,
            down: build.group(&[Projection::Down])?,
            post_ffn_norm: build.norm(BlockRole::PostFfnNorm)?,
            window: config.sliding.as_ref().filter(|_| config.slides(layer)).map(|sliding| sliding.window),
        })
    }
}

/// Hands the tensors of one block to the backend.
struct Builder<'a, 'c, B: Backend> {
    loader: &'a mut Loader<'c>,
    config: &'a Config,
    backend: &'a B,
    layer: usize,
}

impl<B: Backend> Builder<'_, '_, B> {
    /// A norm, where this network has one.
    fn norm(&mut self, role: BlockRole) -> Result<Option<B::Norm>, ModelError> {
        let Some(width) = role.norm_width(self.config) else { return Ok(None) };
        norm(self.loader, self.backend, Role::Block(self.layer, role), width).map(Some)
    }

    fn group(&mut self, projections: &[Projection]) -> Result<Group<B>, ModelError> {
        let mut norms = Vec::new();
        let mut linears = Vec::new();
        for &projection in projections {
            norms.extend(self.norm(BlockRole::InNorm(projection))?);
            let role = Role::Block(self.layer, BlockRole::Weight(projection));
            let linear = match self.loader.projection(self.layer, projection)? {
                Matrix::Ternary(weights) => self.backend.ternary(weights).map(|w| Linear::Ternary(vec![w])),
                Matrix::Dense(weights) => self.backend.dense(weights).map(|w| Linear::Dense(vec![w])),
            };
            linears.push(linear.map_err(|e| self.loader.refused(role, e))?);
        }
        Ok(Group::of(norms, linears))
    }
}

/// Hands a norm to the backend.
pub(crate) fn norm<B: Backend>(
    loader: &mut Loader<'_>,
    backend: &B,
    role: Role,
    len: usize,
) -> Result<B::Norm, ModelError> {
    let weight = loader.norm(role, len)?;
    backend.norm_weight(weight).map_err(|e| loader.refused(role, e))
}

/// Matrices of one kind that go through one call.
pub(crate) enum Linear<B: Backend> {
    Ternary(Vec<B::Ternary>),
    Dense(Vec<B::Dense>),
}

/// Projections that share their input, and side-cars by the number of their projection.
pub(crate) struct Group<B: Backend> {
    matrices: Matrices<B>,
    adapters: Vec<(usize, LowRank<B>)>,
}

enum Matrices<B: Backend> {
    /// All see the same int8 (or float) rows: one call.
    Together(Linear<B>),
    /// Each has a norm of its own, or ternary and dense ones are mixed: one call each.
    Apart(Vec<(Option<B::Norm>, Linear<B>)>),
}

impl<B: Backend> Group<B> {
    /// Merges matrices of one kind; `norms` are empty or one per matrix.
    fn of(norms: Vec<B::Norm>, linears: Vec<Linear<B>>) -> Self {
        let all_ternary = linears.iter().all(|l| matches!(l, Linear::Ternary(_)));
        let all_dense = linears.iter().all(|l| matches!(l, Linear::Dense(_)));
        let matrices = if norms.is_empty() && (all_ternary || all_dense) {
            let (mut ternary, mut dense) = (Vec::new(), Vec::new());
            for linear in linears {
                match linear {
                    Linear::Ternary(weights) => ternary.extend(weights),
                    Linear::Dense(weights) => dense.extend(weights),
                }
            }
            Matrices::Together(if all_ternary { Linear::Ternary(ternary) } else { Linear::Dense(dense) })
        } else {
            let norms = norms.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
            Matrices::Apart(norms.zip(linears).collect())
        };
        Group { matrices, adapters: Vec::new() }
    }

    /// The ternary matrices, if one call does it all.
    fn all_ternary(&self) -> Option<&[B::Ternary]> {
        match &self.matrices {
            Matrices::Together(Linear::Ternary(weights)) if self.adapters.is_empty() => Some(weights),
            _ => None,
        }
    }

    /// `outs[i] = norm(x) · weights[i]ᵀ`, with the projection's own norm in between where it has one, and its side-car beside it.
    pub(crate) fn apply<const N: usize>(
        &self,
        backend: &B,
        x: &B::Rows,
        norm: Option<&B::Norm>,
        input: &mut Input<B>,
        lora: &mut LowRankRows<B::Rows>,
        mut outs: [&mut B::Rows; N],
    ) {
        let Inputs { normed, inner, int8 } = input;
        match &self.matrices {
            Matrices::Together(linear) => linear.apply(backend, x, norm, normed, int8, &mut outs),
            Matrices::Apart(linears) => {
                let x = normed_rows(backend, x, norm, normed);
                for ((in_norm, linear), out) in linears.iter().zip(&mut outs) {
                    linear.apply(backend, x, in_norm.as_ref(), inner, int8, &mut [&mut **out]);
                }
            }
        }
        if !self.adapters.is_empty() {
            let x = normed_rows(backend, x, norm, normed);
            for (index, adapter) in &self.adapters {
                adapter.add_to(backend, x, lora, outs[*index]);
            }
        }
    }

    /// `out += norm(x) · weightᵀ` for the only matrix, with `branch` in between where that takes two steps.
    #[allow(clippy::too_many_arguments)] // the operands of a step
    pub(crate) fn add_to(
        &self,
        backend: &B,
        x: &B::Rows,
        norm: Option<&B::Norm>,
        input: &mut Input<B>,
        lora: &mut LowRankRows<B::Rows>,
        branch: &mut B::Rows,
        out: &mut B::Rows,
    ) {
        if let Some(weights) = self.all_ternary() {
            backend.norm_quantize(x, norm, &mut input.int8);
            return backend.ternary_add(&input.int8, &weights[0], branch, out);
        }
        self.apply(backend, x, norm, input, lora, [&mut *branch]);
        backend.add(out, branch);
    }

    /// `gate = activation(gate projection) · up projection` of the two matrices, with `up` in between where that takes two
    /// steps.
    #[allow(clippy::too_many_arguments)] // the operands of a step
    pub(crate) fn gated(
        &self,
        backend: &B,
        x: &B::Rows,
        norm: &B::Norm,
        input: &mut Input<B>,
        lora: &mut LowRankRows<B::Rows>,
        activation: Activation,
        [gate, up]: [&mut B::Rows; 2],
    ) {
        if let Some(weights) = self.all_ternary() {
            backend.norm_quantize(x, Some(norm), &mut input.int8);
            return backend.ternary_gated(&input.int8, [&weights[0], &weights[1]], activation, gate, up);
        }
        self.apply(backend, x, Some(norm), input, lora, [&mut *gate, &mut *up]);
        backend.gated_activation(activation, gate, up);
    }
}

/// The rows after a norm, or as they are.
fn normed_rows<'a, B: Backend>(
    backend: &B,
    x: &'a B::Rows,
    norm: Option<&B::Norm>,
    normed: &'a mut B::Rows,
) -> &'a B::Rows {
    match norm {
        Some(norm) => {
            backend.norm(x, norm, normed);
            normed
        }
        None => x,
    }
}

impl<B: Backend> Linear<B> {
    fn apply<const N: usize>(
        &self,
        backend: &B,
        x: &B::Rows,
        norm: Option<&B::Norm>,
        normed: &mut B::Rows,
        int8: &mut B::Quantized,
        outs: &mut [&mut B::Rows; N],
    ) {
        match self {
            Linear::Ternary(weights) => {
                backend.norm_quantize(x, norm, int8);
                backend.ternary_matmul(int8, &array::from_fn::<_, N, _>(|i| &weights[i]), outs);
            }
            Linear::Dense(weights) => {
                let x = normed_rows(backend, x, norm, normed);
                backend.dense_matmul(x, &array::from_fn::<_, N, _>(|i| &weights[i]), outs);
            }
        }
    }
}
