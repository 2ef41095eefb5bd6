//! Small random models, the same on every machine, made in memory.

use bitnet_formats::gguf::{Metadata, Value};
use bitnet_formats::{Checkpoint, Encoding, Scales, Source, Tensor, Ternary};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From −1 to 1, a multiple of 2⁻¹⁰: exact in f16.
    pub(crate) fn signed(&mut self) -> f32 {
        (self.next() >> 53) as f32 / 1024.0 - 1.0
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Sizes of a synthetic model.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) hidden: usize,
    pub(crate) ffn: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocab: usize,
}

/// Fits every ternary encoding.
pub(crate) const SMALL: Sizes =
    Sizes { hidden: 256, ffn: 512, layers: 2, heads: 4, kv_heads: 2, head_dim: 64, vocab: 96 };
/// Fits no block length.
pub(crate) const ODD: Sizes = Sizes { hidden: 72, ffn: 200, layers: 2, heads: 6, kv_heads: 2, head_dim: 20, vocab: 61 };

/// A model in the making: change it, then take the [`checkpoint`](Self::checkpoint).
pub(crate) struct Synthetic {
    pub(crate) arch: &'static str,
    pub(crate) metadata: Metadata,
    pub(crate) tensors: BTreeMap<String, Tensor>,
    random: Random,
}

impl Synthetic {
    /// A GGUF model of architecture `arch` whose projections are ternary, with one scale each, in `encoding` (a float
    /// encoding holds the products).
    pub(crate) fn new(arch: &'static str, sizes: Sizes, encoding: Encoding, seed: u64) -> Synthetic {
        let Sizes { hidden, ffn, layers, heads, kv_heads, head_dim, vocab } = sizes;
        let (query, kv) = (heads * head_dim, kv_heads * head_dim);
        let metadata = Metadata::new();
        let mut model = Synthetic { arch, metadata, tensors: BTreeMap::new(), random: Random(seed) };
        model.metadata.set("general.architecture", Value::String(arch.into()));
        for (key, value) in [
            ("embedding_length", hidden),
            ("feed_forward_length", ffn),
            ("block_count", layers),
            ("attention.head_count", heads),
            ("attention.head_count_kv", kv_heads),
            ("attention.key_length", head_dim),
            ("context_length", 512),
        ] {
            model.set(key, Value::U32(value as u32));
        }
        model.set("attention.layer_norm_rms_epsilon", Value::F32(1e-5));

        model.table("token_embd.weight", vocab, hidden);
        model.norm("output_norm.weight", hidden);
        let bitnet = arch.starts_with("bitnet");
        let per_head = matches!(arch, "qwen3" | "gemma3");
        for layer in 0..layers {
            let norms: [(&str, usize, bool); 8] = [
                ("attn_norm", hidden, true),
                ("ffn_norm", hidden, true),
                ("attn_sub_norm", query, bitnet),
                ("ffn_sub_norm", ffn, bitnet),
                ("attn_q_norm", head_dim, per_head),
                ("attn_k_norm", head_dim, per_head),
                ("post_attention_norm", hidden, arch == "gemma3"),
                ("post_ffw_norm", hidden, arch == "gemma3"),
            ];
            for (name, len, _) in norms.into_iter().filter(|norm| norm.2) {
                model.norm(&format!("blk.{layer}.{name}.weight"), len);
            }
            for (name, rows, cols) in [
                ("attn_q", query, hidden),
                ("attn_k", kv, hidden),
                ("attn_v", kv, hidden),
                ("attn_output", hidden, query),
                ("ffn_gate", ffn, hidden),
                ("ffn_up", ffn, hidden),
                ("ffn_down", hidden, ffn),
            ] {
                model.ternary(&format!("blk.{layer}.{name}.weight"), rows, cols, encoding);
            }
        }
        model
    }

    /// Gives every `len` columns of the tensors in `encoding`, whose blocks are that long, a scale of their own.
    pub(crate) fn group_scales(mut self, encoding: Encoding, len: usize) -> Synthetic {
        for tensor in self.tensors.values_mut().filter(|t| t.encoding == encoding) {
            let (rows, cols) = tensor.matrix();
            let mut weights = encoding.decode_ternary(&tensor.bytes, rows, cols, None).unwrap();
            let values = (0..rows * cols / len).map(|i| [0.0625, 0.125, 0.09375][i % 3]).collect();
            weights.scales = Scales::Groups { len, values };
            tensor.bytes = encoding.encode_ternary(&weights).unwrap().into();
        }
        self
    }

    /// Sets a key of the architecture.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.metadata.set(format!("{}.{key}", self.arch), value);
    }

    pub(crate) fn insert(&mut self, name: &str, shape: &[usize], encoding: Encoding, bytes: Vec<u8>) {
        let tensor = Tensor { name: name.into(), shape: shape.into(), encoding, bytes: bytes.into() };
        self.tensors.insert(name.into(), tensor);
    }

    pub(crate) fn floats(&mut self, name: &str, values: &[f32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.insert(name, &[values.len()], Encoding::F32, bytes);
    }

    /// Weights of a norm, around 1.
    pub(crate) fn norm(&mut self, name: &str, len: usize) {
        let values: Vec<f32> = (0..len).map(|_| 1.0 + self.random.signed() / 2.0).collect();
        self.floats(name, &values);
    }

    fn table(&mut self, name: &str, rows: usize, cols: usize) {
        let values: Vec<f32> = (0..rows * cols).map(|_| self.random.signed()).collect();
        let bytes = Encoding::F16.encode(&values, rows, cols).unwrap();
        self.insert(name, &[rows, cols], Encoding::F16, bytes);
    }

    fn ternary(&mut self, name: &str, rows: usize, cols: usize, encoding: Encoding) {
        let codes = (0..rows * cols).map(|_| self.random.below(3) as i8 - 1).collect();
        let scale = (16 + self.random.below(16)) as f32 / 256.0; // exact in f16
        let ternary = Ternary { rows, cols, codes, scales: Scales::Tensor(scale) };
        let bytes = if encoding.is_ternary() {
            encoding.encode_ternary(&ternary).unwrap()
        } else {
            encoding.encode(&ternary.to_f32(), rows, cols).unwrap()
        };
        self.insert(name, &[rows, cols], encoding, bytes);
    }

    pub(crate) fn checkpoint(self) -> Checkpoint {
        Checkpoint { path: PathBuf::new(), tensors: self.tensors, source: Source::Gguf(self.metadata) }
    }
}

/// Token ids below `vocab`.
pub(crate) fn prompt(len: usize, vocab: usize, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    (0..len).map(|_| random.below(vocab as u64) as u32).collect()
}
