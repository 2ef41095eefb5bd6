//! Names of encodings, as files and the command line spell them.

use super::{Encoding, I2sLayout};
use crate::FormatError;
use std::fmt;
use std::str::FromStr;

/// Every encoding that a name alone describes. (TL1 and TL2 also need tile parameters.)
const NAMED: [(&str, Encoding); 22] = [
    ("F32", Encoding::F32),
    ("F64", Encoding::F64),
    ("F16", Encoding::F16),
    ("BF16", Encoding::BF16),
    ("I8", Encoding::I8),
    ("U8", Encoding::U8),
    ("I16", Encoding::I16),
    ("I32", Encoding::I32),
    ("I64", Encoding::I64),
    ("Q8_0", Encoding::Q8_0),
    ("Q4_0", Encoding::Q4_0),
    ("Q4_K", Encoding::Q4K),
    ("Q6_K", Encoding::Q6K),
    ("I2_S", Encoding::I2S(I2sLayout::X86)),
    ("I2_S-arm", Encoding::I2S(I2sLayout::Arm)),
    ("I2_S-rows4", Encoding::I2S(I2sLayout::Rows4)),
    ("TQ1_0", Encoding::Tq1_0),
    ("TQ2_0", Encoding::Tq2_0),
    ("Q2_0", Encoding::Q2_0),
    ("Q2_0-g128", Encoding::Q2_0Legacy),
    ("PQ2_0", Encoding::Pq2_0),
    ("HF-packed", Encoding::HfPacked),
];

impl Encoding {
    /// The name, for example `I2_S` or `TQ1_0`. Except for TL1 and TL2 it can be parsed back.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Tl1(_) => "TL1",
            Encoding::Tl2(_) => "TL2",
            other => NAMED.iter().find(|(_, encoding)| *encoding == other).map_or("?", |(name, _)| name),
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Encoding {
    type Err = FormatError;

    /// Case does not matter: `i2_s`, `tq1_0`, `q6_k`, `bf16` …
    fn from_str(text: &str) -> Result<Self, FormatError> {
        if let Some((_, encoding)) = NAMED.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
            return Ok(*encoding);
        }
        let reason = if text.eq_ignore_ascii_case("TL1") || text.eq_ignore_ascii_case("TL2") {
            "needs tile parameters, which are private to the build that made the file".to_string()
        } else {
            let known: Vec<&str> = NAMED.iter().map(|(name, _)| *name).collect();
            format!("unknown encoding; known are {}", known.join(", "))
        };
        Err(FormatError::Encoding { encoding: text.chars().take(64).collect(), reason })
    }
}
