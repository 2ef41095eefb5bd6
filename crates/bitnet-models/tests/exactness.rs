//! The contract of exactness: logits are the same bits for every tier, thread count, batch and chunking, compared with `==`.
//!
//! The reference is the scalar tier with one thread that reads each sequence alone and at once.

#[path = "support/runner.rs"]
#[allow(dead_code)] // every test uses a part
mod runner;
#[path = "support/synthetic.rs"]
#[allow(dead_code)]
mod synthetic;

#[path = "support/side_car.rs"]
mod side_car;

use bitnet_formats::{Checkpoint, Encoding, I2sLayout};
use bitnet_kernels::{CpuOptions, Isa, KvFormat};
use bitnet_models::{Activations, LoadOptions};
use runner::Runner;
use synthetic::{ODD, SMALL, Sizes, Synthetic, prompt};

const I2S: Encoding = Encoding::I2S(I2sLayout::X86);
/// Small enough for the scalar tier in an emulator.
const TINY: Sizes = Sizes { hidden: 128, ffn: 256, layers: 2, heads: 4, kv_heads: 2, head_dim: 32, vocab: 61 };

const THREADS: [usize; 3] = [1, 2, 3];
/// Sequences in a step.
const BATCHES: [usize; 4] = [1, 2, 8, 33];
/// Tokens of each sequence in the steps of a prompt in chunks, over and over: all sequences are there for the first
/// two, so that every batch also decodes together.
const CHUNKS: [usize; 4] = [2, 1, 33, 7];

/// A model and the format of its cache.
struct Case {
    name: &'static str,
    checkpoint: Checkpoint,
    options: LoadOptions,
    kv_format: KvFormat,
    /// Holds a side-car.
    _dir: tempfile::TempDir,
}

/// One of the models that between them use every verb and every way of the forward pass.
fn case(name: &'static str) -> Case {
    let mut options = LoadOptions::default();
    let dir = tempfile::tempdir().unwrap();
    let (model, kv_format) = match name {
        "side-car" => {
            side_car::write(dir.path(), &side_car::matrices(TINY, 3, 0.05, 7), &side_car::settings(3, 6.0));
            options.lora = Some(dir.path().to_owned());
            (Synthetic::new("bitnet-b1.58", TINY, I2S, 1), KvFormat::F32)
        }
        "bitnet" => (Synthetic::new("bitnet-b1.58", TINY, I2S, 1), KvFormat::F16),
        "odd sizes" => (Synthetic::new("bitnet", ODD, Encoding::F32, 2), KvFormat::F32),
        "float activations" => {
            options.activations = Some(Activations::Float);
            (Synthetic::new("llama", TINY, I2S, 3), KvFormat::Int8)
        }
        "norms inside projections" => {
            let mut model = Synthetic::new("gemma3", TINY, I2S, 4);
            let query = TINY.heads * TINY.head_dim;
            for layer in 0..TINY.layers {
                for (name, len) in [
                    ("attn_q", TINY.hidden),
                    ("attn_k", TINY.hidden),
                    ("attn_v", TINY.hidden),
                    ("attn_output", query),
                    ("ffn_gate", TINY.hidden),
                    ("ffn_up", TINY.hidden),
                    ("ffn_down", TINY.ffn),
                ] {
                    model.norm(&format!("blk.{layer}.{name}_norm_in.weight"), len);
                }
            }
            (model, KvFormat::F32)
        }
        "grouped scales" => {
            let encoding = Encoding::Q2_0;
            (Synthetic::new("bitnet-b1.58", TINY, encoding, 6).group_scales(encoding, 64), KvFormat::Int8)
        }
        _ => (Synthetic::new("qwen3", TINY, Encoding::Q8_0, 5), KvFormat::F16),
    };
    Case { name, checkpoint: model.checkpoint(), options, kv_format, _dir: dir }
}

impl Case {
    fn runner(&self, isa: Isa, threads: usize) -> Runner {
        let cpu = CpuOptions { threads: Some(threads), isa: Some(isa) };
        Runner::with(&self.checkpoint, &self.options, cpu, BATCHES[3], self.kv_format)
    }

    /// Every tier × threads × batch × {whole, in chunks}.
    fn is_exact(&self) {
        let mut reference = self.runner(Isa::Scalar, 1);
        let vocab = reference.vocab();
        // The first sequence goes over several pages.
        let length = |sequence: usize| if sequence == 0 { 90 } else { 3 + sequence % 5 };
        let prompts: Vec<_> = (0..BATCHES[3]).map(|i| prompt(length(i), vocab, i as u64)).collect();
        let want: Vec<_> = prompts.iter().map(|ids| bits(&reference.logits(ids))).collect();
        for isa in Isa::available() {
            for threads in THREADS {
                let mut runner = self.runner(isa, threads);
                for batch in BATCHES {
                    for chunks in [&[usize::MAX][..], &CHUNKS] {
                        let got = read(&mut runner, &prompts[..batch], chunks);
                        for (sequence, (got, want)) in got.iter().zip(&want).enumerate() {
                            let what = format!("{}: {isa}, {threads} threads, {batch} sequences", self.name);
                            assert!(got == want, "{what}, chunks of {chunks:?}: sequence {sequence} differs");
                        }
                    }
                }
            }
            println!("{}: {isa} is exact", self.name);
        }
    }
}

/// Logits of all prompts, which go in together; `chunks` are the tokens of each in one step after the other.
fn read(runner: &mut Runner, prompts: &[Vec<u32>], chunks: &[usize]) -> Vec<Vec<u32>> {
    let vocab = runner.vocab();
    let mut logits = vec![Vec::new(); prompts.len()];
    for &chunk in chunks.iter().cycle() {
        let runs: Vec<(usize, usize, &[u32])> = (0..prompts.len())
            .map(|i| (i, logits[i].len() / vocab, &prompts[i][logits[i].len() / vocab..]))
            .filter(|(_, _, left)| !left.is_empty())
            .map(|(i, start, left)| (i, start, &left[..chunk.min(left.len())]))
            .collect();
        if runs.is_empty() {
            break;
        }
        let step = bits(&runner.step(&runs));
        let mut rest = &step[..];
        for (i, _, tokens) in runs {
            let (own, others) = rest.split_at(tokens.len() * vocab);
            logits[i].extend_from_slice(own);
            rest = others;
        }
    }
    logits
}

/// Bits, so that NaN and −0 count too.
fn bits(logits: &[f32]) -> Vec<u32> {
    assert!(logits.iter().all(|x| x.is_finite()), "logits are not finite: the comparison would prove nothing");
    logits.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn bitnet() {
    case("bitnet").is_exact();
}

#[test]
fn odd_sizes() {
    case("odd sizes").is_exact();
}

#[test]
fn float_activations() {
    case("float activations").is_exact();
}

#[test]
fn norms_inside_projections() {
    case("norms inside projections").is_exact();
}

#[test]
fn grouped_scales() {
    case("grouped scales").is_exact();
}

#[test]
fn dense() {
    case("dense").is_exact();
}

#[test]
fn side_car() {
    case("side-car").is_exact();
}

/// Sequences come and go as a server's do: some read a prompt while others decode.
#[test]
fn interleaved_sequences() {
    for name in ["bitnet", "float activations"] {
        let mut runner = case(name).runner(Isa::best(), 2);
        let ids: Vec<_> = (0..4).map(|i| prompt(60, runner.vocab(), 20 + i)).collect();
        let vocab = runner.vocab();
        let alone: Vec<_> = ids.iter().map(|ids| bits(&runner.logits(ids))).collect();
        let mut random = synthetic::Random(9);
        let mut done = [0; 4];
        while done.iter().any(|&n| n < 60) {
            let mut runs = Vec::new();
            for sequence in 0..4 {
                let left = 60 - done[sequence];
                let len = match random.below(3) {
                    0 => 0,
                    1 => left.min(1),
                    _ => left.min(11),
                };
                if len > 0 {
                    runs.push((sequence, done[sequence], &ids[sequence][done[sequence]..done[sequence] + len]));
                }
            }
            if runs.is_empty() {
                continue;
            }
            let logits = bits(&runner.step(&runs));
            let mut row = 0;
            for (sequence, start, tokens) in runs {
                let got = &logits[row * vocab..(row + tokens.len()) * vocab];
                let want = &alone[sequence][start * vocab..(start + tokens.len()) * vocab];
                assert!(got == want, "{name}: sequence {sequence} at position {start}");
                row += tokens.len();
                done[sequence] += tokens.len();
            }
        }
    }
}

/// The same codes and scales give the same logits whatever they are stored as.
/// A step that is left between blocks, while others use the buffers, comes to the same bits.
#[test]
fn a_step_in_parts() {
    for name in ["bitnet", "float activations", "norms inside projections", "side-car", "dense"] {
        let mut runner = case(name).runner(Isa::best(), 2);
        let (long, short) = (prompt(60, runner.vocab(), 5), prompt(70, runner.vocab(), 6));
        let want = [bits(&runner.logits(&long)), bits(&runner.logits(&short))];
        runner.step(&[(1, 0, &long[..20])]); // the long prompt goes on after 20 tokens
        let vocab = runner.vocab();
        let got = bits(&runner.left((1, 20, &long[20..]), &[(0, 0, &short)]));
        assert!(got == want[0][20 * vocab..], "{name}");
        assert!(bits(&runner.step(&[(2, 0, &short), (1, 60, &short[..1])]))[..70 * vocab] == want[1], "{name}");
    }
}

#[test]
fn encodings() {
    let model = |encoding| Synthetic::new("bitnet-b1.58", SMALL, encoding, 10).checkpoint();
    let defaults = LoadOptions::default();
    let best = |checkpoint: &Checkpoint, options: &LoadOptions| {
        Runner::new(checkpoint, options, CpuOptions { threads: Some(2), isa: None })
    };
    let ids = prompt(30, SMALL.vocab, 11);
    let want = bits(&best(&model(I2S), &defaults).logits(&ids));
    for encoding in [
        Encoding::I2S(I2sLayout::Arm),
        Encoding::I2S(I2sLayout::Rows4),
        Encoding::Tq1_0,
        Encoding::Tq2_0,
        Encoding::Q2_0,
        Encoding::Pq2_0,
        Encoding::F16,
        Encoding::F32,
    ] {
        let got = bits(&best(&model(encoding), &defaults).logits(&ids));
        assert!(got == want, "{encoding}");
    }
    // a reader that is told the layout of bytes that do not say it
    let mut told = model(Encoding::I2S(I2sLayout::Arm));
    for tensor in told.tensors.values_mut() {
        if let Encoding::I2S(layout) = &mut tensor.encoding {
            *layout = I2sLayout::X86;
        }
    }
    let arm = LoadOptions { i2s_layout: Some(I2sLayout::Arm), ..defaults.clone() };
    assert!(bits(&best(&told, &arm).logits(&ids)) == want, "layout given by the user");
    assert!(bits(&best(&told, &defaults).logits(&ids)) != want, "a wrong layout goes unnoticed");
}
