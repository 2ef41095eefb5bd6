//! The tensors of a checkpoint by what they are for, and the rules by which small ones are read: the same for loading
//! and for export.

use crate::ModelError;
use crate::config::{Config, ProjectionForm};
use crate::names::{BlockRole, Naming, Projection, Role};
use bitnet_formats::{Checkpoint, Encoding, FormatError, Tensor};
use std::collections::BTreeSet;

/// How the tensor of a projection is to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Held {
    /// HF-packed codes with this direct scale.
    HfPacked { scale: f32 },
    /// Master weights.
    Master,
    /// As the encoding says, times a factor that stands beside.
    AsStored { factor: Option<f32> },
    /// Floats that stay floats.
    Float,
}

/// Finds tensors and remembers which were asked for.
#[derive(Clone)]
pub(crate) struct Inventory<'a, 'c> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) config: &'c Config,
    naming: Naming,
    taken: BTreeSet<&'a str>,
}

impl<'a, 'c> Inventory<'a, 'c> {
    pub(crate) fn new(checkpoint: &'a Checkpoint, config: &'c Config) -> Self {
        Inventory { checkpoint, config, naming: Naming::of(checkpoint, config.post_norms), taken: BTreeSet::new() }
    }

    /// Takes over what a clone was asked for.
    pub(crate) fn join(&mut self, part: Self) {
        self.taken.extend(part.taken);
    }

    pub(crate) fn find(&mut self, role: Role) -> Option<&'a Tensor> {
        let tensor = self.naming.candidates(role).iter().find_map(|name| self.checkpoint.tensors.get(name))?;
        self.taken.insert(&tensor.name);
        Some(tensor)
    }

    pub(crate) fn require(&mut self, role: Role) -> Result<&'a Tensor, ModelError> {
        self.find(role).ok_or_else(|| {
            self.refuse_name(self.name(role), format!("missing; a {} model needs it", self.config.architecture))
        })
    }

    /// The name of a tensor in the file's own naming.
    pub(crate) fn name(&self, role: Role) -> String {
        self.naming.name(role).unwrap_or_else(|| format!("{role:?}"))
    }

    pub(crate) fn refuse(&self, tensor: &Tensor, reason: impl Into<String>) -> ModelError {
        self.refuse_name(tensor.name.clone(), reason.into())
    }

    fn refuse_name(&self, tensor: String, reason: String) -> ModelError {
        let path = &self.checkpoint.path;
        let file = if path.as_os_str().is_empty() { "<memory>".into() } else { path.display().to_string() };
        FormatError::Tensor { file, tensor, reason }.into()
    }

    pub(crate) fn expect_shape(&self, tensor: &Tensor, rows: usize, cols: usize) -> Result<(), ModelError> {
        if tensor.shape == [rows, cols] {
            return Ok(());
        }
        Err(self.refuse(tensor, format!("shape {:?}, but the metadata implies [{rows}, {cols}]", tensor.shape)))
    }

    fn expect_float(&self, tensor: &Tensor) -> Result<(), ModelError> {
        if is_float(tensor.encoding) {
            return Ok(());
        }
        Err(self.refuse(tensor, format!("encoded as {}, expected F32, F16 or BF16", tensor.encoding)))
    }

    /// A short vector of floats.
    fn vector(&self, tensor: &Tensor, len: usize) -> Result<Vec<f32>, ModelError> {
        let (rows, cols) = tensor.matrix();
        if rows.checked_mul(cols) != Some(len) {
            return Err(self.refuse(tensor, format!("shape {:?}, expected {len} values", tensor.shape)));
        }
        self.finite(tensor, 1, len)
    }

    /// The values of a float tensor, none of them NaN or infinite.
    pub(crate) fn finite(&self, tensor: &Tensor, rows: usize, cols: usize) -> Result<Vec<f32>, ModelError> {
        self.expect_float(tensor)?;
        let values = tensor.encoding.decode(&tensor.bytes, rows, cols)?;
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(i) => Err(self.refuse(tensor, format!("value {i} is {}: the file is damaged", values[i]))),
        }
    }

    /// A norm of `len` channels, and where it stands. Gemma's lack a one in HF checkpoints, except those inside
    /// projections.
    pub(crate) fn norm(&mut self, role: Role, len: usize) -> Result<(&'a Tensor, Vec<f32>), ModelError> {
        let tensor = self.require(role)?;
        let mut weight = self.vector(tensor, len)?;
        if self.config.offset_norms && !matches!(role, Role::Block(_, BlockRole::InNorm(_))) {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        Ok((tensor, weight))
    }

    /// Divisors of the rotary frequencies, if the file has them.
    pub(crate) fn rope_factors(&mut self) -> Result<Option<(&'a Tensor, Vec<f32>)>, ModelError> {
        let Some(tensor) = self.find(Role::RopeFactors) else { return Ok(None) };
        let factors = self.vector(tensor, self.config.rope_dim / 2)?;
        if factors.iter().any(|&f| f <= 0.0) {
            return Err(self.refuse(tensor, "rotary factors must be above zero"));
        }
        Ok(Some((tensor, factors)))
    }

    /// A projection of a block: a tensor of the right shape, and how it is to be read.
    pub(crate) fn projection(
        &mut self,
        layer: usize,
        projection: Projection,
    ) -> Result<(&'a Tensor, Held), ModelError> {
        let tensor = self.require(Role::Block(layer, BlockRole::Weight(projection)))?;
        let scale = Role::Block(layer, BlockRole::Scale(projection));
        let (rows, cols) = self.config.projection_shape(projection);
        if self.config.float_projections.contains(&(layer, projection)) {
            self.expect_float(tensor)?;
            self.expect_shape(tensor, rows, cols)?;
            return Ok((tensor, Held::Float));
        }
        let held = match self.config.projections {
            ProjectionForm::HfPacked { inverse_scale } => {
                let beside = self.require(scale)?;
                let scale = self.scale(beside)?;
                if tensor.encoding != Encoding::U8 {
                    let reason = format!("holds {}, but other projections are packed (uint8)", tensor.encoding);
                    return Err(self.refuse(tensor, reason));
                }
                self.expect_shape(tensor, rows.div_ceil(4), cols)?;
                return Ok((tensor, Held::HfPacked { scale: if inverse_scale { 1.0 / scale } else { scale } }));
            }
            ProjectionForm::Master => match self.find(scale) {
                None => {
                    self.expect_float(tensor)?;
                    Held::Master
                }
                // transformers saves unpacked codes like this; absmean would put its own scale in place of theirs
                Some(scale) => {
                    return Err(self.refuse(
                        scale,
                        "stands beside weights that are not packed (uint8): is their scale inside or not? Use the \
                         original packed checkpoint or the master weights",
                    ));
                }
            },
            ProjectionForm::AsStored => {
                let factor = self.find(scale).map(|scale| self.scale(scale)).transpose()?;
                Held::AsStored { factor }
            }
        };
        self.expect_shape(tensor, rows, cols)?;
        Ok((tensor, held))
    }

    /// The scale beside a projection.
    fn scale(&self, tensor: &Tensor) -> Result<f32, ModelError> {
        let value = self.vector(tensor, 1)?[0];
        if value > 0.0 && (1.0 / value).is_finite() {
            return Ok(value);
        }
        Err(self.refuse(tensor, format!("scale is {value}, expected a finite number above zero")))
    }

    /// Every tensor must have been used: one that the architecture does not know (a bias, another norm) would be
    /// missing from the results.
    pub(crate) fn finish(&self) -> Result<(), ModelError> {
        let harmless = |name: &str| name.ends_with("rotary_emb.inv_freq");
        let mut left = self.checkpoint.tensors.values().filter(|t| !self.taken.contains(t.name.as_str()));
        match left.find(|t| !harmless(&t.name)) {
            None => Ok(()),
            Some(tensor) => Err(self.refuse(
                tensor,
                format!(
                    "not part of a {} model as known here; leaving it out would give wrong results",
                    self.config.architecture
                ),
            )),
        }
    }
}

/// F32, F16 or BF16.
pub(crate) fn is_float(encoding: Encoding) -> bool {
    matches!(encoding, Encoding::F32 | Encoding::F16 | Encoding::BF16)
}
