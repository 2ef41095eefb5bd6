//! The numbers by which GGUF names tensor types, and the two numbers that two projects use for different types.

use super::DEFAULT_ALIGNMENT;
use crate::{Encoding, I2sLayout, TileParams};

/// What a type number can mean before the tensor's size is known.
pub(super) enum Meaning {
    /// One encoding.
    Is(Encoding),
    /// TL1: needs tile parameters.
    Tl1,
    /// 39: TL2 of bitnet.cpp or MXFP4 of llama.cpp.
    Tl2OrMxfp4,
    /// 42: Q2_0 in groups of 64 (llama.cpp) or of 128 (early PrismML files).
    Q2_0,
}

/// The encoding of a type number, or why it cannot be read.
pub(super) fn meaning(id: u32, i2s_layout: I2sLayout) -> Result<Meaning, String> {
    Ok(Meaning::Is(match id {
        0 => Encoding::F32,
        1 => Encoding::F16,
        2 => Encoding::Q4_0,
        8 => Encoding::Q8_0,
        12 => Encoding::Q4K,
        14 => Encoding::Q6K,
        24 => Encoding::I8,
        25 => Encoding::I16,
        26 => Encoding::I32,
        27 => Encoding::I64,
        28 => Encoding::F64,
        30 => Encoding::BF16,
        34 => Encoding::Tq1_0,
        35 => Encoding::Tq2_0,
        36 => Encoding::I2S(i2s_layout),
        38 => return Ok(Meaning::Tl1),
        39 => return Ok(Meaning::Tl2OrMxfp4),
        42 => return Ok(Meaning::Q2_0),
        142 => Encoding::Pq2_0,
        31..=33 => {
            let name = ["Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8"][id as usize - 31];
            return Err(format!(
                "type {id} ({name}) was removed from the format in 2024; convert the original model to Q4_0 again"
            ));
        }
        37 => return Err("type 37 (I8_S) holds activations and never belongs in a file".to_owned()),
        143 => {
            return Err("type 143 (PTQ1_0) holds rotated weights (prism.hadamard.*), which are not supported; use a \
                        first-generation file (Q2_0, PQ2_0) or the unpacked safetensors"
                .to_owned());
        }
        _ => return Err(refused(id)),
    }))
}

/// Types that exist but that no ternary model uses, and numbers nobody has defined.
fn refused(id: u32) -> String {
    let name = match id {
        3 => "Q4_1",
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        13 => "Q5_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        29 => "IQ1_M",
        40 => "NVFP4",
        41 => "Q1_0",
        _ => return format!("type {id} is unknown; the file is damaged or newer than this program"),
    };
    format!(
        "type {id} ({name}) is not supported; supported are F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K, I2_S, TQ1_0, \
         TQ2_0, Q2_0 and PQ2_0: convert the model again to one of them"
    )
}

/// The number under which an encoding is written, or why it is not.
pub(super) fn id(encoding: Encoding) -> Result<u32, String> {
    Ok(match encoding {
        Encoding::F32 => 0,
        Encoding::F16 => 1,
        Encoding::Q4_0 => 2,
        Encoding::Q8_0 => 8,
        Encoding::Q4K => 12,
        Encoding::Q6K => 14,
        Encoding::I8 => 24,
        Encoding::I16 => 25,
        Encoding::I32 => 26,
        Encoding::I64 => 27,
        Encoding::F64 => 28,
        Encoding::BF16 => 30,
        Encoding::Tq1_0 => 34,
        Encoding::Tq2_0 => 35,
        Encoding::I2S(I2sLayout::X86) => 36,
        Encoding::Tl1(_) => 38,
        Encoding::Tl2(_) => 39,
        Encoding::Q2_0 => 42,
        Encoding::Pq2_0 => 142,
        Encoding::I2S(layout) => {
            return Err(format!("nothing in a file says that I2_S has the {layout:?} layout; write the X86 layout"));
        }
        Encoding::Q2_0Legacy => {
            return Err("Q2_0 in groups of 128 is taken for groups of 64 by others; write PQ2_0, which has the same \
                        bytes under its own number"
                .to_owned());
        }
        Encoding::U8 | Encoding::HfPacked => {
            return Err(format!("GGUF has no type for {encoding:?}; write I2_S, TQ1_0, TQ2_0, Q2_0 or a dense type"));
        }
    })
}

/// TL1 with the parameters given for the shape.
pub(super) fn tl1(rows: usize, cols: usize, params: Option<TileParams>) -> Result<Encoding, String> {
    params.map(Encoding::Tl1).ok_or_else(|| needs_params("38 (TL1)", rows, cols))
}

/// Type 39, told apart by the distance to the next tensor.
pub(super) fn tl2_or_mxfp4(
    rows: usize,
    cols: usize,
    span: u64,
    alignment: u64,
    params: Option<TileParams>,
) -> Result<Encoding, String> {
    // The size of TL2 does not depend on the parameters' values, only on the shape (formats.md §2.3).
    let tl2 = tl2_len(rows, cols);
    let mxfp4 = cols.is_multiple_of(32).then(|| (rows as u64).checked_mul(cols as u64 / 32)?.checked_mul(17)).flatten();
    match (fills(tl2, span, alignment), fills(mxfp4, span, alignment)) {
        (true, false) => params.map(Encoding::Tl2).ok_or_else(|| needs_params("39 (TL2)", rows, cols)),
        (false, true) => Err("type 39 is MXFP4 by its size, which is not supported; convert the original model to \
                              Q8_0 or a ternary type"
            .to_owned()),
        _ => Err(format!(
            "type 39 is TL2 of bitnet.cpp ({} bytes) or MXFP4 of llama.cpp ({} bytes), but the tensor spans {span} \
             bytes; the file is damaged or of an unknown kind",
            size(tl2),
            size(mxfp4)
        )),
    }
}

fn tl2_len(rows: usize, cols: usize) -> Option<u64> {
    let (rows, cols) = (rows as u64, cols as u64);
    let triples = cols.checked_sub(256)?.checked_mul(rows)? / 3;
    let body = triples.checked_mul(5)? / 8 + (256u64.checked_mul(rows)? / 2).checked_mul(4)? / 8;
    body.checked_next_multiple_of(DEFAULT_ALIGNMENT)?.checked_add(32)
}

fn needs_params(name: &str, rows: usize, cols: usize) -> String {
    format!(
        "type {name} is laid out for the build of bitnet.cpp that made it and the file does not say how; give the tile \
         parameters (BM, BK, bm) of shape {rows}x{cols}, or use the I2_S file or the safetensors of the model"
    )
}

/// Which of the two layouts of type 42 every tensor of a file allows. `tensors` are `(rows, cols, span)`.
pub(super) fn q2_0(tensors: impl Iterator<Item = (usize, usize, u64)>, alignment: u64) -> Result<Encoding, String> {
    let (mut mainline, mut legacy) = (true, true);
    for (rows, cols, span) in tensors {
        let fits = |group: u64, bytes: u64| {
            let len = (rows as u64).checked_mul(cols as u64 / group).and_then(|n| n.checked_mul(bytes));
            (cols as u64).is_multiple_of(group) && fills(len, span, alignment)
        };
        mainline &= fits(64, 18);
        legacy &= fits(128, 34);
    }
    match (mainline, legacy) {
        (true, false) => Ok(Encoding::Q2_0),
        (false, true) => Ok(Encoding::Q2_0Legacy),
        (true, true) => Err("type 42 may be Q2_0 in groups of 64 or of 128: the tensors are too small to tell by \
                             their size; use PQ2_0 (142) or another ternary type"
            .to_owned()),
        (false, false) => Err("type 42 is Q2_0 in groups of 64 (18 bytes per 64 values) or of 128 (34 bytes per 128 \
                               values), but the distances between the tensors fit neither; the file is damaged"
            .to_owned()),
    }
}

/// True when a tensor of `len` bytes, padded or (at the end of a file) not, takes exactly `span` bytes.
fn fills(len: Option<u64>, span: u64, alignment: u64) -> bool {
    len.is_some_and(|len| len == span || len.checked_next_multiple_of(alignment) == Some(span))
}

fn size(len: Option<u64>) -> String {
    len.map_or_else(|| "impossible for the shape,".to_owned(), |len| len.to_string())
}
