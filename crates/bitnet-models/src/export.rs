//! Export: any checkpoint that can be loaded → one GGUF file, or a Hugging Face directory.
//!
//! [`Export::plan`] finds every tensor and says what it becomes; [`Export::write`] converts them one after the other, in bounded
//! memory, checks the result and only then gives it its name. Ternary weights are never rounded: where a form cannot hold
//! them, nothing is written and the reason says what to choose instead.

mod directory;
mod form;
mod metadata;
mod tensor;
mod verify;

pub use form::Form;
pub use verify::{Likeness, compare_logits};

use crate::inventory::{Held, Inventory, is_float};
use crate::names::{BlockRole, Naming, Projection, Role};
use crate::rope::HeadRows;
use crate::{Config, LoadOptions, ModelError, RopeScaling, Tokenizer};
use bitnet_formats::gguf::{self, Metadata};
use bitnet_formats::{Checkpoint, Encoding, FormatError, I2sLayout, Tensor, TensorSource};
use directory::Directory;
use std::cell::{Cell, RefCell};
use std::path::Path;
use tensor::Content;

/// Choices for an export.
#[derive(Clone, Copy)]
pub struct ExportOptions<'a> {
    /// What is written.
    pub form: Form,
    /// Encoding of the embedding table and the head. `None`: in GGUF F16 where that is exact, else as stored.
    pub embedding: Option<Encoding>,
    /// Tokenizer to store in a GGUF file. `None`: the checkpoint's own.
    pub tokenizer: Option<&'a Tokenizer>,
    /// How the input is read.
    pub load: &'a LoadOptions,
}

/// A planned conversion.
pub struct Export<'a> {
    container: Container,
    tensors: Vec<PlannedTensor<'a>>,
    notes: Vec<String>,
}

/// What stands around the tensors.
enum Container {
    Gguf(Metadata),
    HuggingFace(Directory),
}

/// What becomes of one tensor.
#[derive(Debug)]
pub struct PlannedTensor<'a> {
    /// Name in the output.
    pub name: String,
    /// Name in the input (empty for a tensor that is computed from metadata).
    pub source: &'a str,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Encoding in the input.
    pub from: Encoding,
    /// Encoding in the output.
    pub to: Encoding,
    content: Content<'a>,
}

impl PlannedTensor<'_> {
    /// Bytes in the output; 0 where the encoding's blocks do not fit the shape.
    pub fn bytes(&self) -> u64 {
        self.byte_len().map_or(0, |bytes| bytes as u64)
    }

    fn byte_len(&self) -> Result<usize, FormatError> {
        let cols = self.shape.last().copied().unwrap_or(1);
        let rows = self.shape.iter().rev().skip(1).product();
        self.stored_as().byte_len(rows, cols)
    }

    /// The encoding as the file says it: packed codes are bytes.
    fn stored_as(&self) -> Encoding {
        if self.to == Encoding::HfPacked { Encoding::U8 } else { self.to }
    }

    /// Converts it and says what that does to the values, or why it is impossible and what to choose instead.
    ///
    /// # Errors
    /// An encoding that cannot hold the tensor; a damaged input.
    pub fn convert(&self) -> Result<Outcome, FormatError> {
        self.content.make(self.to).map(|(_, outcome)| outcome)
    }
}

/// What a conversion does to the values of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
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
}

impl<'a> Export<'a> {
    /// Reads the configuration, finds every tensor and decides its form.
    ///
    /// # Errors
    /// Metadata or tensors that a loader would refuse, and networks that the form cannot describe. Whether an encoding can hold the
    /// values of a tensor is known when it is converted.
    pub fn plan(checkpoint: &'a Checkpoint, options: &ExportOptions<'_>) -> Result<Export<'a>, ModelError> {
        options.form.check(options.embedding)?;
        let (config, mut notes) = Config::read(checkpoint, options.load)?;
        let naming = options.form.naming();
        let inventory = Inventory::new(checkpoint, &config);
        let mut planner = Planner { inventory, naming, config: &config, options, tensors: Vec::new() };
        planner.all(&mut notes)?;
        let tensors = planner.tensors;
        // After the tensors: from here on the sizes of the configuration are those of real tensors.
        let container = match options.form {
            Form::Gguf(encoding) => {
                Container::Gguf(metadata::of(checkpoint, &config, encoding, options.tokenizer, &mut notes)?)
            }
            form => Container::HuggingFace(Directory::of(checkpoint, &config, form, options.tokenizer, &mut notes)?),
        };
        Ok(Export { container, tensors, notes })
    }

    /// The tensors in the order of the file.
    pub fn tensors(&self) -> &[PlannedTensor<'a>] {
        &self.tensors
    }

    /// Key–value pairs of a GGUF file.
    pub fn metadata(&self) -> Option<&Metadata> {
        match &self.container {
            Container::Gguf(metadata) => Some(metadata),
            Container::HuggingFace(_) => None,
        }
    }

    /// Remarks worth showing to a person.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Writes the file or directory: under a temporary name, then `check` on it, then the rename. `check` also hears whether the output
    /// computes bit for bit what the input does, because no value was rounded. `progress` hears bytes done and in all; when
    /// it returns false, the next tensor is not made and nothing is left behind. Gives the outcomes in the order of
    /// [`tensors`](Self::tensors).
    ///
    /// # Errors
    /// A tensor that cannot be converted, an output that cannot be written, or what `check` returns.
    pub fn write(
        &self,
        path: &Path,
        progress: &mut dyn FnMut(u64, u64) -> bool,
        check: &mut dyn FnMut(&Path, bool) -> Result<(), FormatError>,
    ) -> Result<Vec<Outcome>, ModelError> {
        let impossible = |name: &str, error| ModelError::Config(format!("{name} cannot be converted: {error}"));
        for tensor in &self.tensors {
            tensor.byte_len().map_err(|error| impossible(&tensor.name, error))?;
        }
        let go_on = Cell::new(true);
        let outcomes = RefCell::new(Vec::with_capacity(self.tensors.len()));
        let failed = Cell::new(None);
        let make = |tensor: &PlannedTensor<'_>| {
            if !go_on.get() {
                return Err(FormatError::Cancelled);
            }
            let (bytes, outcome) = tensor.content.make(tensor.to).inspect_err(|_| {
                failed.set(Some(tensor.name.clone()));
            })?;
            outcomes.borrow_mut().push(outcome);
            Ok(bytes)
        };
        let sources = self.tensors.iter().map(|t| TensorSource {
            name: t.name.clone(),
            shape: t.shape.clone(),
            encoding: t.stored_as(),
            bytes: Box::new(|| make(t)),
        });
        let mut progress = |done, all| go_on.set(progress(done, all));
        let mut check = |written: &Path| {
            let exact = outcomes.borrow().iter().all(|o| matches!(o, Outcome::Exact | Outcome::Ternarised));
            check(written, exact)
        };
        let written = match &self.container {
            Container::Gguf(metadata) => gguf::write(path, metadata, sources.collect(), &mut progress, &mut check),
            Container::HuggingFace(directory) => directory.write(path, sources.collect(), &mut progress, &mut check),
        };
        written.map_err(|error| match failed.take() {
            Some(name) => impossible(&name, error),
            None => error.into(),
        })?;
        Ok(outcomes.into_inner())
    }
}

/// Walks the tensors of a network.
struct Planner<'a, 'o> {
    inventory: Inventory<'a, 'o>,
    naming: Naming,
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
        let odd = |tensor: &&PlannedTensor<'_>| {
            tensor.to == Encoding::I2S(I2sLayout::X86)
                && tensor.shape.last().is_some_and(|cols| !cols.is_multiple_of(128))
        };
        if let Some(tensor) = self.tensors.iter().find(odd) {
            notes.push(format!(
                "bitnet.cpp misreads I2_S whose columns are no multiple of 128, as those of {} ({:?}); this program reads it right",
                tensor.name, tensor.shape
            ));
        }
        self.inventory.finish()
    }

    fn add(&mut self, role: Role, source: Option<&'a Tensor>, shape: Vec<usize>, to: Encoding, content: Content<'a>) {
        self.tensors.push(PlannedTensor {
            name: self.naming.name(role).unwrap_or_default(),
            source: source.map_or("", |t| &t.name),
            shape,
            from: source.map_or(to, |t| t.encoding),
            to,
            content,
        });
    }

    /// Norms are F32.
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
        if !matches!(self.options.form, Form::Gguf(_)) {
            // config.json says LLaMA 3.1's stretching itself
            return match values.filter(|_| !matches!(self.config.rope_scaling, RopeScaling::Llama3 { .. })) {
                None => Ok(()),
                Some(_) => Err(ModelError::Config(
                    "config.json cannot say the divisors of rotary frequencies that this file holds; choose a GGUF form".into(),
                )),
            };
        }
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
        let gguf = matches!(self.options.form, Form::Gguf(_));
        let to = match self.options.embedding {
            Some(encoding) => encoding,
            None if !gguf => match is_float(tensor.encoding) {
                true => tensor.encoding,
                false => Encoding::F32,
            },
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
        let checkpoint = self.inventory.checkpoint;
        let order = match self.options.form {
            Form::Gguf(_) => HeadRows::of(checkpoint, self.config, projection),
            _ => HeadRows::back(checkpoint, self.config, projection),
        };
        let refuse = |this: &Self, reason| this.inventory.refuse(tensor, reason);
        let floats = matches!(held, Held::Float);
        let content = tensor::projection(tensor, held, rows, cols, self.config, self.options.load, order)
            .map_err(|reason| refuse(self, reason))?;
        match self.options.form {
            Form::Gguf(encoding) => {
                // floats would be taken for master weights of a ternary projection
                let to = if floats { Encoding::Q8_0 } else { encoding };
                self.add(role, Some(tensor), vec![rows, cols], to, content);
            }
            Form::HfPacked if floats => self.add(role, Some(tensor), vec![rows, cols], tensor.encoding, content),
            Form::HfFloat => {
                let content = content.into_stored().map_err(|reason| refuse(self, reason.into()))?;
                let to = if is_float(tensor.encoding) { tensor.encoding } else { Encoding::F32 };
                self.add(role, Some(tensor), vec![rows, cols], to, content);
            }
            Form::HfPacked => {
                if !rows.is_multiple_of(4) {
                    let reason = format!("has {rows} rows; packed weights take four in a byte: choose a GGUF form");
                    return Err(refuse(self, reason));
                }
                let (codes, scale) = content.with_scale().map_err(|reason| refuse(self, reason.into()))?;
                self.add(role, Some(tensor), vec![rows / 4, cols], Encoding::HfPacked, codes);
                let role = Role::Block(layer, BlockRole::Scale(projection));
                self.add(role, Some(tensor), vec![1], Encoding::F32, scale);
            }
        }
        Ok(())
    }
}
