//! Plain numbers.

use super::Encoding;
use crate::FormatError;
use half::{bf16, f16};

/// `bytes` has the right length. F64 and I64 are rounded to f32.
pub(super) fn decode(encoding: Encoding, bytes: &[u8]) -> Result<Vec<f32>, FormatError> {
    Ok(match encoding {
        Encoding::F32 => read(bytes, f32::from_le_bytes),
        Encoding::F64 => read(bytes, |b| f64::from_le_bytes(b) as f32),
        Encoding::F16 => read(bytes, |b| f16::from_le_bytes(b).to_f32()),
        Encoding::BF16 => read(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        Encoding::I8 => read(bytes, |b| i8::from_le_bytes(b) as f32),
        Encoding::U8 => read(bytes, |b| u8::from_le_bytes(b) as f32),
        Encoding::I16 => read(bytes, |b| i16::from_le_bytes(b) as f32),
        Encoding::I32 => read(bytes, |b| i32::from_le_bytes(b) as f32),
        Encoding::I64 => read(bytes, |b| i64::from_le_bytes(b) as f32),
        other => return Err(other.error("is not a plain number")),
    })
}

/// Floats are rounded to nearest even and must not overflow; integers must hold the value exactly.
pub(super) fn encode(encoding: Encoding, values: &[f32], cols: usize) -> Result<Vec<u8>, FormatError> {
    let result = match encoding {
        Encoding::F32 => write(values, |v| Some(v.to_le_bytes())),
        Encoding::F64 => write(values, |v| Some((v as f64).to_le_bytes())),
        Encoding::F16 => write(values, |v| {
            let number = f16::from_f32(v);
            (number.is_finite() == v.is_finite()).then(|| number.to_le_bytes())
        }),
        Encoding::BF16 => write(values, |v| {
            let number = bf16::from_f32(v);
            (number.is_finite() == v.is_finite()).then(|| number.to_le_bytes())
        }),
        Encoding::I8 => write(values, |v| is_integer(v, -128.0, 128.0).then(|| (v as i8).to_le_bytes())),
        Encoding::U8 => write(values, |v| is_integer(v, 0.0, 256.0).then(|| (v as u8).to_le_bytes())),
        Encoding::I16 => write(values, |v| is_integer(v, -32768.0, 32768.0).then(|| (v as i16).to_le_bytes())),
        Encoding::I32 => write(values, |v| is_integer(v, -TWO_31, TWO_31).then(|| (v as i32).to_le_bytes())),
        Encoding::I64 => write(values, |v| is_integer(v, -TWO_63, TWO_63).then(|| (v as i64).to_le_bytes())),
        other => return Err(other.error("is not a plain number")),
    };
    result.map_err(|at| encoding.error_at(at, cols, format!("it cannot hold {}", values[at])))
}

const TWO_31: f32 = 2147483648.0;
const TWO_63: f32 = 9223372036854775808.0;

fn is_integer(value: f32, from: f32, below: f32) -> bool {
    value.fract() == 0.0 && value >= from && value < below
}

fn read<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&chunk| number(chunk)).collect()
}

/// `Err` holds the index of the first value without bytes.
fn write<const N: usize>(values: &[f32], number: impl Fn(f32) -> Option<[u8; N]>) -> Result<Vec<u8>, usize> {
    let mut bytes = Vec::with_capacity(N * values.len());
    for (at, &value) in values.iter().enumerate() {
        bytes.extend_from_slice(&number(value).ok_or(at)?);
    }
    Ok(bytes)
}
