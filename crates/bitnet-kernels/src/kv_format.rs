//! What the KV cache holds.

use std::fmt;
use std::str::FromStr;

use crate::{KernelError, PAGE_LEN};

/// Form of the cached keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// binary32: what the network computes.
    #[default]
    F32,
    /// binary16, rounded to nearest, ties to even. What exceeds its range becomes infinite.
    F16,
    /// int8 with a scale per token and head.
    Int8,
}

impl KvFormat {
    /// Every format, the most exact first.
    pub const ALL: [KvFormat; 3] = [KvFormat::F32, KvFormat::F16, KvFormat::Int8];
    /// The longest head that [`KvFormat::Int8`] takes: its sums stay exact in f32.
    pub const MAX_INT8_HEAD: usize = 256;

    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            KvFormat::F32 => "f32",
            KvFormat::F16 => "f16",
            KvFormat::Int8 => "int8",
        }
    }

    /// Bytes of one code.
    pub(crate) fn code_bytes(self) -> usize {
        match self {
            KvFormat::F32 => 4,
            KvFormat::F16 => 2,
            KvFormat::Int8 => 1,
        }
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for KvFormat {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        KvFormat::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| KernelError::Shape {
            what: "KV format",
            found: name.to_owned(),
            expected: KvFormat::ALL.map(KvFormat::name).join(", "),
        })
    }
}

/// Size of a KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Decoder blocks.
    pub layers: usize,
    /// Query heads; some of them share a key/value head.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Channels per head.
    pub head_dim: usize,
    /// Pages in the pool, each [`PAGE_LEN`](crate::PAGE_LEN) positions of every layer.
    pub pages: usize,
    /// What the pages hold.
    pub format: KvFormat,
}

impl KvShape {
    /// Channels per head with the padding to a whole vector.
    pub(crate) fn padded_dim(&self) -> usize {
        self.head_dim.saturating_add(15) / 16 * 16
    }

    /// Bytes of the keys of one (layer, page, head); its values take as many.
    pub(crate) fn key_bytes(&self) -> usize {
        self.padded_dim().saturating_mul(PAGE_LEN * self.format.code_bytes())
    }

    /// Bytes of keys, values and scales of one (layer, page, head).
    pub(crate) fn head_bytes(&self) -> usize {
        let codes = self.key_bytes().saturating_mul(2);
        let scales = if self.format == KvFormat::Int8 { 2 * PAGE_LEN * size_of::<f32>() } else { 0 };
        codes.saturating_add(scales)
    }

    /// Bytes of the cache on the CPU. Channels are padded to a multiple of 16.
    pub fn bytes(&self) -> usize {
        [self.layers, self.pages, self.kv_heads].into_iter().fold(self.head_bytes(), usize::saturating_mul)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_hand() {
        let shape = |format, head_dim| KvShape { layers: 30, heads: 20, kv_heads: 5, head_dim, pages: 128, format };
        // 2 × 30 layers × 4096 positions × 5 heads × 128 channels.
        let values = 2 * 30 * 4096 * 5 * 128;
        assert_eq!(shape(KvFormat::F32, 128).bytes(), 4 * values);
        assert_eq!(shape(KvFormat::F16, 128).bytes(), 2 * values);
        assert_eq!(shape(KvFormat::Int8, 128).bytes(), values + values / 128 * 4);
        assert_eq!(shape(KvFormat::F16, 33).bytes(), shape(KvFormat::F16, 48).bytes());
        assert_eq!(KvShape { pages: usize::MAX, ..shape(KvFormat::F16, 33) }.bytes(), usize::MAX);
    }

    #[test]
    fn names() {
        for format in KvFormat::ALL {
            assert_eq!(format.name().parse::<KvFormat>().expect("a name"), format);
        }
        assert!("f8".parse::<KvFormat>().expect_err("unknown").to_string().contains("f32, f16, int8"));
    }
}
