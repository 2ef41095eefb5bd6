//! The shape and the choices of a network. The shape comes from metadata, never from tensors; which optional tensors
//! there are and how they are encoded says what metadata leaves out (a head of its own, norms inside projections, int8).

mod gguf;
mod huggingface;
mod llama2c;

use crate::names::Projection;
use crate::{LoadOptions, ModelError, catalogue};
use bitnet_formats::{Checkpoint, Encoding, Source};
use bitnet_kernels::{Activation, RopeStyle};
use std::collections::BTreeSet;

/// More decoder blocks than this are refused: a lying header, not a network.
pub(crate) const MAX_LAYERS: usize = 512;

/// What a linear layer is fed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// Per-token absmax int8: what BitNet models are trained with.
    Int8,
    /// Floats, as trained without activation quantisation (TriLM, dense models).
    Float,
}

/// How an embedding model makes one vector of many hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The last token's state.
    Last,
    /// The mean over all tokens.
    Mean,
}

/// How rotary frequencies are stretched for contexts longer than the trained one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// As they are.
    None,
    /// All frequencies divided by a factor.
    Linear(f32),
    /// LLaMA 3.1: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// What low frequencies are divided by.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` count as low frequencies.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` count as high frequencies.
        high_freq_factor: f32,
        /// Context length before the stretch.
        original_context: f32,
    },
}

/// Blocks whose attention sees only the last positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Sliding {
    /// Positions that are seen, the token's own included.
    pub window: usize,
    /// Rotary base of these blocks.
    pub rope_theta: f32,
    /// Which blocks slide, one entry per block.
    pub layers: Vec<bool>,
}

/// What the projection tensors of the file hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProjectionForm {
    /// Each tensor's encoding says it all (GGUF, llama2.c, dense checkpoints).
    AsStored,
    /// Master weights that are ternarised by absmean at load.
    Master,
    /// HF-packed codes with a scale in `X.weight_scale`.
    HfPacked {
        /// `weight = code / scale` (`bitlinear`); otherwise `weight = code * scale` (`autobitlinear`).
        inverse_scale: bool,
    },
}

/// A decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Architecture as the file spells it (`bitnet-b1.58`, `llama`, `qwen3`, `gemma3` …).
    pub architecture: String,
    /// Name of the model, if the file or the catalogue gives one.
    pub name: Option<String>,
    /// Hidden width.
    pub hidden: usize,
    /// Feed-forward width.
    pub ffn: usize,
    /// Decoder blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Channels per head.
    pub head_dim: usize,
    /// Vocabulary entries.
    pub vocab: usize,
    /// Positions the model was trained for.
    pub context: usize,
    /// RMSNorm epsilon.
    pub norm_eps: f32,
    /// Rotary base frequency.
    pub rope_theta: f32,
    /// Channels of a head that are rotated.
    pub rope_dim: usize,
    /// Stretching of rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Rotary pairing that the network computes with. LLaMA-shaped models take that of GGUF's `llama` from every
    /// container (the loader reorders rows of Hugging Face checkpoints), so that they give the same bits from each.
    pub rope_style: RopeStyle,
    /// Blocks with a sliding window.
    pub sliding: Option<Sliding>,
    /// Gate non-linearity.
    pub activation: Activation,
    /// What ternary layers are fed with.
    pub activations: Activations,
    /// What the projection tensors hold.
    pub projections: ProjectionForm,
    /// Projections of some blocks that hold floats all the same and are fed with floats (`modules_to_not_convert`). In GGUF the encoding
    /// of a tensor says so.
    pub float_projections: BTreeSet<(usize, Projection)>,
    /// Norms in front of the output and down projections (BitNet).
    pub sub_norms: bool,
    /// Per-head norms on queries and keys (Qwen3, Gemma3).
    pub qk_norms: bool,
    /// Norms on branch outputs before the residual addition (Gemma3).
    pub post_norms: bool,
    /// Epsilon of the RMSNorm inside every projection, when the model has these norms (BitNet embedding models,
    /// `use_rms_norm`).
    pub in_norm_eps: Option<f32>,
    /// Norms are stored as `w` and applied as `1 + w` (Gemma in HF checkpoints; the norms inside projections are not).
    pub offset_norms: bool,
    /// Factor on embeddings (Gemma: `sqrt(hidden)`).
    pub embed_scale: f32,
    /// Factor on attention scores (`1 / sqrt(head_dim)` unless the model says otherwise).
    pub attention_scale: f32,
    /// The output head is the embedding table.
    pub tied_head: bool,
    /// Set for embedding models, which have no use for logits.
    pub pooling: Option<Pooling>,
}

impl Config {
    /// Reads the configuration of a checkpoint: its metadata, then the catalogue of published models, then `options`.
    /// The second value are remarks worth showing to a person.
    ///
    /// # Errors
    /// Unknown architecture, missing or contradictory metadata.
    pub fn read(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<(Config, Vec<String>), ModelError> {
        let mut notes = Vec::new();
        let mut config = match &checkpoint.source {
            Source::Gguf(metadata) => gguf::read(metadata, checkpoint, &mut notes)?,
            Source::HuggingFace(hf) => huggingface::read(hf, checkpoint, &mut notes)?,
            Source::Llama2c(header) => llama2c::read(header),
        };
        catalogue::correct(&mut config, checkpoint, &mut notes);
        if let Some(activations) = options.activations {
            config.activations = activations;
        }
        if let Some(activation) = options.activation {
            config.activation = activation;
        }
        if let (Some(inverse), ProjectionForm::HfPacked { inverse_scale }) =
            (options.inverse_scale, &mut config.projections)
        {
            *inverse_scale = inverse;
        }
        config.check()?;
        Ok((config, notes))
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Output and input features of a projection.
    pub fn projection_shape(&self, projection: Projection) -> (usize, usize) {
        match projection {
            Projection::Query => (self.query_width(), self.hidden),
            Projection::Key | Projection::Value => (self.kv_width(), self.hidden),
            Projection::Output => (self.hidden, self.query_width()),
            Projection::Gate | Projection::Up => (self.ffn, self.hidden),
            Projection::Down => (self.hidden, self.ffn),
        }
    }

    /// True for blocks with a sliding window.
    pub fn slides(&self, layer: usize) -> bool {
        self.sliding.as_ref().is_some_and(|s| s.layers.get(layer).copied().unwrap_or(false))
    }

    /// Contradictions that would end in wrong results or absurd memory (formats.md §1.4.11–12).
    fn check(&self) -> Result<(), ModelError> {
        let refuse = |reason: String| Err(ModelError::Config(format!("{} model: {reason}", self.architecture)));
        let sizes = [
            ("hidden size", self.hidden, 1 << 20),
            ("feed-forward size", self.ffn, 1 << 22),
            ("number of blocks", self.layers, MAX_LAYERS),
            ("number of heads", self.heads, 1 << 16),
            ("number of key/value heads", self.kv_heads, 1 << 16),
            ("head size", self.head_dim, 1 << 16),
            ("vocabulary size", self.vocab, 1 << 28),
            ("context length", self.context, 1 << 30),
        ];
        for (what, value, most) in sizes {
            if value == 0 || value > most {
                return refuse(format!("{what} is {value}, expected 1 to {most}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return refuse(format!("{} heads are not a multiple of {} key/value heads", self.heads, self.kv_heads));
        }
        if self.rope_dim == 0 || !self.rope_dim.is_multiple_of(2) || self.rope_dim > self.head_dim {
            let (rope, head) = (self.rope_dim, self.head_dim);
            return refuse(format!("{rope} rotary channels, expected an even number up to the head size {head}"));
        }
        let mut positive = vec![
            ("norm epsilon", self.norm_eps),
            ("rotary base", self.rope_theta),
            ("embedding scale", self.embed_scale),
            ("attention scale", self.attention_scale),
        ];
        positive.extend(self.in_norm_eps.map(|eps| ("epsilon of the norms inside projections", eps)));
        if let Some(sliding) = &self.sliding {
            positive.push(("rotary base of sliding blocks", sliding.rope_theta));
            if sliding.window == 0 || sliding.layers.len() != self.layers {
                let (window, entries) = (sliding.window, sliding.layers.len());
                return refuse(format!("sliding window of {window} positions with {entries} block entries"));
            }
        }
        match self.rope_scaling {
            RopeScaling::None => {}
            RopeScaling::Linear(factor) => positive.push(("rotary factor", factor)),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive.extend([
                    ("rotary factor", factor),
                    ("rotary low_freq_factor", low_freq_factor),
                    ("rotary high_freq_factor", high_freq_factor),
                    ("original context", original_context),
                    ("difference of high_freq_factor and low_freq_factor", high_freq_factor - low_freq_factor),
                ]);
            }
        }
        for (what, value) in positive {
            if !value.is_finite() || value <= 0.0 {
                return refuse(format!("{what} is {value}, expected a finite number above zero"));
            }
        }
        Ok(())
    }
}

/// Reads an activation's name as configs spell it.
fn activation(name: &str) -> Result<Activation, ModelError> {
    match name {
        "relu2" | "relu_squared" => Ok(Activation::Relu2),
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        _ => Err(ModelError::Config(format!(
            "activation function {name:?} is not supported (supported: relu2, silu, gelu_pytorch_tanh)"
        ))),
    }
}

/// True when a tensor of this file is I2_S: such models are trained with int8 activations.
fn holds_i2s(checkpoint: &Checkpoint) -> bool {
    checkpoint.tensors.values().any(|t| matches!(t.encoding, Encoding::I2S(_) | Encoding::Tl1(_) | Encoding::Tl2(_)))
}
