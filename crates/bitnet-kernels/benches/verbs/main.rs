//! Every verb on the shapes of BitNet b1.58 2B-4T: times, rates, and what share of this machine's own limits they reach, which are
//! measured in the same run.
//!
//! `cargo bench -p bitnet-kernels [-- ternary head …]`; `RAYON_NUM_THREADS` and `BITNET_ISA` choose threads and tier.

mod shares;
mod weights;

use bitnet_kernels::{
    Activation, Backend, Batch, Cpu, CpuOptions, Dense, DenseFormat, KernelError, KvFormat, KvShape, NormWeight,
    PAGE_LEN, Quantized, RopeStyle, RopeTable, Rows, Ternary, TernaryScales, TernaryWeights, Top, Wanted,
};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use shares::{Limit, Work};
use std::fmt;
use std::sync::LazyLock;

const HIDDEN: usize = 2560;
const FFN: usize = 6912;
const VOCAB: usize = 128_256;
const HEADS: usize = 20;
const KV_HEADS: usize = 5;
const HEAD_DIM: usize = 128;
const LAYERS: usize = 30;
const CONTEXT: usize = 4096;

static CPU: LazyLock<Cpu> = LazyLock::new(|| {
    CpuOptions::from_env().and_then(Cpu::new).expect("RAYON_NUM_THREADS and BITNET_ISA fit this machine")
});

fn main() {
    divan::main();
    shares::print(&CPU);
}

/// Times `verb`, which gets the number of the call.
fn measure(bencher: Bencher<'_, '_>, name: String, work: Work, mut verb: impl FnMut(usize)) {
    let mut call = 0;
    let bencher = bencher.counter(BytesCount::new(work.bytes)).counter(ItemsCount::new(work.operations));
    bencher.bench_local(|| {
        shares::time(&name, work, || verb(call));
        call += 1;
    });
}

/// `[rows, cols]` of small numbers.
fn filled(rows: usize, cols: usize) -> Result<Rows, KernelError> {
    let mut out = CPU.rows(rows, cols)?;
    out.set_len(rows);
    out.data_mut().iter_mut().enumerate().for_each(|(i, x)| *x = (i * 7919 % 1000) as f32 / 500.0 - 1.0);
    Ok(out)
}

#[derive(Clone, Copy)]
struct Product {
    rows: usize,
    cols: usize,
    tokens: usize,
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}, {} tokens", self.rows, self.cols, self.tokens)
    }
}

fn products() -> impl Iterator<Item = Product> {
    let shapes = [(HIDDEN, HIDDEN), (FFN, HIDDEN), (HIDDEN, FFN)];
    shapes.into_iter().flat_map(|(rows, cols)| [1, 8, 128, 512].map(|tokens| Product { rows, cols, tokens }))
}

/// Other weights at every call, so that they come from memory.
#[divan::bench(args = products(), sample_count = 100, sample_size = 1)]
fn ternary(bencher: Bencher<'_, '_>, product: Product) {
    let Product { rows, cols, tokens } = product;
    let matrices = weights::ternary(rows, cols).expect("valid weights");
    let run = || -> Result<(Quantized, Rows), KernelError> {
        let mut x = CPU.quantized(tokens, cols)?;
        CPU.norm_quantize(&filled(tokens, cols)?, None, &mut x);
        Ok((x, CPU.rows(tokens, rows)?))
    };
    let (x, mut out) = run().expect("memory");
    let work = Work {
        bytes: rows * cols / 4,
        operations: 2 * rows * cols * tokens,
        limit: if tokens == 1 { Limit::Read } else { Limit::Int8 },
    };
    measure(bencher, format!("ternary {product}"), work, |call| {
        CPU.ternary_matmul(&x, &[&matrices[call % matrices.len()]], &mut [&mut out]);
    });
}

#[derive(Clone, Copy)]
struct Table {
    format: DenseFormat,
    tokens: usize,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {} tokens", self.format, self.tokens)
    }
}

fn tables() -> impl Iterator<Item = Table> {
    let formats = [DenseFormat::F16, DenseFormat::Q8_0, DenseFormat::Q6K, DenseFormat::Q4K];
    formats.into_iter().flat_map(|format| [1, 64].map(|tokens| Table { format, tokens }))
}

/// The whole output head.
#[divan::bench(args = tables(), sample_count = 8, sample_size = 1)]
fn dense(bencher: Bencher<'_, '_>, table: Table) {
    let Table { format, tokens } = table;
    let (head, bytes) = weights::dense(format, VOCAB, HIDDEN).expect("valid weights");
    let (x, mut out) = (filled(tokens, HIDDEN).expect("memory"), CPU.rows(tokens, VOCAB).expect("memory"));
    let work = Work {
        bytes,
        operations: 2 * VOCAB * HIDDEN * tokens,
        limit: if tokens == 1 { Limit::Read } else { Limit::Float },
    };
    measure(bencher, format!("dense {VOCAB}x{HIDDEN} {table}"), work, |_| {
        CPU.dense_matmul(&x, &[&head], &mut [&mut out]);
    });
}

#[derive(Clone, Copy)]
struct Choice {
    rows: usize,
    best: usize,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows, {} best", self.rows, self.best)
    }
}

const CHOICES: [Choice; 4] = [
    Choice { rows: 1, best: 1 },
    Choice { rows: 1, best: 40 },
    Choice { rows: 8, best: 1 },
    Choice { rows: 8, best: 40 },
];

/// Logits that can be chosen, from an F16 head of random weights: the hardest case, rows differ as little as rows can.
#[divan::bench(args = CHOICES, sample_count = 16, sample_size = 1)]
fn head(bencher: Bencher<'_, '_>, choice: Choice) {
    static HEAD: LazyLock<Dense> = LazyLock::new(|| weights::normal_head(VOCAB, HIDDEN).expect("memory"));
    let Choice { rows, best } = choice;
    let norm = NormWeight { weight: vec![1.0; HIDDEN], eps: 1e-5 };
    let chosen: Vec<u32> = (0..rows as u32).collect();
    let tops = vec![Top { count: best, margin: 0.0, ids: &[] }; rows];
    let mut x = CPU.rows(rows, HIDDEN).expect("memory");
    x.set_len(rows);
    x.data_mut().iter_mut().zip(weights::normal(2)).for_each(|(x, value)| *x = value);
    let mut out = CPU.rows(rows, VOCAB).expect("memory");
    let mut select = || CPU.logits(&x, &chosen, &norm, &HEAD, Wanted::Top(&tops), &mut out).bytes as usize;
    select(); // the second selection makes the planes
    select();
    let work = Work { bytes: select(), operations: 2 * VOCAB * HIDDEN * rows, limit: Limit::Read };
    measure(bencher, format!("head {choice}"), work, |_| {
        select();
    });
}

#[derive(Clone, Copy)]
struct Attention {
    format: KvFormat,
    start: usize,
    tokens: usize,
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} tokens after {}", self.format, self.tokens, self.start)
    }
}

fn attentions() -> impl Iterator<Item = Attention> {
    KvFormat::ALL.into_iter().flat_map(|format| {
        [(CONTEXT - 1, 1), (0, 512), (CONTEXT - 512, 512)].map(|(start, tokens)| Attention { format, start, tokens })
    })
}

/// One block, another one at every call.
#[divan::bench(args = attentions(), sample_count = 60, sample_size = 1)]
fn attend(bencher: Bencher<'_, '_>, attention: Attention) {
    let Attention { format, start, tokens } = attention;
    let pages: Vec<u32> = (0..(CONTEXT / PAGE_LEN) as u32).collect();
    let shape =
        KvShape { layers: LAYERS, heads: HEADS, kv_heads: KV_HEADS, head_dim: HEAD_DIM, pages: pages.len(), format };
    let mut kv = CPU.kv(shape).expect("memory");
    let rope = rope();
    let (mut q, k) =
        (filled(512, HEADS * HEAD_DIM).expect("memory"), filled(512, KV_HEADS * HEAD_DIM).expect("memory"));
    let mut batch = Batch::default();
    for first in (0..CONTEXT).step_by(512) {
        batch.clear();
        batch.push(first, &[0; 512], &pages, 1);
        (0..LAYERS).for_each(|layer| CPU.rope_store(&mut q, &k, &k, &rope, &batch, layer, &mut kv));
    }
    batch.clear();
    batch.push(start, &vec![0; tokens], &pages, 1);
    let q = filled(tokens, HEADS * HEAD_DIM).expect("memory");
    let mut out = CPU.rows(tokens, HEADS * HEAD_DIM).expect("memory");
    let positions = tokens * start + tokens * (tokens + 1) / 2;
    let work = Work {
        bytes: shape.bytes() / LAYERS / CONTEXT * (start + tokens),
        operations: 4 * HEADS * HEAD_DIM * positions,
        limit: if tokens == 1 { Limit::Read } else { Limit::Float },
    };
    measure(bencher, format!("attend {attention}"), work, |call| {
        CPU.attend(&q, &kv, &batch, call % LAYERS, 0.1, None, &mut out);
    });
}

#[divan::bench(args = [1, 512], sample_count = 60)]
fn rope_store(bencher: Bencher<'_, '_>, tokens: usize) {
    let pages: Vec<u32> = (0..(tokens.div_ceil(PAGE_LEN)) as u32).collect();
    let shape = KvShape {
        layers: 1,
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        pages: pages.len(),
        format: KvFormat::F16,
    };
    let mut kv = CPU.kv(shape).expect("memory");
    let rope = rope();
    let mut q = filled(tokens, HEADS * HEAD_DIM).expect("memory");
    let k = filled(tokens, KV_HEADS * HEAD_DIM).expect("memory");
    let mut batch = Batch::default();
    batch.push(0, &vec![0; tokens], &pages, 1);
    let values = tokens * HEAD_DIM * (2 * HEADS + 2 * KV_HEADS);
    let work = Work { bytes: 4 * values, operations: 0, limit: Limit::Read };
    measure(bencher, format!("rope_store f16, {tokens} tokens"), work, |_| {
        CPU.rope_store(&mut q, &k, &k, &rope, &batch, 0, &mut kv);
    });
}

fn rope() -> RopeTable {
    RopeTable {
        style: RopeStyle::Neox,
        inverse_frequencies: (0..HEAD_DIM / 2).map(|i| 500_000f32.powf(-(i as f32) / 64.0)).collect(),
    }
}

/// Verbs that touch every value once or twice; one token stays in the caches, so that more than all of the memory's bandwidth is possible.
#[derive(Clone, Copy, Debug)]
enum Pointwise {
    Norm,
    NormQuantize,
    Add,
    Relu2,
    Silu,
}

fn pointwise_cases() -> impl Iterator<Item = (Pointwise, usize)> {
    use Pointwise::*;
    [Norm, NormQuantize, Add, Relu2, Silu].into_iter().flat_map(|verb| [1, 512].map(|tokens| (verb, tokens)))
}

struct Case(Pointwise, usize);

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {} x {FFN}", self.0, self.1)
    }
}

#[divan::bench(args = pointwise_cases().map(|(verb, tokens)| Case(verb, tokens)), sample_count = 60)]
fn pointwise(bencher: Bencher<'_, '_>, case: &Case) {
    let &Case(verb, tokens) = case;
    let norm = NormWeight { weight: vec![1.0; FFN], eps: 1e-5 };
    let (mut x, mut y) = (filled(tokens, FFN).expect("memory"), filled(tokens, FFN).expect("memory"));
    if matches!(verb, Pointwise::Relu2 | Pointwise::Silu) {
        y.data_mut().fill(0.0); // otherwise what is multiplied in place again and again gets too small for fast arithmetic
    }
    let mut quantized = CPU.quantized(tokens, FFN).expect("memory");
    let bytes_per_value = match verb {
        Pointwise::NormQuantize => 5,
        Pointwise::Norm => 8,
        Pointwise::Add | Pointwise::Relu2 | Pointwise::Silu => 12,
    };
    let work = Work { bytes: bytes_per_value * tokens * FFN, operations: 0, limit: Limit::Read };
    measure(bencher, format!("{case}"), work, |_| match verb {
        Pointwise::Norm => CPU.norm(&y, &norm, &mut x),
        Pointwise::NormQuantize => CPU.norm_quantize(&y, Some(&norm), &mut quantized),
        Pointwise::Add => CPU.add(&mut x, &y),
        Pointwise::Relu2 => CPU.gated_activation(Activation::Relu2, &mut x, &y),
        Pointwise::Silu => CPU.gated_activation(Activation::Silu, &mut x, &y),
    });
}

/// One scale for the matrix.
fn tensor(rows: usize, cols: usize, codes: bytes::Bytes) -> Result<Ternary, KernelError> {
    CPU.ternary(TernaryWeights { rows, cols, codes, scales: TernaryScales::Tensor(1.0) })
}
