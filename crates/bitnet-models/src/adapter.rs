//! LoRA side-cars (Hu et al. 2021): two float matrices of low rank beside a projection, `y += B · (A · x) · scaling`, unmerged,
//! so that the ternary weights stay what they are. The form is that of PEFT: `adapter_config.json` and
//! `adapter_model.safetensors`. `x` is what the projection gets before it is rounded to int8.

use crate::config::Config;
use crate::names::{BlockRole, Naming, Projection, Role};
use crate::rope::HeadRows;
use crate::weights::WeightBytes;
use crate::{ModelError, StateShape};
use bitnet_formats::{FormatError, Tensor, map, safetensors};
use bitnet_kernels::{Backend, DenseFormat, DenseWeights};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `adapter_config.json`, as far as it decides results.
#[derive(Deserialize)]
struct Settings {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    bias: Option<String>,
    modules_to_save: Option<Vec<String>>,
    rank_pattern: Option<BTreeMap<String, usize>>,
    alpha_pattern: Option<BTreeMap<String, f64>>,
}

impl Settings {
    /// What is here and not computed.
    fn unsupported(&self) -> Option<&'static str> {
        let patterns = self.rank_pattern.as_ref().is_some_and(|p| !p.is_empty())
            || self.alpha_pattern.as_ref().is_some_and(|p| !p.is_empty());
        [
            (self.peft_type != "LORA", "another type than LORA"),
            (self.use_dora, "use_dora"),
            (self.fan_in_fan_out, "fan_in_fan_out"),
            (self.bias.as_deref().is_some_and(|bias| bias != "none"), "biases"),
            (self.modules_to_save.as_ref().is_some_and(|modules| !modules.is_empty()), "modules_to_save"),
            (patterns, "ranks or scalings by pattern"),
        ]
        .into_iter()
        .find_map(|(found, what)| found.then_some(what))
    }

    fn scaling(&self) -> f32 {
        let rank = self.r as f64;
        (self.lora_alpha / if self.use_rslora { rank.sqrt() } else { rank }) as f32
    }
}

/// The matrices beside one projection.
pub(crate) struct LowRankWeights {
    pub(crate) layer: usize,
    pub(crate) projection: Projection,
    /// `[rank, inputs]`
    a: DenseWeights,
    /// `[outputs, rank]`, times the scaling.
    b: DenseWeights,
}

/// The files of a LoRA side-car, given its directory or its safetensors file: weights, settings.
pub fn side_car_files(path: &Path) -> [PathBuf; 2] {
    let file = if path.is_dir() { path.join("adapter_model.safetensors") } else { path.to_owned() };
    let beside = file.with_file_name("adapter_config.json");
    [file, beside]
}

/// Reads a side-car: a directory, or its safetensors file with the settings beside it. Every tensor must belong to a projection of
/// the network.
pub(crate) fn read(path: &Path, config: &Config) -> Result<Vec<LowRankWeights>, ModelError> {
    let [file, beside] = side_car_files(path);
    let name = file.display().to_string();
    let error = |reason: String| ModelError::Config(format!("{}: {reason}", beside.display()));
    let settings: Settings = serde_json::from_slice(&map(&beside)?).map_err(|e| error(e.to_string()))?;
    if let Some(what) = settings.unsupported() {
        return Err(error(format!("{what} is not supported: only plain LoRA on projections")));
    }
    let (rank, scaling) = (settings.r, settings.scaling());
    if rank == 0 || rank > config.hidden.max(config.ffn) || !scaling.is_finite() {
        return Err(error(format!(
            "r = {rank} and lora_alpha = {}: expected a rank of 1 to the network's width",
            settings.lora_alpha
        )));
    }
    let mut tensors = safetensors::parse(&name, &map(&file)?)?;
    let refuse = |tensor: &str, reason: String| {
        ModelError::from(FormatError::Tensor { file: name.clone(), tensor: tensor.to_owned(), reason })
    };
    let naming = Naming::HuggingFace { model_prefix: true, gemma: config.post_norms };
    let values = |tensor: Tensor, rows: usize, cols: usize| {
        if tensor.shape != [rows, cols] {
            let found = &tensor.shape;
            return Err(refuse(
                &tensor.name,
                format!("shape {found:?}, but this network and r = {rank} need [{rows}, {cols}]"),
            ));
        }
        let values = tensor.encoding.decode(&tensor.bytes, rows, cols)?;
        match values.iter().find(|x| !x.is_finite()) {
            Some(bad) => Err(refuse(&tensor.name, format!("holds {bad}"))),
            None => Ok(values),
        }
    };
    let mut found = Vec::new();
    for layer in 0..config.layers {
        for projection in Projection::ALL {
            let weight = naming.name(Role::Block(layer, BlockRole::Weight(projection))).unwrap_or_default();
            let stem = format!("base_model.model.{}", weight.trim_end_matches(".weight"));
            let mut take = |part: &str| tensors.remove(&format!("{stem}.{part}.weight"));
            let (a, b) = match (take("lora_A"), take("lora_B")) {
                (None, None) => continue,
                (Some(a), Some(b)) => (a, b),
                (Some(lone), None) | (None, Some(lone)) => {
                    return Err(refuse(&lone.name, "its other half (lora_A, lora_B) is missing".into()));
                }
            };
            let (rows, cols) = config.projection_shape(projection);
            let a = values(a, rank, cols)?;
            let mut b = values(b, rows, rank)?;
            b.iter_mut().for_each(|x| *x *= scaling);
            // side-cars have the rows of Hugging Face checkpoints, whatever container the network came from
            if let Some(order) = HeadRows::of_hugging_face(config, projection) {
                b = order.apply(&b, rank);
            }
            found.push(LowRankWeights { layer, projection, a: dense(rank, cols, &a), b: dense(rows, rank, &b) });
        }
    }
    if let Some((left, _)) = tensors.pop_first() {
        return Err(refuse(
            &left,
            "belongs to no projection of this network; leaving it out would give other results".into(),
        ));
    }
    if found.is_empty() {
        return Err(ModelError::Config(format!("{name}: holds no LoRA matrices")));
    }
    Ok(found)
}

fn dense(rows: usize, cols: usize, values: &[f32]) -> DenseWeights {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    DenseWeights { rows, cols, format: DenseFormat::F32, bytes: bytes.into() }
}

impl WeightBytes {
    /// Counts the matrices of a side-car.
    pub(crate) fn adapt(&mut self, weights: &LowRankWeights) {
        let bytes = (weights.a.bytes.len() + weights.b.bytes.len()) as u64;
        self.owned += bytes;
        self.per_token += bytes;
        self.lora_rank = weights.a.rows;
    }
}

/// The matrices beside one projection, on a backend.
pub(crate) struct LowRank<B: Backend> {
    projection: Projection,
    a: B::Dense,
    b: B::Dense,
}

impl<B: Backend> LowRank<B> {
    pub(crate) fn load(weights: LowRankWeights, backend: &B) -> Result<Self, ModelError> {
        let LowRankWeights { projection, a, b, .. } = weights;
        let error = |source| ModelError::Weights { tensor: format!("LoRA of {projection:?}"), source };
        Ok(LowRank { projection, a: backend.dense(a).map_err(error)?, b: backend.dense(b).map_err(error)? })
    }

    /// `out += B · (A · x)`.
    pub(crate) fn add_to(&self, backend: &B, x: &B::Rows, rows: &mut LowRankRows<B::Rows>, out: &mut B::Rows) {
        let LowRankRows { low, query, kv, hidden, ffn } = rows;
        backend.dense_matmul(x, &[&self.a], &mut [&mut *low]);
        let delta = match self.projection {
            Projection::Query => query,
            Projection::Key | Projection::Value => kv,
            Projection::Output | Projection::Down => hidden,
            Projection::Gate | Projection::Up => ffn,
        };
        backend.dense_matmul(low, &[&self.b], &mut [&mut *delta]);
        backend.add(out, delta);
    }
}

/// Scratch of side-cars; without one its buffers have no rows.
pub(crate) struct LowRankRows<R> {
    /// `[tokens, rank]`
    low: R,
    /// By the width of what is added to.
    query: R,
    kv: R,
    hidden: R,
    ffn: R,
}

impl<R> LowRankRows<R> {
    pub(crate) fn new<E>(
        config: &Config,
        rank: usize,
        shape: StateShape,
        rows: &mut impl FnMut(usize, usize) -> Result<R, E>,
    ) -> Result<Self, E> {
        let tokens = if rank > 0 { shape.max_tokens } else { 0 };
        Ok(LowRankRows {
            low: rows(tokens, rank)?,
            query: rows(tokens, config.query_width())?,
            kv: rows(tokens, config.kv_width())?,
            hidden: rows(tokens, config.hidden)?,
            ffn: rows(tokens, config.ffn)?,
        })
    }
}
