//! A model that exists, as the beginning of a run or as its teacher: shape and weights of a Hugging Face directory.

use crate::network::Network;
use crate::ops::NORM_EPS;
use crate::{Family, ModelRecipe, TrainError};
use bitnet_formats::{Checkpoint, Source};
use bitnet_kernels::Activation;
use bitnet_models::names::Projection;
use bitnet_models::{Activations, Config, LoadOptions, ProjectionForm, RopeScaling};
use std::path::Path;

impl ModelRecipe {
    /// The shape of the model in a Hugging Face directory.
    ///
    /// # Errors
    /// No such directory, packed weights, and networks that the trainer does not have.
    pub fn of(dir: &Path) -> Result<ModelRecipe, TrainError> {
        open(dir).map(|(_, shape)| shape)
    }
}

fn open(dir: &Path) -> Result<(Checkpoint, ModelRecipe), TrainError> {
    let error = |reason: String| TrainError::Model { path: dir.to_owned(), reason };
    let checkpoint = Checkpoint::open(dir).map_err(|e| error(e.to_string()))?;
    if !matches!(checkpoint.source, Source::HuggingFace(_)) {
        return Err(error(
            "is no Hugging Face directory. Training starts from master weights, which model.safetensors holds".into(),
        ));
    }
    let (config, _) = Config::read(&checkpoint, &LoadOptions::default()).map_err(|e| error(e.to_string()))?;
    let family = match config.activation {
        Activation::Relu2 if config.sub_norms => Family::Bitnet,
        Activation::Silu if !config.sub_norms => Family::Llama,
        activation => {
            return Err(error(format!(
                "a network with {activation:?} and sub_norms = {} cannot be trained",
                config.sub_norms
            )));
        }
    };
    let plain = !config.qk_norms
        && !config.post_norms
        && !config.offset_norms
        && config.in_norm_eps.is_none()
        && config.sliding.is_none()
        && config.pooling.is_none();
    let all_float = config.float_projections.len() == config.layers * Projection::ALL.len();
    for (fits, what) in [
        (plain, "norms of queries and keys or after projections, a sliding window or pooling"),
        (config.tied_head, "a head of its own beside the embedding"),
        (
            config.rope_scaling == RopeScaling::None && config.rope_dim == config.head_dim,
            "stretched or partial rotation",
        ),
        (config.norm_eps == NORM_EPS, "another epsilon of norms than 1e-5"),
        (config.embed_scale == 1.0, "a scaled embedding"),
        (config.float_projections.is_empty() || all_float, "projections that stay floats beside ternary ones"),
        (!matches!(config.projections, ProjectionForm::HfPacked { .. }), "packed weights: the master weights are lost"),
    ] {
        if !fits {
            return Err(error(format!("has {what}, which the trainer cannot start from")));
        }
    }
    let shape = ModelRecipe {
        family,
        ternary: config.projections == ProjectionForm::Master && config.activations == Activations::Int8 && !all_float,
        hidden: config.hidden,
        ffn: config.ffn,
        layers: config.layers,
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        context: config.context,
        rope_theta: config.rope_theta,
    };
    Ok((checkpoint, shape))
}

impl Network {
    /// Takes the weights of the model in `dir`, which must have this network's shape (its context and whether it is ternary
    /// may differ).
    pub(crate) fn take(&mut self, dir: &Path) -> Result<(), TrainError> {
        let error = |reason: String| TrainError::Model { path: dir.to_owned(), reason };
        let (checkpoint, shape) = open(dir)?;
        let ModelRecipe { ternary, context, .. } = self.recipe;
        let same = ModelRecipe { ternary, context, ..shape.clone() };
        if same != self.recipe {
            return Err(error(format!("is another network:\n{shape:?}\nthe recipe says\n{:?}", self.recipe)));
        }
        if shape.context < context {
            return Err(error(format!("was trained for {} positions, the recipe has {context}", shape.context)));
        }
        for param in &mut self.params {
            let found = checkpoint.tensors.get(&param.name).ok_or_else(|| error(format!("has no {}", param.name)))?;
            if found.shape != param.dims {
                return Err(error(format!("{} is {:?}, expected {:?}", param.name, found.shape, param.dims)));
            }
            let (rows, cols) = found.matrix();
            param.values = found.encoding.decode(&found.bytes, rows, cols).map_err(|e| error(e.to_string()))?;
            if let Some(at) = param.values.iter().position(|x| !x.is_finite()) {
                return Err(error(format!("{}[{at}] is {}", param.name, param.values[at])));
            }
        }
        Ok(())
    }
}
