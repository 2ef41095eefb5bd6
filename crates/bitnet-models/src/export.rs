//! Export: any checkpoint that can be loaded → one GGUF file in a chosen encoding.
//!
//! [`Export::plan`] does the whole conversion once without writing, so that every tensor's fate is known before a byte
//! is on disk; [`Export::write`] does it again, tensor by tensor, in bounded memory. Ternary weights are never rounded:
//! where an encoding cannot hold them the plan says why and what to choose instead.

mod metadata;
mod tensor;
mod verify;

pub use verify::{Likeness, compare_logits};

use crate::inventory::Inventory;
use crate::names::{BlockRole, Naming, Projection, Role};
use crate::rope::HeadRows;
use crate::{Config, LoadOptions, ModelError, Tokenizer};
use bitnet_formats::gguf::{self, Metadata, TensorSource};
use bitnet_formats::{Checkpoint, Encoding, FormatError, I2sLayout, Tensor};
use std::cell::Cell;
use std::path::Path;
use tensor::Content;

/// Choices for an export.
#[derive(Clone, Copy)]
pub struct ExportOptions<'a> {
    /// Encoding of the projections. Ternary for ternary models; F32, F16, BF16 … for dense ones.
    pub encoding: Encoding,
    /// Encoding of the embedding table and the head. `None`: F16 where that is exact, else as stored.
    pub embedding: Option<Encoding>,
    /// Tokenizer to store. `None`: the checkpoint's own.
    pub tokenizer: Option<&'a Tokenizer>,
    /// How the input is read.
    pub load: &'a LoadOptions,
}

/// A planned conversion.
pub struct Export<'a> {
    metadata: Metadata,
    tensors: Vec<PlannedTensor<'a>>,
    notes: Vec<String>,
}

/// What becomes of one tensor.
#[derive(Debug)]
pub struct PlannedTensor<'a> {
    /// Name in the GGUF file.
    pub name: String,
    /// Name in the input (empty for a tensor that is computed from metadata).
    pub source: &'a str,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Encoding in the input.
    pub from: Encoding,
    /// Encoding in the GGUF file.
    pub to: Encoding,
    /// Bytes in the GGUF file; 0 if it cannot be made.
    pub bytes: u64,
    /// What the conversion does to the values.
    pub outcome: Outcome,
    content: Content<'a>,
}

/// What a conversion does to the values of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The network computes with the same values as before.
    Exact,
    /// Master weights became the codes and the scale that the loader makes of them.
    Ternarised,
    /// Floats were rounded, because this encoding was asked for.
    Rounded {
        /// Largest absolute difference.
        largest_error: f32,
    },
    /// The encoding cannot hold the tensor.
    Impossible {
        /// Why, and what to choose instead.
        reason: String,
    },
}

impl<'a> Export<'a> {
    /// Reads the configuration, finds every tensor and tries its conversion.
    ///
    /// # Errors
    /// Metadata or tensors that a loader would refuse. Tensors that the chosen encoding cannot hold are no error here
    /// but [`Outcome::Impossible`].
    pub fn plan(checkpoint: &'a Checkpoint, options: &ExportOptions<'_>) -> Result<Export<'a>, ModelError> {
        for encoding in [Some(options.encoding), options.embedding].into_iter().flatten() {
            storable(encoding)?;
        }
        let (config, mut notes) = Config::read(checkpoint, options.load)?;
        let mut planner =
            Planner { inventory: Inventory::new(checkpoint, &config), config: &config, options, tensors: Vec::new() };
        planner.all(&mut notes)?;
        let tensors = planner.tensors;
        // After the tensors: from here on the sizes of the configuration are those of real tensors.
        let metadata = metadata::of(checkpoint, &config, options, &mut notes)?;
        Ok(Export { metadata, tensors, notes })
    }

    /// The tensors in the order of the file.
    pub fn tensors(&self) -> &[PlannedTensor<'a>] {
        &self.tensors
    }

    /// Key–value pairs of the file.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Remarks worth showing to a person.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// True when the output computes bit for bit what the input does.
    pub fn is_exact(&self) -> bool {
        self.tensors.iter().all(|t| matches!(t.outcome, Outcome::Exact | Outcome::Ternarised))
    }

    /// Writes the file: to a temporary name, then `check` on it, then the rename. `progress` hears bytes done and in
    /// all; when it returns false, the next tensor is not made and nothing is left behind.
    ///
    /// # Errors
    /// A plan with an impossible tensor, an output that cannot be written, or what `check` returns.
    pub fn write(
        &self,
        path: &Path,
        progress: &mut dyn FnMut(u64, u64) -> bool,
        check: &mut dyn FnMut(&Path) -> Result<(), FormatError>,
    ) -> Result<(), ModelError> {
        let mut impossible = self.tensors.iter().filter_map(|t| match &t.outcome {
            Outcome::Impossible { reason } => Some((t, reason)),
            _ => None,
        });
        if let Some((first, reason)) = impossible.next() {
            let others = match impossible.count() {
                0 => String::new(),
                n => format!(" (and {n} more tensors)"),
            };
            return Err(ModelError::Config(format!("{} cannot be converted: {reason}{others}", first.name)));
        }
        let go_on = Cell::new(true);
        let sources = self.tensors.iter().map(|t| TensorSource {
            name: t.name.clone(),
            shape: t.shape.clone(),
            encoding: t.to,
            bytes: Box::new(|| match go_on.get() {
                true => t.content.make(t.to).map(|(bytes, _)| bytes),
                false => Err(FormatError::Cancelled),
            }),
        });
        let mut progress = |done, all| go_on.set(progress(done, all));
        Ok(gguf::write(path, &self.metadata, sources.collect(), &mut progress, check)?)
    }
}

/// Encodings that a GGUF file can say it has, and that weights may have.
fn storable(encoding: Encoding) -> Result<(), ModelError> {
    match encoding {
        Encoding::F32 | Encoding::F16 | Encoding::BF16 | Encoding::Q8_0 | Encoding::Q4_0 | Encoding::Q6K => Ok(()),
        Encoding::I2S(I2sLayout::X86) | Encoding::Tq1_0 | Encoding::Tq2_0 => Ok(()),
        Encoding::Q2_0 | Encoding::Q2_0Legacy | Encoding::Pq2_0 => Ok(()),
        Encoding::I2S(_) => {
            let reason = "nothing in a file says that its I2_S has another layout than the published one; choose I2_S";
            Err(ModelError::Config(format!("{encoding} is not written: {reason}")))
        }
        _ => Err(ModelError::Config(format!(
            "{encoding} is not written to GGUF; choose I2_S, TQ1_0, TQ2_0, Q2_0 or PQ2_0 for ternary weights, F32, F16, \
             BF16, Q8_0, Q6_K or Q4_0 for others"
        ))),
    }
}

/// Walks the tensors of a network.
struct Planner<'a, 'o> {
    inventory: Inventory<'a, 'o>,
    config: &'o Config,
    options: &'o ExportOptions<'o>,
    tensors: Vec<PlannedTensor<'a>>,
}

impl<'a> Planner<'a, '_> {
    fn all(&mut self, notes: &mut Vec<String>) -> Result<(), ModelError> {
        let config = self.config;
        self.table(Role::Embedding, notes)?;
        if !config.tied_head && (config.pooling.is_none() || self.inventory.find(Role::Head).is_some()) {
            self.table(Role::Head, notes)?;
        } else if let Some(head) = self.inventory.find(Role::Head) {
            notes.push(format!("{} is left out: the config says that embedding and head are one", head.name));
        }
        self.norm(Role::FinalNorm, config.hidden)?;
        self.rope_factors()?;
        for layer in 0..config.layers {
            for role in BlockRole::NORMS {
                self.block_norm(layer, role)?;
            }
            for projection in Projection::ALL {
                self.block_norm(layer, BlockRole::InNorm(projection))?;
                self.projection(layer, projection)?;
            }
        }
        self.inventory.finish()
    }

    fn add(&mut self, role: Role, source: Option<&'a Tensor>, shape: Vec<usize>, to: Encoding, content: Content<'a>) {
        let (bytes, outcome) = match content.make(to) {
            Ok((bytes, outcome)) => (bytes.len() as u64, outcome),
            Err(error) => (0, Outcome::Impossible { reason: error.to_string() }),
        };
        self.tensors.push(PlannedTensor {
            name: Naming::Gguf.name(role).unwrap_or_default(),
            source: source.map_or("", |t| &t.name),
            shape,
            from: source.map_or(to, |t| t.encoding),
            to,
            bytes,
            outcome,
            content,
        });
    }

    /// Norms are F32 in GGUF.
    fn norm(&mut self, role: Role, len: usize) -> Result<(), ModelError> {
        let (tensor, values) = self.inventory.norm(role, len)?;
        self.add(role, Some(tensor), vec![len], Encoding::F32, Content::Values(values));
        Ok(())
    }

    fn block_norm(&mut self, layer: usize, role: BlockRole) -> Result<(), ModelError> {
        role.norm_width(self.config).map_or(Ok(()), |width| self.norm(Role::Block(layer, role), width))
    }

    fn rope_factors(&mut self) -> Result<(), ModelError> {
        let (source, values) = self.inventory.rope_factors()?.unzip();
        if let Some(values) = values.or_else(|| metadata::rope_factors(self.config)) {
            self.add(Role::RopeFactors, source, vec![values.len()], Encoding::F32, Content::Values(values));
        }
        Ok(())
    }

    /// The embedding table or the head.
    fn table(&mut self, role: Role, notes: &mut Vec<String>) -> Result<(), ModelError> {
        let tensor = self.inventory.require(role)?;
        let shape = [self.config.vocab, self.config.hidden];
        self.inventory.expect_shape(tensor, shape[0], shape[1])?;
        let content = Content::Dense { tensor, order: None };
        let to = match self.options.embedding {
            Some(encoding) => encoding,
            None if matches!(tensor.encoding, Encoding::BF16 | Encoding::F32) => {
                if matches!(content.make(Encoding::F16), Ok((_, Outcome::Exact))) {
                    Encoding::F16
                } else {
                    let (name, from) = (&tensor.name, tensor.encoding);
                    notes.push(format!("{name} stays {from}: F16 cannot hold all of its values"));
                    from
                }
            }
            None => tensor.encoding,
        };
        self.add(role, Some(tensor), shape.to_vec(), to, content);
        Ok(())
    }

    fn projection(&mut self, layer: usize, projection: Projection) -> Result<(), ModelError> {
        let role = Role::Block(layer, BlockRole::Weight(projection));
        let (tensor, held) = self.inventory.projection(layer, projection)?;
        let (rows, cols) = self.config.projection_shape(projection);
        let order = HeadRows::of(self.inventory.checkpoint, self.config, projection);
        let content = tensor::projection(tensor, held, rows, cols, self.config, self.options.load, order)
            .map_err(|reason| self.inventory.refuse(tensor, reason))?;
        self.add(role, Some(tensor), vec![rows, cols], self.options.encoding, content);
        Ok(())
    }
}
