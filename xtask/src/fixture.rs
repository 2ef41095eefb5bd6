//! Synthetic BitNet models: random weights in the shape of real ones, the same bytes every time.

use crate::fixture_tokenizer;
use anyhow::{Context, ensure};
use bitnet::formats::gguf::{self, Metadata, TensorSource, Value};
use bitnet::formats::{Encoding, FormatError, I2sLayout, Scales, Ternary};
use bitnet::models::names::{BlockRole, Naming, Projection, Role};
use std::path::Path;

/// The shapes on offer.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Size {
    /// 2 blocks, 1 M weights.
    Tiny,
    /// 8 blocks, 25 M weights.
    Small,
    /// 16 blocks, 200 M weights.
    Medium,
    /// BitNet b1.58 2B-4T: 30 blocks, 2.4 G weights.
    #[value(name = "2b")]
    Full2b,
}

struct Shape {
    name: &'static str,
    hidden: usize,
    ffn: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocab: usize,
    context: usize,
}

impl Size {
    fn shape(self) -> Shape {
        match self {
            Size::Tiny => Shape {
                name: "tiny",
                hidden: 256,
                ffn: 512,
                layers: 2,
                heads: 4,
                kv_heads: 2,
                vocab: 1024,
                context: 512,
            },
            Size::Small => Shape {
                name: "small",
                hidden: 512,
                ffn: 1536,
                layers: 8,
                heads: 8,
                kv_heads: 2,
                vocab: 8192,
                context: 2048,
            },
            Size::Medium => Shape {
                name: "medium",
                hidden: 1024,
                ffn: 2816,
                layers: 16,
                heads: 8,
                kv_heads: 2,
                vocab: 32000,
                context: 4096,
            },
            Size::Full2b => Shape {
                name: "2b",
                hidden: 2560,
                ffn: 6912,
                layers: 30,
                heads: 20,
                kv_heads: 5,
                vocab: 128256,
                context: 4096,
            },
        }
    }
}

impl Shape {
    fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    fn projection(&self, projection: Projection) -> (usize, usize) {
        match projection {
            Projection::Query | Projection::Output => (self.hidden, self.hidden),
            Projection::Key | Projection::Value => (self.kv_heads * self.head_dim(), self.hidden),
            Projection::Gate | Projection::Up => (self.ffn, self.hidden),
            Projection::Down => (self.hidden, self.ffn),
        }
    }

    /// I2_S files are named for bitnet.cpp, the others for llama.cpp, which knows only `bitnet`.
    fn metadata(&self, encoding: Encoding) -> anyhow::Result<Metadata> {
        let arch = if matches!(encoding, Encoding::I2S(_)) { "bitnet-b1.58" } else { "bitnet" };
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", Value::String(arch.into()));
        metadata.set("general.name", Value::String(format!("synthetic-{}", self.name)));
        let sizes = [
            ("vocab_size", self.vocab),
            ("context_length", self.context),
            ("embedding_length", self.hidden),
            ("block_count", self.layers),
            ("feed_forward_length", self.ffn),
            ("rope.dimension_count", self.head_dim()),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
        ];
        for (key, size) in sizes {
            metadata.set(format!("{arch}.{key}"), Value::U32(size.try_into()?));
        }
        metadata.set(format!("{arch}.attention.layer_norm_rms_epsilon"), Value::F32(1e-5));
        metadata.set(format!("{arch}.rope.freq_base"), Value::F32(500000.0));
        metadata.set(format!("{arch}.hidden_activation"), Value::String("relu2".into()));
        metadata.set("general.quantization_version", Value::U32(2));
        for (key, value) in fixture_tokenizer::metadata(self.vocab)? {
            metadata.set(key, value);
        }
        Ok(metadata)
    }
}

/// Encodings of the projections on offer.
const TYPES: [Encoding; 5] =
    [Encoding::I2S(I2sLayout::X86), Encoding::Tq1_0, Encoding::Tq2_0, Encoding::Q2_0, Encoding::Pq2_0];

/// Writes `bitnet-SIZE-TYPE.gguf`; the weights depend on the seed.
pub(crate) fn write(size: Size, directory: &Path, encoding: Encoding, seed: u32) -> anyhow::Result<()> {
    ensure!(
        TYPES.contains(&encoding),
        "{encoding} is not a ternary encoding of GGUF; choose i2_s, tq1_0, tq2_0, q2_0 or pq2_0"
    );
    let shape = size.shape();
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let path = directory.join(format!("bitnet-{}-{}.gguf", shape.name, encoding.name().to_lowercase()));

    let mut tensors = vec![embedding(&shape, seed), norm(Role::FinalNorm, shape.hidden, seed)];
    for layer in 0..shape.layers {
        for (role, len) in [
            (BlockRole::AttentionNorm, shape.hidden),
            (BlockRole::AttentionSubNorm, shape.hidden),
            (BlockRole::FfnNorm, shape.hidden),
            (BlockRole::FfnSubNorm, shape.ffn),
        ] {
            tensors.push(norm(Role::Block(layer, role), len, seed));
        }
        for projection in Projection::ALL {
            let (rows, cols) = shape.projection(projection);
            tensors.push(ternary(Role::Block(layer, BlockRole::Weight(projection)), rows, cols, encoding, seed));
        }
    }
    gguf::write(&path, &shape.metadata(encoding)?, tensors, &mut |_, _| {}, &mut |_| Ok(()))?;
    eprintln!("{}", path.display());
    Ok(())
}

fn source(role: Role, shape: Vec<usize>, encoding: Encoding, seed: u32, make: Maker) -> TensorSource<'static> {
    let name = Naming::Gguf.name(role).unwrap_or_default();
    let random = Random::of(&name, seed);
    TensorSource { name, shape, encoding, bytes: Box::new(move || make(random).map(Into::into)) }
}

type Maker = Box<dyn FnOnce(Random) -> Result<Vec<u8>, FormatError>>;

/// Values around 0.04: logits of a normed state of 2560 channels then have a standard deviation of about 2.
fn embedding(shape: &Shape, seed: u32) -> TensorSource<'static> {
    let (rows, cols) = (shape.vocab, shape.hidden);
    let spread = 2.0 / (cols as f32).sqrt() * 3f32.sqrt();
    let make = move |mut random: Random| {
        let mut bytes = Vec::with_capacity(Encoding::F16.byte_len(rows, cols)?);
        for _ in 0..rows {
            let row: Vec<f32> = (0..cols).map(|_| random.uniform() * spread).collect();
            bytes.extend(Encoding::F16.encode(&row, 1, cols)?);
        }
        Ok(bytes)
    };
    source(Role::Embedding, vec![rows, cols], Encoding::F16, seed, Box::new(make))
}

/// Around 1, between 0.5 and 1.5.
fn norm(role: Role, len: usize, seed: u32) -> TensorSource<'static> {
    let make = move |mut random: Random| {
        let values: Vec<f32> = (0..len).map(|_| 1.0 + random.uniform() / 2.0).collect();
        Encoding::F32.encode(&values, 1, len)
    };
    source(role, vec![len], Encoding::F32, seed, Box::new(make))
}

/// Codes −1, 0, +1, a third each, and a scale that keeps a normed input's variance, rounded to what f16 holds so that
/// every encoding can hold it.
fn ternary(role: Role, rows: usize, cols: usize, encoding: Encoding, seed: u32) -> TensorSource<'static> {
    let make = move |mut random: Random| {
        let scale = (1.5 / cols as f32).sqrt() * (1.0 + random.uniform() / 4.0);
        let scale = Encoding::F16.decode(&Encoding::F16.encode(&[scale], 1, 1)?, 1, 1)?[0];
        let mut codes = vec![0i8; rows * cols];
        for forty in codes.chunks_mut(40) {
            let bits = random.next().to_le_bytes();
            for (i, code) in forty.iter_mut().enumerate() {
                // A base-3 digit of a random byte, as TQ1_0 reads it: each value 85 or 86 times out of 256.
                let byte = bits[i % 8].wrapping_mul([1, 3, 9, 27, 81][i / 8]);
                *code = ((byte as u16 * 3) >> 8) as i8 - 1;
            }
        }
        encoding.encode_ternary(&Ternary { rows, cols, codes, scales: Scales::Tensor(scale) })
    };
    source(role, vec![rows, cols], encoding, seed, Box::new(make))
}

/// splitmix64, seeded by the tensor's name too: tensors do not depend on each other's order.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn of(name: &str, seed: u32) -> Self {
        // FNV-1a
        let hash = name.bytes().fold(0xcbf29ce484222325, |hash, byte| (hash ^ byte as u64).wrapping_mul(0x100000001b3));
        Random(hash ^ (seed as u64).wrapping_mul(0xd1342543de82ef95))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e3779b97f4a7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58476d1ce4e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d049bb133111eb);
        z ^ (z >> 31)
    }

    /// Uniform in −1..1.
    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitnet::formats::Checkpoint;
    use bitnet::kernels::{Cpu, CpuOptions};
    use bitnet::models::export::compare_logits;
    use bitnet::{LoadOptions, Tokenizer};

    #[test]
    fn a_fixture_is_the_same_every_time_and_in_every_encoding() {
        let dir = std::env::temp_dir().join(format!("bitnet-xtask-{}", std::process::id()));
        let file = |encoding: &str| dir.join(format!("bitnet-tiny-{encoding}.gguf"));
        write(Size::Tiny, &dir, "i2_s".parse().unwrap(), 0).unwrap();
        let first = std::fs::read(file("i2_s")).unwrap();
        write(Size::Tiny, &dir, "i2_s".parse().unwrap(), 0).unwrap();
        assert!(std::fs::read(file("i2_s")).unwrap() == first);

        write(Size::Tiny, &dir, "i2_s".parse().unwrap(), 1).unwrap();
        assert!(std::fs::read(file("i2_s")).unwrap() != first, "another seed, other weights");
        write(Size::Tiny, &dir, "i2_s".parse().unwrap(), 0).unwrap();

        let reference = Checkpoint::open(&file("i2_s")).unwrap();
        let name = "blk.1.ffn_down.weight";
        let decoded = |checkpoint: &Checkpoint| {
            let tensor = &checkpoint.tensors[name];
            tensor.encoding.decode_ternary(&tensor.bytes, 256, 512, None).unwrap()
        };
        let expected = decoded(&reference);
        for code in [-1, 0, 1] {
            let share = expected.codes.iter().filter(|&&c| c == code).count() as f64 / expected.codes.len() as f64;
            assert!((share - 1.0 / 3.0).abs() < 0.01, "{code}: {share}");
        }
        for encoding in ["tq1_0", "tq2_0", "q2_0", "pq2_0"] {
            write(Size::Tiny, &dir, encoding.parse().unwrap(), 0).unwrap();
            let other = Checkpoint::open(&file(encoding)).unwrap();
            assert!(decoded(&other) == expected, "{encoding}");
            let cpu = || Ok(Cpu::new(CpuOptions::default()).unwrap());
            let likeness = compare_logits(&reference, &LoadOptions::default(), &other, cpu).unwrap();
            assert!(likeness.identical, "{encoding}: {likeness:?}");
        }
        let tokenizer = Tokenizer::from_checkpoint(&reference).unwrap();
        let how = bitnet::models::Encoding { bos: Some(false), special: false };
        let text = "The theatre is nice, isn\u{2019}t it?";
        let ids = tokenizer.encode(text, how).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), text);
        assert!(ids.len() < text.len(), "no merge was applied: {ids:?}");
        assert!(write(Size::Tiny, &dir, Encoding::F16, 0).is_err());
        assert!(write(Size::Tiny, &dir, Encoding::I2S(I2sLayout::Arm), 0).is_err());
        drop(reference); // Windows removes no file that is mapped
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
