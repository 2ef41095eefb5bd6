//! Everything a run needs to go on: weights, optimiser, and where it stood. Written beside its place and renamed, so that
//! a process that dies leaves the previous one whole.

use crate::network::{Network, Param};
use crate::optimizer::{Moments, Optimizer};
use crate::whole_file::write_whole;
use crate::{Recipe, TrainError};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Optimiser steps done.
    pub(crate) step: usize,
    /// Best validation so far in bits per byte, and its step.
    pub(crate) best: Option<(f64, usize)>,
    /// Validations since the best one.
    pub(crate) without_gain: usize,
}

fn path(dir: &Path) -> PathBuf {
    dir.join("checkpoint.safetensors")
}

/// Whether `dir` holds a checkpoint.
pub(crate) fn exists(dir: &Path) -> bool {
    path(dir).exists()
}

/// Replaces the checkpoint in `dir`.
pub(crate) fn save(
    dir: &Path,
    recipe: &Recipe,
    network: &Network,
    optimizer: &Optimizer,
    progress: Progress,
) -> Result<(), TrainError> {
    let path = path(dir);
    let mut data: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    for (index, (param, moments)) in network.trained().iter().zip(&optimizer.moments).enumerate() {
        let average = optimizer.average.get(index).map_or(&[][..], Vec::as_slice);
        let Moments { mean, square } = moments;
        for (kind, values) in [("weight", &param.values[..]), ("mean", mean), ("square", square), ("average", average)]
        {
            // Muon has no squares, and not every run has a mean of its weights
            if !values.is_empty() {
                data.push((format!("{kind}.{}", param.name), param.dims.clone(), bytes(values)));
            }
        }
    }
    let json = |e: serde_json::Error| TrainError::Checkpoint { path: path.clone(), reason: e.to_string() };
    let metadata = HashMap::from([
        ("recipe".to_owned(), serde_json::to_string(recipe).map_err(json)?),
        ("progress".to_owned(), serde_json::to_string(&progress).map_err(json)?),
    ]);
    write_tensors(&path, &data, metadata)
}

/// Writes f32 tensors `(name, shape, little-endian bytes)` to a safetensors file that appears whole or not at all.
pub(crate) fn write_tensors(
    path: &Path,
    data: &[(String, Vec<usize>, Vec<u8>)],
    metadata: HashMap<String, String>,
) -> Result<(), TrainError> {
    let error = |reason: String| TrainError::Checkpoint { path: path.to_owned(), reason };
    let views = data
        .iter()
        .map(|(name, dims, bytes)| Ok((name, TensorView::new(Dtype::F32, dims.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|e| error(e.to_string()))?;
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| error(e.to_string()))?;
    write_whole(path, &bytes)
}

/// The recipe of the checkpoint in `dir`.
pub(crate) fn recipe(dir: &Path) -> Result<Recipe, TrainError> {
    let path = path(dir);
    let bytes = std::fs::read(&path).map_err(TrainError::file(&path))?;
    Saved::parse(&path, &bytes).map(|saved| saved.recipe)
}

/// A checkpoint as it lies in a file.
struct Saved<'a> {
    tensors: SafeTensors<'a>,
    recipe: Recipe,
    progress: Progress,
}

impl<'a> Saved<'a> {
    fn parse(path: &Path, bytes: &'a [u8]) -> Result<Saved<'a>, TrainError> {
        let error = |reason: String| TrainError::Checkpoint { path: path.to_owned(), reason };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| error(format!("damaged: {e}")))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| error(format!("damaged: {e}")))?;
        let info = header.metadata().clone().unwrap_or_default();
        let entry =
            |key: &str| info.get(key).ok_or_else(|| error(format!("is no checkpoint of bitnet: it has no {key}")));
        let recipe = serde_json::from_str(entry("recipe")?).map_err(|e| error(format!("recipe: {e}")))?;
        let progress = serde_json::from_str(entry("progress")?).map_err(|e| error(format!("progress: {e}")))?;
        Ok(Saved { tensors, recipe, progress })
    }
}

/// Puts a network and its optimiser back to where the checkpoint in `dir` left them.
pub(crate) fn load(
    dir: &Path,
    recipe: &Recipe,
    network: &mut Network,
    optimizer: &mut Optimizer,
) -> Result<Progress, TrainError> {
    let path = path(dir);
    let bytes = std::fs::read(&path).map_err(TrainError::file(&path))?;
    let error = |reason: String| TrainError::Checkpoint { path: path.clone(), reason };
    let Saved { tensors, recipe: saved, progress } = Saved::parse(&path, &bytes)?;
    if saved.model != recipe.model {
        return Err(error(format!(
            "belongs to another network:\n{:?}\nthe recipe says\n{:?}\nTrain into another directory",
            saved.model, recipe.model
        )));
    }
    let decides = |recipe: &Recipe| {
        let Recipe { start, lora, data, optimizer, teacher, run, .. } = recipe.clone();
        (start, lora, data, optimizer, teacher, run.seed)
    };
    if decides(&saved) != decides(recipe) {
        return Err(error(
            "was made with other data, optimiser settings or seed; a run is resumed with its own recipe. \
             Train into another directory"
                .into(),
        ));
    }
    let values = |name: String, dims: &[usize]| -> Result<Vec<f32>, TrainError> {
        let view = tensors.tensor(&name).map_err(|_| error(format!("damaged: it has no {name}")))?;
        if view.dtype() != Dtype::F32 || view.shape() != dims {
            let found = format!("{name} is {:?} {:?}, expected F32 {dims:?}", view.dtype(), view.shape());
            return Err(error(format!("{found}: it belongs to another vocabulary or network")));
        }
        let (chunks, _) = view.data().as_chunks::<4>();
        Ok(chunks.iter().map(|&b| f32::from_le_bytes(b)).collect())
    };
    for (param, moments) in network.trained_mut().iter_mut().zip(&mut optimizer.moments) {
        let Param { name, dims, values: weights, .. } = param;
        *weights = values(format!("weight.{name}"), dims)?;
        if let Some(at) = weights.iter().position(|x| !x.is_finite()) {
            return Err(error(format!("{name}[{at}] is {}", weights[at])));
        }
        moments.mean = values(format!("mean.{name}"), dims)?;
        if !moments.square.is_empty() {
            moments.square = values(format!("square.{name}"), dims)?;
        }
    }
    for (average, param) in optimizer.average.iter_mut().zip(network.trained()) {
        *average = values(format!("average.{}", param.name), &param.dims)?;
    }
    optimizer.steps = progress.step;
    Ok(progress)
}
