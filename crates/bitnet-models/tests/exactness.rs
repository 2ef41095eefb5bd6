//! Logits are the same bits for every tier, thread count, batch and chunking: compared with `==`.

#[path = "support/runner.rs"]
#[allow(dead_code)] // every test uses a part
mod runner;
#[path = "support/synthetic.rs"]
#[allow(dead_code)]
mod synthetic;

use bitnet_formats::{Checkpoint, Encoding, I2sLayout};
use bitnet_kernels::{CpuOptions, Isa};
use bitnet_models::{Activations, LoadOptions};
use runner::Runner;
use synthetic::{ODD, SMALL, Synthetic, prompt};

const I2S: Encoding = Encoding::I2S(I2sLayout::X86);

/// Models that between them use every verb and every way of the forward pass.
fn models() -> Vec<(&'static str, Checkpoint, LoadOptions)> {
    let defaults = LoadOptions::default();
    let float = LoadOptions { activations: Some(Activations::Float), ..defaults.clone() };
    let mut in_norms = Synthetic::new("gemma3", SMALL, I2S, 4);
    for layer in 0..SMALL.layers {
        let query = SMALL.heads * SMALL.head_dim;
        for (name, len) in [
            ("attn_q", SMALL.hidden),
            ("attn_k", SMALL.hidden),
            ("attn_v", SMALL.hidden),
            ("attn_output", query),
            ("ffn_gate", SMALL.hidden),
            ("ffn_up", SMALL.hidden),
            ("ffn_down", SMALL.ffn),
        ] {
            in_norms.norm(&format!("blk.{layer}.{name}_norm_in.weight"), len);
        }
    }
    vec![
        ("bitnet", Synthetic::new("bitnet-b1.58", SMALL, I2S, 1).checkpoint(), defaults.clone()),
        ("odd sizes", Synthetic::new("bitnet", ODD, Encoding::F32, 2).checkpoint(), defaults.clone()),
        ("float activations", Synthetic::new("llama", SMALL, I2S, 3).checkpoint(), float),
        ("norms inside projections", in_norms.checkpoint(), defaults.clone()),
        ("dense", Synthetic::new("qwen3", SMALL, Encoding::Q8_0, 5).checkpoint(), defaults),
    ]
}

fn cpu(threads: usize, isa: Isa) -> CpuOptions {
    CpuOptions { threads: Some(threads), isa: Some(isa) }
}

fn best(checkpoint: &Checkpoint, options: &LoadOptions) -> Runner {
    Runner::new(checkpoint, options, cpu(2, Isa::best()))
}

/// Bits, so that NaN and −0 count too.
fn bits(logits: &[f32]) -> Vec<u32> {
    assert!(logits.iter().all(|x| x.is_finite()), "logits are not finite: the comparison would prove nothing");
    logits.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn tiers_and_threads() {
    for (name, checkpoint, options) in models() {
        let mut reference = Runner::new(&checkpoint, &options, cpu(1, Isa::Scalar));
        let ids = prompt(40, reference.vocab(), 7);
        let want = bits(&reference.logits(&ids));
        for isa in Isa::available() {
            for threads in [1, 2, 3] {
                let got = bits(&Runner::new(&checkpoint, &options, cpu(threads, isa)).logits(&ids));
                assert!(got == want, "{name}: {isa} with {threads} threads differs from scalar with 1");
            }
        }
    }
}

#[test]
fn one_sequence_or_eight() {
    for (name, checkpoint, options) in models() {
        let mut runner = best(&checkpoint, &options);
        // different lengths, so that rows of a sequence lie at odd places
        let prompts: Vec<_> = (0..8).map(|i| prompt(3 + 5 * i, runner.vocab(), i as u64)).collect();
        let alone: Vec<u32> = prompts.iter().flat_map(|ids| bits(&runner.logits(ids))).collect();
        let runs: Vec<_> = prompts.iter().enumerate().map(|(i, ids)| (i, 0, ids.as_slice())).collect();
        assert!(bits(&runner.step(&runs)) == alone, "{name}");
    }
}

#[test]
fn whole_or_in_chunks() {
    for (name, checkpoint, options) in models() {
        let mut runner = best(&checkpoint, &options);
        let ids = prompt(90, runner.vocab(), 8);
        let whole = bits(&runner.logits(&ids));
        for chunk in [1, 7, 32, 33] {
            let mut got = Vec::new();
            for (i, tokens) in ids.chunks(chunk).enumerate() {
                got.extend(bits(&runner.step(&[(1, i * chunk, tokens)])));
            }
            assert!(got == whole, "{name}: chunks of {chunk}");
        }
    }
}

/// Sequences come and go as a server's do: some read a prompt while others decode.
#[test]
fn interleaved_sequences() {
    for (name, checkpoint, options) in models() {
        let mut runner = best(&checkpoint, &options);
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
#[test]
fn encodings() {
    let model = |encoding| Synthetic::new("bitnet-b1.58", SMALL, encoding, 10).checkpoint();
    let defaults = LoadOptions::default();
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
