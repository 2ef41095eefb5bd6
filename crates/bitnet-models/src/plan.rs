//! Bytes a model needs, computed before anything is allocated.

use crate::names::{BlockRole, Projection, Role};
use crate::state::{Buffers, StateShape};
use crate::weights::{Loader, WeightBytes};
use crate::{Config, LoadOptions, ModelError, adapter};
use bitnet_formats::Checkpoint;
use std::cell::Cell;
use std::convert::Infallible;

/// Bytes a model needs, as computed before anything is allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights used in place from the memory map.
    pub mapped_weights: u64,
    /// Weights that are converted or copied at load.
    pub owned_weights: u64,
    /// KV cache.
    pub kv: u64,
    /// Activation buffers.
    pub activations: u64,
}

impl MemoryPlan {
    /// The plan of a checkpoint before it is loaded, for a state of the given shape. Weights that are converted at
    /// load are converted (and dropped one by one) to count them.
    ///
    /// # Errors
    /// As for [`Model::load`](crate::Model::load), except for what only a backend can notice.
    pub fn of(checkpoint: &Checkpoint, options: &LoadOptions, shape: StateShape) -> Result<MemoryPlan, ModelError> {
        let (config, notes) = Config::read(checkpoint, options)?;
        let mut loader = Loader::new(checkpoint, &config, options, notes);
        loader.embedding()?;
        loader.head()?;
        loader.norm(Role::FinalNorm, config.hidden)?;
        loader.rope_factors()?;
        for layer in 0..config.layers {
            let mut norms = vec![(BlockRole::AttentionNorm, config.hidden), (BlockRole::FfnNorm, config.hidden)];
            if config.qk_norms {
                norms.extend([(BlockRole::QueryNorm, config.head_dim), (BlockRole::KeyNorm, config.head_dim)]);
            }
            if config.sub_norms {
                norms.push((BlockRole::AttentionSubNorm, config.query_width()));
                norms.push((BlockRole::FfnSubNorm, config.ffn));
            }
            if config.post_norms {
                norms.extend([(BlockRole::PostAttentionNorm, config.hidden), (BlockRole::PostFfnNorm, config.hidden)]);
            }
            if config.in_norm_eps.is_some() {
                norms.extend(Projection::ALL.map(|p| (BlockRole::InNorm(p), config.projection_shape(p).1)));
            }
            for (role, len) in norms {
                loader.norm(Role::Block(layer, role), len)?;
            }
            for projection in Projection::ALL {
                loader.projection(layer, projection)?;
            }
        }
        loader.finish()?;
        if let Some(path) = &options.lora {
            adapter::read(path, &config)?.iter().for_each(|weights| loader.bytes.adapt(weights));
        }
        Ok(MemoryPlan::new(&config, &loader.bytes, shape))
    }

    /// The sum over weights that were loaded and a state of the given shape.
    pub(crate) fn new(config: &Config, weights: &WeightBytes, shape: StateShape) -> MemoryPlan {
        let activations = Cell::new(0u64);
        let count = |bytes: usize| {
            activations.set(activations.get().saturating_add(bytes as u64));
            Ok::<(), Infallible>(())
        };
        let mut rows = |capacity: usize, cols: usize| count(capacity.saturating_mul(cols).saturating_mul(4));
        let mut int8 = |capacity: usize, cols: usize| count(capacity.saturating_mul(int8_row(cols)));
        let Ok(_) = Buffers::new(config, weights, shape, &mut rows, &mut int8);
        let kv = shape.kv(config);
        let _ = count(kv.working_bytes());
        MemoryPlan {
            mapped_weights: weights.mapped,
            owned_weights: weights.owned,
            kv: kv.bytes() as u64,
            activations: activations.get(),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        [self.mapped_weights, self.owned_weights, self.kv, self.activations].iter().fold(0, |a, &b| a.saturating_add(b))
    }
}

/// Of two models together.
impl std::ops::Add for MemoryPlan {
    type Output = MemoryPlan;

    fn add(self, other: MemoryPlan) -> MemoryPlan {
        MemoryPlan {
            mapped_weights: self.mapped_weights.saturating_add(other.mapped_weights),
            owned_weights: self.owned_weights.saturating_add(other.owned_weights),
            kv: self.kv.saturating_add(other.kv),
            activations: self.activations.saturating_add(other.activations),
        }
    }
}

/// Bytes of one int8 row on the CPU: codes padded to 256 columns and a cache line, a scale, a sum, and a sum per 32 columns.
fn int8_row(cols: usize) -> usize {
    let padded = cols.saturating_add(255) / 256 * 256 + 64;
    padded + 8 + padded / 32 * 4
}
