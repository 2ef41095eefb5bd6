//! Speed of the float verbs on the shape of BitNet b1.58 2B-4T, per tier and thread count, beside the read bandwidth.
//!
//! `cargo run --release -p bitnet-kernels --example float_speed`

use bitnet_kernels::{
    Activation, Backend, Batch, Cpu, CpuOptions, DenseFormat, DenseWeights, Isa, KernelError, KvFormat, KvShape,
    NormWeight, PAGE_LEN, RopeStyle, RopeTable, Rows, read_bandwidth,
};
use std::time::Instant;

const HIDDEN: usize = 2560;
const FFN: usize = 6912;
const VOCAB: usize = 128_256;
const HEADS: usize = 20;
const KV_HEADS: usize = 5;
const HEAD_DIM: usize = 128;
const LAYERS: usize = 30;
const CONTEXT: usize = 4096;
/// Tokens of a prompt chunk.
const PREFILL: usize = 512;

/// Seconds of the fastest of some calls: the others were disturbed.
fn seconds(repeats: usize, mut call: impl FnMut()) -> f64 {
    call();
    (0..repeats)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}

/// Bytes that are valid values in every format: small positive f16 numbers wherever a scale may stand.
fn weights(format: DenseFormat, rows: usize, cols: usize, row_bytes: usize) -> DenseWeights {
    let bytes: Vec<u8> = (0..rows * row_bytes).map(|i| if i % 2 == 0 { (i / 2 * 37) as u8 } else { 0x24 }).collect();
    DenseWeights { rows, cols, format, bytes: bytes.into() }
}

/// `[rows, cols]` of small numbers.
fn filled(cpu: &Cpu, rows: usize, cols: usize) -> Result<Rows, KernelError> {
    let bytes: Vec<u8> = (0..cols).flat_map(|i| ((i % 17) as f32 / 16.0 - 0.5).to_le_bytes()).collect();
    let table = cpu.dense(DenseWeights { rows: 1, cols, format: DenseFormat::F32, bytes: bytes.into() })?;
    let mut out = cpu.rows(rows, cols)?;
    cpu.embed(&table, &vec![0; rows], 1.0, &mut out);
    Ok(out)
}

fn heads(cpu: &Cpu, bandwidth: f64, table: &DenseWeights) -> Result<(), KernelError> {
    let bytes = table.bytes.len() as f64;
    let format = table.format;
    let head = cpu.dense(table.clone())?;
    for tokens in [1, 4, 64] {
        let x = filled(cpu, tokens, HIDDEN)?;
        let mut out = cpu.rows(tokens, VOCAB)?;
        let s = seconds(if tokens == 64 { 1 } else { 5 }, || cpu.dense_matmul(&x, &[&head], &mut [&mut out]));
        println!(
            "  {format:?} head, {tokens:2} tokens: {:7.2} ms, {:6.2} GB/s ({:3.0} % of the bandwidth), {:6.1} Gflop/s",
            s * 1e3,
            bytes / s / 1e9,
            100.0 * bytes / s / bandwidth,
            2.0 * (tokens * VOCAB * HIDDEN) as f64 / s / 1e9
        );
    }
    Ok(())
}

fn attention(cpu: &Cpu, bandwidth: f64, format: KvFormat) -> Result<(), KernelError> {
    let pages = CONTEXT / PAGE_LEN;
    let mut kv =
        cpu.kv(KvShape { layers: LAYERS, heads: HEADS, kv_heads: KV_HEADS, head_dim: HEAD_DIM, pages, format })?;
    let table: Vec<u32> = (0..pages as u32).collect();
    let rope = RopeTable {
        style: RopeStyle::Neox,
        inverse_frequencies: (0..HEAD_DIM / 2).map(|i| 500_000f32.powf(-(i as f32) / 64.0)).collect(),
    };
    let mut q = filled(cpu, PREFILL, HEADS * HEAD_DIM)?;
    let k = filled(cpu, PREFILL, KV_HEADS * HEAD_DIM)?;
    let mut batch = Batch::default();
    for start in (0..CONTEXT).step_by(PREFILL) {
        batch.clear();
        batch.push(start, &[0; PREFILL], &table, 1);
        for layer in 0..LAYERS {
            cpu.rope_store(&mut q, &k, &k, &rope, &batch, layer, &mut kv);
        }
    }
    let s = seconds(3, || (0..LAYERS).for_each(|layer| cpu.rope_store(&mut q, &k, &k, &rope, &batch, layer, &mut kv)));
    println!("  {format}: rope and store of {PREFILL} tokens in {LAYERS} layers: {:.2} ms", s * 1e3);
    let mut out = cpu.rows(PREFILL, HEADS * HEAD_DIM)?;
    batch.clear();
    batch.push(0, &[0; PREFILL], &table, 1);
    let s = seconds(3, || cpu.attend(&q, &kv, &batch, 0, 0.1, None, &mut out));
    let flops = 4.0 * (HEADS * HEAD_DIM * PREFILL * (PREFILL + 1) / 2) as f64;
    println!(
        "  {format}: attention of {PREFILL} tokens, one layer: {:7.2} ms, {:6.1} Gflop/s",
        s * 1e3,
        flops / s / 1e9
    );
    batch.clear();
    batch.push(CONTEXT - 1, &[0], &table, 1);
    let q = filled(cpu, 1, HEADS * HEAD_DIM)?;
    let s = seconds(5, || (0..LAYERS).for_each(|layer| cpu.attend(&q, &kv, &batch, layer, 0.1, None, &mut out)));
    let bytes = kv.shape().bytes() as f64;
    println!(
        "  {format}: attention of 1 token at {CONTEXT} positions, {LAYERS} layers: {:7.2} ms, {:6.2} GB/s ({:3.0} % of the bandwidth)",
        s * 1e3,
        bytes / s / 1e9,
        100.0 * bytes / s / bandwidth
    );
    let mut q = filled(cpu, 1, HEADS * HEAD_DIM)?;
    let k = filled(cpu, 1, KV_HEADS * HEAD_DIM)?;
    let s = seconds(50, || (0..LAYERS).for_each(|layer| cpu.rope_store(&mut q, &k, &k, &rope, &batch, layer, &mut kv)));
    println!("  {format}: rope and store of 1 token in {LAYERS} layers: {:.1} µs", s * 1e6);
    Ok(())
}

fn elementwise(cpu: &Cpu, tokens: usize) -> Result<(), KernelError> {
    let norm = cpu.norm_weight(NormWeight { weight: vec![1.0; FFN], eps: 1e-5 })?;
    let (mut x, y) = (filled(cpu, tokens, FFN)?, filled(cpu, tokens, FFN)?);
    let mut out = cpu.rows(tokens, FFN)?;
    let per_value = 1e9 / (tokens * FFN) as f64;
    let ns = |s: f64| format!("{:6.3} ns/value ({:.1} µs)", s * per_value, s * 1e6);
    println!("  {tokens} × {FFN} values:");
    println!("    norm  {}", ns(seconds(50, || cpu.norm(&y, &norm, &mut out))));
    println!("    add   {}", ns(seconds(50, || cpu.add(&mut x, &y))));
    for activation in [Activation::Relu2, Activation::Silu, Activation::GeluTanh] {
        println!("    {activation:?}  {}", ns(seconds(50, || cpu.gated_activation(activation, &mut out, &y))));
    }
    Ok(())
}

fn main() -> Result<(), KernelError> {
    let tables = [
        weights(DenseFormat::F16, VOCAB, HIDDEN, 2 * HIDDEN),
        weights(DenseFormat::Q8_0, VOCAB, HIDDEN, HIDDEN / 32 * 34),
        weights(DenseFormat::Q6K, VOCAB, HIDDEN, HIDDEN / 256 * 210),
        weights(DenseFormat::Q4K, VOCAB, HIDDEN, HIDDEN / 256 * 144),
    ];
    for threads in [1, 2] {
        let bandwidth = read_bandwidth(threads);
        println!("{threads} threads: the memory gives {:.2} GB/s", bandwidth / 1e9);
        for isa in Isa::available() {
            if isa == Isa::Scalar {
                continue;
            }
            println!(" {isa}");
            let cpu = Cpu::new(CpuOptions { threads: Some(threads), isa: Some(isa) })?;
            for table in &tables {
                heads(&cpu, bandwidth, table)?;
            }
            for format in KvFormat::ALL {
                attention(&cpu, bandwidth, format)?;
            }
            elementwise(&cpu, 1)?;
            elementwise(&cpu, 64)?;
        }
    }
    Ok(())
}
