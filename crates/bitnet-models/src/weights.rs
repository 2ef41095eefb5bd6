//! From the tensors of a checkpoint to weights as a backend takes them: used in place where the bytes allow it,
//! converted otherwise, and nothing in the file left unread by accident.

use crate::config::{Activations, Config};
use crate::inventory::{Held, Inventory, is_float};
use crate::names::{BlockRole, Projection, Role};
use crate::rope::HeadRows;
use crate::{LoadOptions, ModelError};
use bitnet_formats::{Checkpoint, Encoding, I2sLayout, Scales, Tensor, Ternary};
use bitnet_kernels::{
    DenseFormat, DenseWeights, KernelError, NormWeight, TernaryScales, TernaryWeights, selection_bytes,
};
use half::{bf16, f16};

/// Dense tensors up to this size are searched for NaN and infinity at load; in bigger ones (embeddings) that would
/// cost a pass over memory, and the engine notices NaN logits.
const SEARCHED_BYTES: usize = 4 << 20;

/// Output heads from this size on get memory for selections, unless the options say otherwise.
const SELECTED_BYTES: usize = 64 << 20;

/// A weight matrix on its way to the backend.
pub(crate) enum Matrix {
    Ternary(TernaryWeights),
    Dense(DenseWeights),
}

/// Bytes of weights handed out so far, and what feeds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WeightBytes {
    /// Used from the memory map.
    pub(crate) mapped: u64,
    /// Converted or copied.
    pub(crate) owned: u64,
    /// Read for one decoded token.
    pub(crate) per_token: u64,
    /// Of these, in the output head.
    pub(crate) head: u64,
    /// Some projection takes int8.
    pub(crate) int8: bool,
    /// Some projection takes floats.
    pub(crate) float: bool,
    /// Rank of the side-car; 0 without one.
    pub(crate) lora_rank: usize,
}

/// Hands out the tensors of a checkpoint by what they are for.
pub(crate) struct Loader<'a> {
    inventory: Inventory<'a, 'a>,
    config: &'a Config,
    i2s_layout: Option<I2sLayout>,
    select_head: Option<bool>,
    pub(crate) notes: Vec<String>,
    pub(crate) bytes: WeightBytes,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        config: &'a Config,
        options: &LoadOptions,
        notes: Vec<String>,
    ) -> Loader<'a> {
        let inventory = Inventory::new(checkpoint, config);
        let &LoadOptions { i2s_layout, select_head, .. } = options;
        Loader { inventory, config, i2s_layout, select_head, notes, bytes: WeightBytes::default() }
    }

    /// A loader of the same checkpoint for another thread.
    pub(crate) fn fork(&self) -> Loader<'a> {
        let &Loader { ref inventory, config, i2s_layout, select_head, .. } = self;
        let (notes, bytes) = Default::default();
        Loader { inventory: inventory.clone(), config, i2s_layout, select_head, notes, bytes }
    }

    /// Takes over what a forked loader has handed out.
    pub(crate) fn join(&mut self, part: Loader<'a>) {
        self.inventory.join(part.inventory);
        part.notes.into_iter().for_each(|note| self.note_once(note));
        let WeightBytes { mapped, owned, per_token, head, int8, float, lora_rank: _ } = part.bytes;
        self.bytes.mapped += mapped;
        self.bytes.owned += owned;
        self.bytes.per_token += per_token;
        self.bytes.head += head;
        self.bytes.int8 |= int8;
        self.bytes.float |= float;
    }

    /// A tensor that the backend does not take.
    pub(crate) fn refused(&self, role: Role, source: KernelError) -> ModelError {
        ModelError::Weights { tensor: self.inventory.name(role), source }
    }

    /// A norm of `len` channels.
    pub(crate) fn norm(&mut self, role: Role, len: usize) -> Result<NormWeight, ModelError> {
        let (_, weight) = self.inventory.norm(role, len)?;
        let inner = matches!(role, Role::Block(_, BlockRole::InNorm(_)));
        let eps = match self.config.in_norm_eps {
            Some(eps) if inner => eps,
            _ => self.config.norm_eps,
        };
        self.bytes.owned += 4 * len as u64;
        self.bytes.per_token += 4 * len as u64;
        Ok(NormWeight { weight, eps })
    }

    /// Divisors of the rotary frequencies, if the file has them.
    pub(crate) fn rope_factors(&mut self) -> Result<Option<Vec<f32>>, ModelError> {
        Ok(self.inventory.rope_factors()?.map(|(_, factors)| factors))
    }

    /// The embedding table `[vocab, hidden]`.
    pub(crate) fn embedding(&mut self) -> Result<DenseWeights, ModelError> {
        let tensor = self.inventory.require(Role::Embedding)?;
        let table = self.table(tensor)?;
        if self.config.tied_head {
            self.count_head(&table);
        }
        self.bytes.per_token += table.bytes.len() as u64 / self.config.vocab as u64; // one row is gathered
        Ok(table)
    }

    /// The output head `[vocab, hidden]`; `None` when it is the embedding table.
    pub(crate) fn head(&mut self) -> Result<Option<DenseWeights>, ModelError> {
        if self.config.tied_head {
            if let Some(tensor) = self.inventory.find(Role::Head) {
                self.notes.push(format!("{} is ignored: the config says that embedding and head are one", tensor.name));
            }
            return Ok(None);
        }
        let tensor = match self.inventory.find(Role::Head) {
            Some(tensor) => tensor,
            None if self.config.pooling.is_some() => return Ok(None), // an embedding model needs no head
            None => self.inventory.require(Role::Head)?,
        };
        let table = self.table(tensor)?;
        self.count_head(&table);
        Ok(Some(table))
    }

    fn count_head(&mut self, head: &DenseWeights) {
        let bytes = head.bytes.len() as u64;
        self.bytes.per_token += bytes;
        self.bytes.head += bytes;
        if self.selects(head) {
            self.bytes.owned += selection_bytes(head) as u64;
        }
    }

    /// Whether an output head gets memory for selections.
    pub(crate) fn selects(&self, head: &DenseWeights) -> bool {
        let used = self.config.pooling.is_none(); // embedding models have no use for logits
        used && self.select_head.unwrap_or(head.bytes.len() >= SELECTED_BYTES)
    }

    fn table(&mut self, tensor: &'a Tensor) -> Result<DenseWeights, ModelError> {
        let (rows, cols) = (self.config.vocab, self.config.hidden);
        self.inventory.expect_shape(tensor, rows, cols)?;
        if matches!(tensor.encoding, Encoding::I2S(_)) {
            return Err(self.inventory.refuse(
                tensor,
                "embeddings and heads in I2_S are a converter's accident and give no usable model: convert again with \
                 embeddings in F16",
            ));
        }
        if tensor.encoding.is_ternary() {
            let ternary = tensor.encoding.decode_ternary(&tensor.bytes, rows, cols, None)?;
            return self.float_ternary(tensor, &ternary);
        }
        self.dense(tensor, rows, cols)
    }

    /// A projection of a block.
    pub(crate) fn projection(&mut self, layer: usize, projection: Projection) -> Result<Matrix, ModelError> {
        let (tensor, held) = self.inventory.projection(layer, projection)?;
        let (rows, cols) = self.config.projection_shape(projection);
        let order = HeadRows::of(self.inventory.checkpoint, self.config, projection);
        let codes = match held {
            Held::HfPacked { scale } => {
                Some(Encoding::HfPacked.decode_ternary(&tensor.bytes, rows, cols, Some(scale))?)
            }
            Held::Master => Some(Ternary::absmean(&self.inventory.finite(tensor, rows, cols)?, rows, cols)?),
            Held::AsStored { .. } | Held::Float => None,
        };
        let mut matrix = match (codes, order) {
            (Some(mut ternary), order) => {
                if let Some(order) = order {
                    ternary.codes = order.apply(&ternary.codes, cols);
                }
                self.fed(tensor, ternary)?
            }
            (None, Some(order)) => self.reordered(tensor, held, order, rows, cols)?,
            (None, None) => self.stored(tensor, held, rows, cols)?,
        };
        if let Held::AsStored { factor: Some(factor) } = held {
            matrix = self.rescaled(tensor, matrix, factor)?;
        }
        self.bytes.per_token += matrix.bytes();
        match matrix {
            Matrix::Ternary(_) => self.bytes.int8 = true,
            Matrix::Dense(_) => self.bytes.float = true,
        }
        Ok(matrix)
    }

    /// A projection whose rows are brought into another order first, which takes a copy.
    fn reordered(
        &mut self,
        tensor: &Tensor,
        held: Held,
        order: HeadRows,
        rows: usize,
        cols: usize,
    ) -> Result<Matrix, ModelError> {
        let bytes = order.apply(&tensor.bytes, tensor.encoding.byte_len(1, cols)?).into();
        let mapped = self.bytes.mapped;
        let matrix = self.stored(&Tensor { bytes, ..tensor.clone() }, held, rows, cols)?;
        self.bytes.owned += self.bytes.mapped - mapped;
        self.bytes.mapped = mapped;
        Ok(matrix)
    }

    /// A projection whose encoding says what it holds.
    fn stored(&mut self, tensor: &Tensor, held: Held, rows: usize, cols: usize) -> Result<Matrix, ModelError> {
        if matches!(held, Held::Float) {
            self.note_once("some projections stay floats, as config.json says: fed with floats".into());
            return self.dense(tensor, rows, cols).map(Matrix::Dense);
        }
        let int8 = self.config.activations == Activations::Int8;
        if tensor.encoding.is_ternary() {
            if let Some(matrix) = self.in_place(tensor, rows, cols) {
                return Ok(matrix);
            }
            let ternary = self.encoding(tensor).decode_ternary(&tensor.bytes, rows, cols, None)?;
            return self.fed(tensor, ternary);
        }
        if int8 && is_float(tensor.encoding) {
            // a BitNet in floats: either unpacked codes times scale, or master weights
            let values = self.inventory.finite(tensor, rows, cols)?;
            let ternary = match Ternary::detect(&values, rows, cols) {
                Some(ternary) => ternary,
                None => {
                    self.note_once("projections hold master weights: ternarised by absmean".into());
                    Ternary::absmean(&values, rows, cols)?
                }
            };
            return self.fed(tensor, ternary);
        }
        if int8 {
            self.note_once(format!("some projections are {}, not ternary: fed with floats", tensor.encoding));
        } else if looks_ternary(tensor, cols) {
            // TriLM: floats that are all −s, 0 or s take an eighth of the memory as codes
            let values = self.inventory.finite(tensor, rows, cols)?;
            if let Some(ternary) = Ternary::detect(&values, rows, cols).filter(|t| t.tensor_scale().is_some()) {
                return self.fed(tensor, ternary);
            }
        }
        self.dense(tensor, rows, cols).map(Matrix::Dense)
    }

    /// An I2_S tensor whose bytes are used as they lie in the file.
    fn in_place(&mut self, tensor: &Tensor, rows: usize, cols: usize) -> Option<Matrix> {
        if self.encoding(tensor) != Encoding::I2S(I2sLayout::X86) || !cols.is_multiple_of(128) {
            return None;
        }
        let codes = rows.checked_mul(cols)? / 4;
        let scale = tensor.bytes.get(codes..codes + 4)?;
        match self.config.activations {
            Activations::Int8 => {
                self.bytes.mapped += codes as u64;
                self.bytes.owned += 4;
                let scales = TernaryScales::Tensor(f32::from_le_bytes(scale.try_into().ok()?));
                Some(Matrix::Ternary(TernaryWeights { rows, cols, codes: tensor.bytes.slice(..codes), scales }))
            }
            Activations::Float => {
                self.bytes.mapped += codes as u64 + 4;
                let bytes = tensor.bytes.slice(..codes + 4);
                Some(Matrix::Dense(DenseWeights { rows, cols, format: DenseFormat::Ternary, bytes }))
            }
        }
    }

    /// Ternary weights in the form that the model's activations want.
    fn fed(&mut self, tensor: &Tensor, ternary: Ternary) -> Result<Matrix, ModelError> {
        match self.config.activations {
            Activations::Int8 => self.packed(tensor, ternary),
            Activations::Float => self.float_ternary(tensor, &ternary).map(Matrix::Dense),
        }
    }

    /// The tensor's encoding, with the layout that the user says I2_S has.
    fn encoding(&self, tensor: &Tensor) -> Encoding {
        match (tensor.encoding, self.i2s_layout) {
            (Encoding::I2S(_), Some(layout)) => Encoding::I2S(layout),
            (encoding, _) => encoding,
        }
    }

    /// Codes and scales, packed as backends want them.
    fn packed(&mut self, tensor: &Tensor, ternary: Ternary) -> Result<Matrix, ModelError> {
        let Ternary { rows, cols, codes, scales } = ternary;
        let scales = match scales {
            Scales::Tensor(scale) => TernaryScales::Tensor(scale),
            Scales::Groups { len, values } => TernaryScales::Groups { len, values },
        };
        let packed = TernaryWeights::pack(&codes, rows, cols, scales)
            .map_err(|source| ModelError::Weights { tensor: tensor.name.clone(), source })?;
        let matrix = Matrix::Ternary(packed);
        self.bytes.owned += matrix.bytes();
        Ok(matrix)
    }

    /// A matrix of a dense encoding, used in place.
    fn dense(&mut self, tensor: &Tensor, rows: usize, cols: usize) -> Result<DenseWeights, ModelError> {
        let format = match tensor.encoding {
            Encoding::F32 => DenseFormat::F32,
            Encoding::F16 => DenseFormat::F16,
            Encoding::BF16 => DenseFormat::BF16,
            Encoding::Q8_0 => DenseFormat::Q8_0,
            Encoding::Q4_0 => DenseFormat::Q4_0,
            Encoding::Q4K => DenseFormat::Q4K,
            Encoding::Q6K => DenseFormat::Q6K,
            other => return Err(self.inventory.refuse(tensor, format!("encoding {other} cannot hold weights"))),
        };
        self.search(tensor)?;
        self.bytes.mapped += tensor.bytes.len() as u64;
        Ok(DenseWeights { rows, cols, format, bytes: tensor.bytes.clone() })
    }

    /// Ternary weights that are multiplied with float activations.
    fn float_ternary(&mut self, tensor: &Tensor, ternary: &Ternary) -> Result<DenseWeights, ModelError> {
        let &Ternary { rows, cols, ref codes, .. } = ternary;
        if let Some(scale) = ternary.tensor_scale() {
            let packed = TernaryWeights::pack(codes, rows, cols, TernaryScales::Tensor(scale))
                .map_err(|source| ModelError::Weights { tensor: tensor.name.clone(), source })?;
            let mut bytes = Vec::from(packed.codes);
            bytes.extend(scale.to_le_bytes());
            self.bytes.owned += bytes.len() as u64;
            return Ok(DenseWeights { rows, cols, format: DenseFormat::Ternary, bytes: bytes.into() });
        }
        // one scale per group: every value is ±scale or 0, so f16 holds them exactly when it holds the scales
        let values = ternary.to_f32();
        let exact = values.iter().all(|&v| f16::from_f32(v).to_f32() == v);
        let (format, bytes) = if exact {
            (DenseFormat::F16, values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect::<Vec<u8>>())
        } else {
            (DenseFormat::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect())
        };
        self.note_once(format!("ternary weights with group scales and float activations are held as {format:?}"));
        self.bytes.owned += bytes.len() as u64;
        Ok(DenseWeights { rows, cols, format, bytes: bytes.into() })
    }

    /// Applies the scale that mainline BitNet files may keep beside a projection.
    fn rescaled(&self, tensor: &Tensor, matrix: Matrix, factor: f32) -> Result<Matrix, ModelError> {
        match matrix {
            Matrix::Ternary(mut ternary) => {
                match &mut ternary.scales {
                    TernaryScales::Tensor(s) => *s *= factor,
                    TernaryScales::Groups { values, .. } => values.iter_mut().for_each(|s| *s *= factor),
                }
                Ok(Matrix::Ternary(ternary))
            }
            Matrix::Dense(_) => {
                Err(self.inventory.refuse(tensor, "a scale beside weights that are used as floats is not supported"))
            }
        }
    }

    /// Looks for NaN and infinity in small float tensors: the exponent is all ones.
    fn search(&self, tensor: &Tensor) -> Result<(), ModelError> {
        if tensor.bytes.len() > SEARCHED_BYTES {
            return Ok(());
        }
        let bytes = &tensor.bytes;
        let bad = match tensor.encoding {
            Encoding::F32 => bytes.chunks_exact(4).any(|b| !f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite()),
            Encoding::F16 => bytes.chunks_exact(2).any(|b| !f16::from_le_bytes([b[0], b[1]]).is_finite()),
            Encoding::BF16 => bytes.chunks_exact(2).any(|b| !bf16::from_le_bytes([b[0], b[1]]).is_finite()),
            _ => false,
        };
        if bad {
            return Err(self.inventory.refuse(tensor, "holds NaN or infinity: the file is damaged"));
        }
        Ok(())
    }

    fn note_once(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Refuses a checkpoint with tensors that were not used.
    pub(crate) fn finish(&self) -> Result<(), ModelError> {
        self.inventory.finish()
    }
}

impl Matrix {
    /// Resident bytes: codes or values, and scales.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Matrix::Ternary(ternary) => {
                let scales = match &ternary.scales {
                    TernaryScales::Tensor(_) => 1,
                    TernaryScales::Groups { values, .. } => values.len(),
                };
                (ternary.codes.len() + 4 * scales) as u64
            }
            Matrix::Dense(dense) => dense.bytes.len() as u64,
        }
    }
}

/// A cheap first look: the first row of a float tensor holds one magnitude besides zero.
fn looks_ternary(tensor: &Tensor, cols: usize) -> bool {
    if !is_float(tensor.encoding) {
        return false;
    }
    let Ok(bytes) = tensor.encoding.byte_len(1, cols) else { return false };
    let Some(Ok(row)) = tensor.bytes.get(..bytes).map(|row| tensor.encoding.decode(row, 1, cols)) else { return false };
    let mut magnitudes = row.iter().map(|w| w.abs()).filter(|&w| w > 0.0);
    magnitudes.next().is_some_and(|first| magnitudes.all(|w| w == first))
}

#[cfg(test)]
mod golden;
