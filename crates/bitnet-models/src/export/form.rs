//! What an export writes.

use crate::ModelError;
use crate::names::Naming;
use bitnet_formats::{Encoding, FormatError, I2sLayout};
use std::fmt;
use std::str::FromStr;

/// What an export writes. By name: an encoding for GGUF (`i2_s`, `tq2_0`, `f16` …), `hf` or `hf-packed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One GGUF file with the projections in this encoding: ternary for ternary models; F32, F16, BF16 … for dense ones.
    Gguf(Encoding),
    /// A Hugging Face directory with the float weights that the input has: master weights, which are ternarised at load
    /// (`autobitlinear`, online) and can be trained, or those of a dense model.
    HfFloat,
    /// A Hugging Face directory with packed codes and a scale beside each (`autobitlinear`, offline).
    HfPacked,
}

impl Form {
    /// How tensors are called.
    pub(super) fn naming(self) -> Naming {
        match self {
            Form::Gguf(_) => Naming::Gguf,
            Form::HfFloat | Form::HfPacked => Naming::HuggingFace { model_prefix: true, gemma: false },
        }
    }

    /// Refuses encodings that the form does not have.
    pub(super) fn check(self, embedding: Option<Encoding>) -> Result<(), ModelError> {
        match self {
            Form::Gguf(encoding) => [Some(encoding), embedding].into_iter().flatten().try_for_each(storable),
            Form::HfFloat | Form::HfPacked => match embedding {
                None | Some(Encoding::F32 | Encoding::F16 | Encoding::BF16) => Ok(()),
                Some(encoding) => Err(ModelError::Config(format!(
                    "a Hugging Face directory has no {encoding}; choose F32, F16 or BF16 for the embedding"
                ))),
            },
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Form::Gguf(encoding) => write!(f, "{encoding}"),
            Form::HfFloat => f.write_str("hf"),
            Form::HfPacked => f.write_str("hf-packed"),
        }
    }
}

impl FromStr for Form {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text.to_ascii_lowercase().as_str() {
            "hf" => Ok(Form::HfFloat),
            "hf-packed" => Ok(Form::HfPacked),
            _ => text.parse().map(Form::Gguf),
        }
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
