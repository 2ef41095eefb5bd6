//! A look at every value of a checkpoint, to find damage that opening the file cannot see.

use crate::{Checkpoint, Encoding, FormatError, Source, Tensor};

/// What [`Checkpoint::scan`] found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Tensors of ternary codes.
    pub ternary: usize,
    /// All other tensors.
    pub dense: usize,
    /// How many codes are −1, 0 and +1.
    pub codes: [u64; 3],
    /// Tensors with illegal codes or scales, infinities or NaN.
    pub failures: Vec<FormatError>,
}

impl Checkpoint {
    /// Decodes every tensor: illegal codes and scales, infinities and NaN all turn up. `progress` hears the bytes of
    /// each tensor when it is done.
    pub fn scan(&self, progress: &mut dyn FnMut(u64)) -> Scan {
        let mut scan = Scan::default();
        for tensor in self.tensors.values() {
            let result = match self.ternary_form(tensor) {
                Some((encoding, rows)) => {
                    scan.ternary += 1;
                    count_codes(tensor, encoding, rows, &mut scan.codes)
                }
                None => {
                    scan.dense += 1;
                    check_finite(tensor)
                }
            };
            if let Err(error) = result {
                scan.failures.push(FormatError::Tensor {
                    file: self.path.display().to_string(),
                    tensor: tensor.name.clone(),
                    reason: error.to_string(),
                });
            }
            progress(tensor.bytes.len() as u64);
        }
        scan
    }

    /// Encoding and rows of a tensor of codes; Hugging Face packs four rows of codes into one row of bytes.
    fn ternary_form(&self, tensor: &Tensor) -> Option<(Encoding, usize)> {
        let (rows, _) = tensor.matrix();
        if matches!(self.source, Source::HuggingFace(_)) && tensor.encoding == Encoding::U8 {
            return Some((Encoding::HfPacked, rows.checked_mul(4)?));
        }
        tensor.encoding.is_ternary().then_some((tensor.encoding, rows))
    }
}

fn count_codes(tensor: &Tensor, encoding: Encoding, rows: usize, counts: &mut [u64; 3]) -> Result<(), FormatError> {
    let (_, cols) = tensor.matrix();
    // The scale of packed codes is a tensor of its own, and is looked at as such.
    let scale = (encoding == Encoding::HfPacked).then_some(1.0);
    for code in encoding.decode_ternary(&tensor.bytes, rows, cols, scale)?.codes {
        counts[(code + 1) as usize] += 1;
    }
    Ok(())
}

/// Slice by slice, so that a large embedding does not need its size again in floats.
fn check_finite(tensor: &Tensor) -> Result<(), FormatError> {
    const SLICE: usize = 1 << 20;
    let (rows, cols) = tensor.matrix();
    let integers = [Encoding::I8, Encoding::U8, Encoding::I16, Encoding::I32, Encoding::I64];
    if rows == 0 || cols == 0 || integers.contains(&tensor.encoding) {
        return Ok(());
    }
    let row_bytes = tensor.encoding.byte_len(1, cols)?;
    let step = (SLICE / cols).max(1);
    for (n, slice) in tensor.bytes.chunks(row_bytes * step).enumerate() {
        let values = tensor.encoding.decode(slice, slice.len() / row_bytes, cols)?;
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let reason = format!("{} at row {}, column {}", values[at], n * step + at / cols, at % cols);
            return Err(FormatError::Encoding { encoding: tensor.encoding.name().to_owned(), reason });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{I2sLayout, gguf::Metadata};
    use bytes::Bytes;
    use std::path::PathBuf;

    fn tensor(name: &str, encoding: Encoding, shape: [usize; 2], bytes: Vec<u8>) -> (String, Tensor) {
        (name.into(), Tensor { name: name.into(), shape: shape.into(), encoding, bytes: Bytes::from(bytes) })
    }

    #[test]
    fn damage_is_found_and_named() -> Result<(), FormatError> {
        let i2s = Encoding::I2S(I2sLayout::X86);
        let sound = i2s.encode(&[[-0.5f32; 32], [0.0; 32], [0.5; 32], [0.5; 32]].concat(), 1, 128)?;
        let mut illegal = sound.clone();
        illegal[3] |= 0b11;
        let values: Vec<u8> = [1.0f32, 2.0, f32::NAN, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let checkpoint = Checkpoint {
            path: PathBuf::from("model"),
            tensors: [
                tensor("sound", i2s, [1, 128], sound),
                tensor("illegal", i2s, [1, 128], illegal),
                tensor("nan", Encoding::F32, [2, 2], values),
                tensor("ids", Encoding::I32, [1, 1], vec![0xff; 4]),
            ]
            .into(),
            source: Source::Gguf(Metadata::new()),
        };
        let mut seen = 0;
        let scan = checkpoint.scan(&mut |n| seen += n);
        assert_eq!((scan.ternary, scan.dense, scan.codes), (2, 2, [32, 32, 64]));
        assert_eq!(seen, checkpoint.tensors.values().map(|t| t.bytes.len() as u64).sum::<u64>());
        let failures: Vec<String> = scan.failures.iter().map(ToString::to_string).collect();
        assert_eq!(failures.len(), 2, "{failures:?}");
        assert!(failures[0].contains("tensor illegal"), "{failures:?}");
        assert!(failures[1].contains("tensor nan") && failures[1].contains("row 1, column 0"), "{failures:?}");
        Ok(())
    }
}
