//! Variants of a network that no golden data covers: each is compared with `==` to another way of saying the same.

#[path = "support/runner.rs"]
#[allow(dead_code)] // every test uses a part
mod runner;
#[path = "support/synthetic.rs"]
#[allow(dead_code)]
mod synthetic;

use bitnet_formats::gguf::Value;
use bitnet_formats::{Checkpoint, Encoding, I2sLayout, Ternary};
use bitnet_kernels::CpuOptions;
use bitnet_models::{Activations, LoadOptions};
use runner::Runner;
use synthetic::{SMALL, Synthetic, prompt};

const I2S: Encoding = Encoding::I2S(I2sLayout::X86);

fn run(checkpoint: &Checkpoint, options: &LoadOptions, ids: &[u32]) -> Vec<f32> {
    Runner::new(checkpoint, options, CpuOptions { threads: Some(2), isa: None }).logits(ids)
}

fn logits(model: Synthetic, ids: &[u32]) -> Vec<f32> {
    let logits = run(&model.checkpoint(), &LoadOptions::default(), ids);
    assert!(logits.iter().all(|x| x.is_finite()));
    logits
}

/// Changes the float values of a tensor that is stored in a float encoding.
fn change(model: &mut Synthetic, name: &str, f: impl Fn(f32) -> f32) {
    let tensor = model.tensors.get_mut(name).unwrap();
    let (rows, cols) = tensor.matrix();
    let values: Vec<f32> = tensor.encoding.decode(&tensor.bytes, rows, cols).unwrap().into_iter().map(f).collect();
    tensor.bytes = tensor.encoding.encode(&values, rows, cols).unwrap().into();
}

#[test]
fn a_scale_beside_the_projection_multiplies() {
    let ids = prompt(20, SMALL.vocab, 1);
    let mut beside = Synthetic::new("bitnet", SMALL, Encoding::F32, 1);
    let mut inside = Synthetic::new("bitnet", SMALL, Encoding::F32, 1);
    beside.floats("blk.1.ffn_down.scale", &[2.0]);
    change(&mut inside, "blk.1.ffn_down.weight", |w| 2.0 * w);
    let plain = logits(Synthetic::new("bitnet", SMALL, Encoding::F32, 1), &ids);
    let got = logits(beside, &ids);
    assert!(got == logits(inside, &ids));
    assert!(got != plain, "the scale is ignored");
}

#[test]
fn rotary_factors_divide_frequencies() {
    let ids = prompt(20, SMALL.vocab, 2);
    let mut factors = Synthetic::new("llama", SMALL, I2S, 2);
    factors.floats("rope_freqs.weight", &[4.0; 32]);
    let mut linear = Synthetic::new("llama", SMALL, I2S, 2);
    linear.set("rope.scaling.type", Value::String("linear".into()));
    linear.set("rope.scaling.factor", Value::F32(4.0));
    let plain = logits(Synthetic::new("llama", SMALL, I2S, 2), &ids);
    let got = logits(factors, &ids);
    assert!(got == logits(linear, &ids));
    for key in ["rope.scaling.factor", "rope.scale_linear"] {
        let mut alone = Synthetic::new("llama", SMALL, I2S, 2); // linear for llama.cpp
        alone.set(key, Value::F32(4.0));
        assert!(got == logits(alone, &ids), "{key}");
    }
    assert!(got != plain, "the factors are ignored");
}

#[test]
fn sliding_windows_hide_the_far_past() {
    let ids = prompt(40, SMALL.vocab, 3);
    let gemma = |window: u32, pattern: u32| {
        let mut model = Synthetic::new("gemma3", SMALL, I2S, 3);
        model.set("attention.sliding_window", Value::U32(window));
        model.set("attention.sliding_window_pattern", Value::U32(pattern));
        logits(model, &ids)
    };
    let full = logits(Synthetic::new("gemma3", SMALL, I2S, 3), &ids);
    assert!(gemma(40, 6) == full, "a window as long as the text hides nothing");
    assert!(gemma(8, 1) == full, "with a pattern of 1 every block sees everything");
    let narrow = gemma(8, 2);
    let seen = 8 * SMALL.vocab;
    assert!(narrow[..seen] == full[..seen], "inside of the window nothing changes");
    assert!(narrow[seen..] != full[seen..], "the window is ignored");
    // sliding blocks have a rotary base of their own
    let mut local = Synthetic::new("gemma3", SMALL, I2S, 3);
    local.set("attention.sliding_window", Value::U32(40));
    local.set("rope.freq_base_swa", Value::F32(1e6));
    assert!(logits(local, &ids) != full, "the base of sliding blocks is ignored");
}

#[test]
fn epsilon_of_norms_inside_projections() {
    let ids = prompt(20, SMALL.vocab, 4);
    let model = |eps: Option<f32>| {
        let mut model = Synthetic::new("llama", SMALL, I2S, 4);
        for layer in 0..SMALL.layers {
            for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"] {
                let len = model.tensors[&format!("blk.{layer}.{name}.weight")].shape[1];
                model.norm(&format!("blk.{layer}.{name}_norm_in.weight"), len);
            }
        }
        if let Some(eps) = eps {
            model.metadata.set("bitnet.norm_in_epsilon", Value::F32(eps));
        }
        logits(model, &ids)
    };
    assert!(model(None) == model(Some(1e-5)), "without the key it is the model's epsilon");
    assert!(model(None) != model(Some(0.1)), "the key is ignored");
}

/// Scales per group: int8 and float activations are two paths with the same weights.
#[test]
fn group_scales() {
    let ids = prompt(20, SMALL.vocab, 5);
    for encoding in [Encoding::Q2_0, Encoding::Pq2_0, Encoding::Tq2_0, Encoding::Tq1_0] {
        let len = match encoding {
            Encoding::Q2_0 => 64,
            Encoding::Pq2_0 => 128,
            _ => 256,
        };
        let model = || Synthetic::new("qwen3", SMALL, encoding, 5).group_scales(encoding, len);
        let options = |activations| LoadOptions { activations: Some(activations), ..LoadOptions::default() };
        let float = run(&model().checkpoint(), &options(Activations::Float), &ids);

        // the oracle: the same weights as plain floats
        let mut plain = model();
        for tensor in plain.tensors.values_mut().filter(|t| t.encoding == encoding) {
            let (rows, cols) = tensor.matrix();
            let values = encoding.decode(&tensor.bytes, rows, cols).unwrap();
            tensor.bytes = Encoding::F16.encode(&values, rows, cols).unwrap().into();
            tensor.encoding = Encoding::F16;
        }
        assert!(float == run(&plain.checkpoint(), &options(Activations::Float), &ids), "{encoding}");

        let int8 = run(&model().checkpoint(), &options(Activations::Int8), &ids);
        for (a, b) in int8.chunks(SMALL.vocab).zip(float.chunks(SMALL.vocab)) {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
            assert!(cosine > 0.99, "{encoding}: int8 activations change the direction: cosine {cosine}");
        }
        assert!(int8 != float);
    }
}

/// A BitNet in floats: master weights are ternarised as the reference does, and the remark says so.
#[test]
fn master_weights_under_a_bitnet_architecture() {
    let ids = prompt(10, SMALL.vocab, 6);
    let mut master = Synthetic::new("bitnet-b1.58", SMALL, Encoding::F32, 6);
    let mut ternarised = Synthetic::new("bitnet-b1.58", SMALL, Encoding::F32, 6);
    for (name, tensor) in &mut master.tensors {
        let (rows, cols) = tensor.matrix();
        if rows == 1 || name == "token_embd.weight" {
            continue;
        }
        let values =
            prompt(rows * cols, 2001, rows as u64).iter().map(|&v| (v as f32 - 1000.0) / 1e4).collect::<Vec<_>>();
        tensor.bytes = Encoding::F32.encode(&values, rows, cols).unwrap().into();
        let weights = Ternary::absmean(&values, rows, cols).unwrap();
        let tensor = ternarised.tensors.get_mut(name).unwrap();
        tensor.encoding = I2S;
        tensor.bytes = I2S.encode_ternary(&weights).unwrap().into();
    }
    let master = master.checkpoint();
    let runner = Runner::new(&master, &LoadOptions::default(), CpuOptions::default());
    assert!(runner.model.notes().iter().any(|note| note.contains("absmean")), "{:?}", runner.model.notes());
    assert!(run(&master, &LoadOptions::default(), &ids) == logits(ternarised, &ids));
}
