//! A small BitNet with random weights, written as a GGUF file with a byte-level tokenizer: tests need no model files.

#![allow(dead_code, unreachable_pub)] // every test uses a part

use bitnet_formats::gguf::{Array, Metadata, StringArray, TensorSource, Value, write};
use bitnet_formats::{Encoding, I2sLayout, Scales, Ternary};
use bitnet_inference::sampler::Random;
use bitnet_inference::{Engine, EngineOptions, GenerateRequest, Generation, Prompt, Sampling, TokenEvent};
use std::path::{Path, PathBuf};

pub const HIDDEN: usize = 128;
pub const FFN: usize = 256;
pub const LAYERS: usize = 2;
pub const HEADS: usize = 4;
pub const KV_HEADS: usize = 2;
/// 256 bytes, begin of sequence, end of text, and merges of frequent pairs.
pub const VOCAB: usize = 258 + MERGES.len();
pub const BOS: u32 = 256;
pub const EOS: u32 = 257;
const MERGES: [&str; 6] = ["t h", "th e", "Ġ the", "a n", "i n", LAST_MERGE];
const LAST_MERGE: &str = "Ġ a";

/// What to put into the file.
#[derive(Clone, Copy)]
pub struct Tiny {
    pub context: u32,
    pub tokenizer: bool,
    pub weights: Weights,
    /// Of the random weights.
    pub seed: u64,
    /// The last token of the vocabulary, as the two that it is made of.
    pub last_merge: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Weights {
    Random,
    /// One NaN in the embedding of token 65.
    Nan,
    /// All embeddings are zero, so all logits are.
    Zero,
}

pub const TINY: Tiny =
    Tiny { context: 512, tokenizer: true, weights: Weights::Random, seed: 1, last_merge: LAST_MERGE };

impl Tiny {
    /// Writes the file into `folder`.
    pub fn write(self, folder: &Path) -> PathBuf {
        let path = folder.join("tiny.gguf");
        write(&path, &self.metadata(), self.tensors(), &mut |_, _| {}, &mut |_| Ok(())).expect("written");
        path
    }

    /// An engine on it.
    pub fn engine(self, options: EngineOptions) -> Engine {
        let folder = tempfile::tempdir().expect("temporary folder");
        Engine::open(self.write(folder.path()), options).expect("a valid model")
    }

    fn metadata(self) -> Metadata {
        let mut m = Metadata::new();
        m.set("general.architecture", Value::String("bitnet-b1.58".into()));
        let numbers = [
            ("vocab_size", VOCAB),
            ("context_length", self.context as usize),
            ("embedding_length", HIDDEN),
            ("block_count", LAYERS),
            ("feed_forward_length", FFN),
            ("attention.head_count", HEADS),
            ("attention.head_count_kv", KV_HEADS),
            ("rope.dimension_count", HIDDEN / HEADS),
        ];
        for (key, value) in numbers {
            m.set(format!("bitnet-b1.58.{key}"), Value::U32(value as u32));
        }
        m.set("bitnet-b1.58.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        m.set("bitnet-b1.58.rope.freq_base", Value::F32(10000.0));
        if !self.tokenizer {
            return m;
        }
        let mut tokens: Vec<String> = (0..=255).map(|byte| byte_level(byte).to_string()).collect();
        tokens.extend(["<|begin|>".to_string(), "<|endoftext|>".to_string()]);
        let merges = MERGES.map(|merge| if merge == LAST_MERGE { self.last_merge } else { merge });
        tokens.extend(merges.map(|merge| merge.replace(' ', "")));
        let types: Vec<i32> = (0..tokens.len()).map(|i| if i == 256 || i == 257 { 3 } else { 1 }).collect();
        let strings = |list: Vec<String>| Value::Array(Array::String(StringArray::new(list).expect("strings")));
        m.set("tokenizer.ggml.model", Value::String("gpt2".into()));
        m.set("tokenizer.ggml.pre", Value::String("gpt-2".into()));
        m.set("tokenizer.ggml.tokens", strings(tokens));
        m.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
        m.set("tokenizer.ggml.merges", strings(merges.map(String::from).to_vec()));
        m.set("tokenizer.ggml.bos_token_id", Value::U32(BOS));
        m.set("tokenizer.ggml.eos_token_id", Value::U32(EOS));
        m.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
        m
    }

    fn tensors(self) -> Vec<TensorSource<'static>> {
        let mut random = Random::new(self.seed);
        let mut tensors = Vec::new();
        let mut embedding: Vec<f32> = (0..VOCAB * HIDDEN).map(|_| bell(&mut random)).collect();
        match self.weights {
            Weights::Random => {}
            Weights::Nan => embedding[65 * HIDDEN + 3] = f32::NAN,
            Weights::Zero => embedding.fill(0.0),
        }
        tensors.push(dense("token_embd.weight".into(), vec![VOCAB, HIDDEN], embedding));
        tensors.push(dense("output_norm.weight".into(), vec![HIDDEN], vec![0.15; HIDDEN]));
        for layer in 0..LAYERS {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let norms = [("attn_norm", HIDDEN), ("attn_sub_norm", HIDDEN), ("ffn_norm", HIDDEN), ("ffn_sub_norm", FFN)];
            for (part, len) in norms {
                let weight = (0..len).map(|_| 0.5 + random.uniform() as f32).collect();
                tensors.push(dense(name(part), vec![len], weight));
            }
            let kv = HIDDEN / HEADS * KV_HEADS;
            let projections = [
                ("attn_q", HIDDEN, HIDDEN),
                ("attn_k", kv, HIDDEN),
                ("attn_v", kv, HIDDEN),
                ("attn_output", HIDDEN, HIDDEN),
                ("ffn_gate", FFN, HIDDEN),
                ("ffn_up", FFN, HIDDEN),
                ("ffn_down", HIDDEN, FFN),
            ];
            for (part, rows, cols) in projections {
                let codes = (0..rows * cols).map(|_| (random.bits() % 3) as i8 - 1).collect();
                tensors.push(ternary(name(part), Ternary { rows, cols, codes, scales: Scales::Tensor(1.0) }));
            }
        }
        tensors
    }
}

/// Roughly normal, standard deviation 1.
fn bell(random: &mut Random) -> f32 {
    ((0..6).map(|_| random.uniform()).sum::<f64>() - 3.0) as f32 * std::f32::consts::SQRT_2
}

fn dense(name: String, shape: Vec<usize>, values: Vec<f32>) -> TensorSource<'static> {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    TensorSource { name, shape, encoding: Encoding::F32, bytes: Box::new(move || Ok(bytes.into())) }
}

fn ternary(name: String, weights: Ternary) -> TensorSource<'static> {
    let encoding = Encoding::I2S(I2sLayout::X86);
    let shape = vec![weights.rows, weights.cols];
    TensorSource { name, shape, encoding, bytes: Box::new(move || Ok(encoding.encode_ternary(&weights)?.into())) }
}

/// GPT-2's printable stand-in for a byte.
fn byte_level(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    match printable(byte) {
        true => char::from(byte),
        false => {
            let nth = (0..byte).filter(|&b| !printable(b)).count() as u32;
            char::from_u32(256 + nth).expect("a character")
        }
    }
}

/// A greedy request from ids that only ends by length.
pub fn greedy(ids: &[u32], max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        prompt: Prompt::Ids(ids.to_vec()),
        sampling: Sampling::greedy(),
        stop_at_eos: false,
        ..GenerateRequest::new("", max_tokens)
    }
}

/// As [`greedy`], with random choices: random models repeat themselves when greedy.
pub fn sampled(ids: &[u32], max_tokens: usize, seed: u64) -> GenerateRequest {
    let sampling = Sampling { temperature: 1.5, top_k: 0, top_p: 1.0, seed, ..Sampling::default() };
    GenerateRequest { sampling, ..greedy(ids, max_tokens) }
}

/// A prompt of `len` tokens.
pub fn prompt(len: usize, salt: u32) -> Vec<u32> {
    std::iter::once(BOS).chain((1..len as u32).map(|i| (i * 37 + salt * 11 + i * i) % 256)).collect()
}

/// All events.
pub fn events(generation: Generation<'_, '_>) -> Vec<TokenEvent> {
    generation.map(|event| event.expect("a token")).collect()
}

/// Ids of a request in a session of its own.
pub fn ids(engine: &Engine, request: &GenerateRequest) -> Vec<u32> {
    let mut session = engine.session();
    let generation = session.generate(request).expect("a valid request");
    events(generation).iter().map(|event| event.id).collect()
}
