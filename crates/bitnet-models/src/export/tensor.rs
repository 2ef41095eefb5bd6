//! How the bytes of one tensor of the output are made.

use super::Outcome;
use crate::LoadOptions;
use crate::config::{Activations, Config};
use crate::inventory::{Held, is_float};
use crate::rope::HeadRows;
use bitnet_formats::{Encoding, FormatError, Scales, Tensor, Ternary};
use bytes::Bytes;
use std::cell::Cell;
use std::rc::Rc;

/// Values converted at a time.
const CHUNK: usize = 1 << 20;

/// What a tensor of the output is made of.
#[derive(Debug)]
pub(super) enum Content<'a> {
    /// Few values, already in memory.
    Values(Vec<f32>),
    /// A dense matrix.
    Dense { tensor: &'a Tensor, order: Option<HeadRows> },
    /// A matrix of codes and scales.
    Ternary { tensor: &'a Tensor, reading: Reading, rows: usize, cols: usize, order: Option<HeadRows>, scale: Scale },
    /// The scale of the codes before it.
    Scale(Scale),
}

/// The scale of codes that were made, for the tensor that comes after them.
type Scale = Rc<Cell<Option<f32>>>;

/// How codes and scales are read from a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reading {
    /// The encoding is ternary; a scale beside it is a factor.
    Encoded { encoding: Encoding, factor: Option<f32> },
    /// HF-packed codes with their direct scale.
    HfPacked { scale: f32 },
    /// Floats of the form {−s, 0, +s} if they are, otherwise master weights if `master`.
    Floats { detect: bool, master: bool },
}

/// How a projection of a model is to be read: as the loader reads it. `Err` is the reason for a refusal.
pub(super) fn projection<'a>(
    tensor: &'a Tensor,
    held: Held,
    rows: usize,
    cols: usize,
    config: &Config,
    load: &LoadOptions,
    order: Option<HeadRows>,
) -> Result<Content<'a>, String> {
    let int8 = config.activations == Activations::Int8;
    let reading = match held {
        Held::HfPacked { scale } => Reading::HfPacked { scale },
        Held::Master => Reading::Floats { detect: false, master: true },
        Held::Float => return Ok(Content::Dense { tensor, order }),
        Held::AsStored { factor } if tensor.encoding.is_ternary() => {
            let encoding = match (tensor.encoding, load.i2s_layout) {
                (Encoding::I2S(_), Some(layout)) => Encoding::I2S(layout),
                (encoding, _) => encoding,
            };
            Reading::Encoded { encoding, factor }
        }
        Held::AsStored { factor: Some(_) } => {
            return Err("a scale beside weights that are not ternary is not supported".into());
        }
        Held::AsStored { factor: None } if is_float(tensor.encoding) => Reading::Floats { detect: true, master: int8 },
        Held::AsStored { factor: None } => return Ok(Content::Dense { tensor, order }),
    };
    Ok(Content::Ternary { tensor, reading, rows, cols, order, scale: Scale::default() })
}

impl<'a> Content<'a> {
    /// Codes, and the scale beside them.
    pub(super) fn with_scale(self) -> Result<(Content<'a>, Content<'a>), &'static str> {
        match &self {
            Content::Ternary { scale, .. } => {
                let scale = Content::Scale(scale.clone());
                Ok((self, scale))
            }
            _ => Err("is not ternary; choose hf"),
        }
    }

    /// The floats of the input as they are.
    pub(super) fn into_stored(self) -> Result<Content<'a>, &'static str> {
        match self {
            Content::Ternary { tensor, reading: Reading::Floats { .. }, order, .. } => {
                Ok(Content::Dense { tensor, order })
            }
            Content::Ternary { .. } => Err("holds codes: the master weights are lost; choose hf-packed"),
            content => Ok(content),
        }
    }

    /// Bytes in the encoding `to`, and what that did to the values.
    pub(super) fn make(&self, to: Encoding) -> Result<(Bytes, Outcome), FormatError> {
        match *self {
            Content::Scale(ref scale) => match scale.get() {
                Some(scale) => Ok((Bytes::copy_from_slice(&scale.to_le_bytes()), Outcome::Exact)),
                None => Err(FormatError::Encoding {
                    encoding: to.to_string(),
                    reason: "the scale is known once the codes are made".into(),
                }),
            },
            Content::Values(ref values) => Ok((to.encode(values, 1, values.len())?.into(), Outcome::Exact)),
            Content::Dense { tensor, order } => dense(tensor, order, to),
            Content::Ternary { tensor, reading, rows, cols, order, ref scale } => {
                let dense_is_enough = matches!(reading, Reading::Floats { master: false, .. }) && !to.is_ternary();
                let codes = if dense_is_enough { None } else { read(tensor, reading, rows, cols)? };
                let (mut weights, outcome) = match codes {
                    Some(codes) => codes,
                    None if to.is_ternary() => {
                        return Err(FormatError::Encoding {
                            encoding: to.to_string(),
                            reason: format!(
                                "the {} values are not ternary, and rounding them would make another model; choose \
                                 F16, BF16, F32 or Q8_0",
                                tensor.encoding
                            ),
                        });
                    }
                    None => return dense(tensor, order, to),
                };
                if let Some(order) = order {
                    weights.codes = order.apply(&weights.codes, cols);
                    if let Scales::Groups { len, values } = &mut weights.scales {
                        *values = order.apply(values, cols.div_ceil(*len));
                    }
                }
                scale.set(weights.tensor_scale());
                if to.is_ternary() {
                    return Ok((to.encode_ternary(&weights)?.into(), outcome));
                }
                let values = weights.to_f32();
                let bytes = to.encode(&values, rows, cols)?;
                if to.decode(&bytes, rows, cols)? != values {
                    let reason = "cannot hold codes times scale exactly; choose I2_S, or F32".to_string();
                    return Err(FormatError::Encoding { encoding: to.to_string(), reason });
                }
                Ok((bytes.into(), outcome))
            }
        }
    }
}

/// Codes and scales as the loader would use them; `None` if the values are not ternary and need not be.
fn read(
    tensor: &Tensor,
    reading: Reading,
    rows: usize,
    cols: usize,
) -> Result<Option<(Ternary, Outcome)>, FormatError> {
    match reading {
        Reading::Encoded { encoding, factor } => {
            let mut weights = encoding.decode_ternary(&tensor.bytes, rows, cols, None)?;
            let factor = factor.unwrap_or(1.0);
            match &mut weights.scales {
                Scales::Tensor(scale) => *scale *= factor,
                Scales::Groups { values, .. } => values.iter_mut().for_each(|scale| *scale *= factor),
            }
            Ok(Some((weights, Outcome::Exact)))
        }
        Reading::HfPacked { scale } => {
            let weights = Encoding::HfPacked.decode_ternary(&tensor.bytes, rows, cols, Some(scale))?;
            Ok(Some((weights, Outcome::Exact)))
        }
        Reading::Floats { detect, master } => {
            let values = tensor.encoding.decode(&tensor.bytes, rows, cols)?;
            match Ternary::detect(&values, rows, cols).filter(|_| detect) {
                Some(weights) => Ok(Some((weights, Outcome::Exact))),
                None if master => Ok(Some((Ternary::absmean(&values, rows, cols)?, Outcome::Ternarised))),
                None => Ok(None),
            }
        }
    }
}

/// Converts a dense matrix, some rows at a time.
fn dense(tensor: &Tensor, order: Option<HeadRows>, to: Encoding) -> Result<(Bytes, Outcome), FormatError> {
    let (rows, cols) = tensor.matrix();
    let row_bytes = tensor.encoding.byte_len(1, cols)?;
    let reordered;
    let bytes = match order {
        Some(order) => {
            reordered = Bytes::from(order.apply(&tensor.bytes, row_bytes));
            &reordered
        }
        None => &tensor.bytes,
    };
    if to == tensor.encoding {
        return Ok((bytes.clone(), Outcome::Exact));
    }
    let mut out = Vec::with_capacity(to.byte_len(rows, cols)?);
    let mut largest_error = 0f32;
    let chunk_rows = (CHUNK / cols.max(1)).max(1);
    for chunk in bytes.chunks((chunk_rows * row_bytes).max(1)) {
        let rows = chunk.len() / row_bytes;
        let values = tensor.encoding.decode(chunk, rows, cols)?;
        if let Some(bad) = values.iter().find(|v| !v.is_finite()) {
            let reason = format!("the tensor holds {bad}: the file is damaged");
            return Err(FormatError::Encoding { encoding: tensor.encoding.to_string(), reason });
        }
        let encoded = to.encode(&values, rows, cols)?;
        let back = to.decode(&encoded, rows, cols)?;
        largest_error = values.iter().zip(&back).fold(largest_error, |m, (a, b)| m.max((a - b).abs()));
        out.extend(encoded);
    }
    let outcome = if largest_error == 0.0 { Outcome::Exact } else { Outcome::Rounded { largest_error } };
    Ok((out.into(), outcome))
}
