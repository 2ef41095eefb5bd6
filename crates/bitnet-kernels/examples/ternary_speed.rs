//! Speed of the ternary product on the shapes of BitNet b1.58 2B-4T: `cargo run --release -p bitnet-kernels --example
//! ternary_speed`. All 210 matrices (521 MB) are walked, so that decoding reads main memory as a model does. With one
//! thread, times are those of the processor, not of the clock.

use std::time::Instant;

use bitnet_kernels::{
    Backend, Cpu, CpuOptions, Isa, KernelError, Quantized, Rows, Ternary, TernaryScales, TernaryWeights, read_bandwidth,
};

/// One layer: the matrices `[rows, cols]` that share an input.
const LAYER: [&[(usize, usize)]; 4] =
    [&[(2560, 2560), (640, 2560), (640, 2560)], &[(2560, 2560)], &[(6912, 2560), (6912, 2560)], &[(2560, 6912)]];
const LAYERS: usize = 30;

/// Time of the processor that this thread has used, where the system tells (Linux), since with one thread it is what
/// other programs do not disturb; otherwise what a clock shows.
fn seconds(threads: usize, start: Instant) -> f64 {
    let used = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let used = used.as_deref().and_then(|text| text.split(' ').next()?.parse::<f64>().ok()).map(|nanos| nanos / 1e9);
    used.filter(|_| threads == 1).unwrap_or_else(|| start.elapsed().as_secs_f64())
}

fn main() -> Result<(), KernelError> {
    for threads in [1, 2] {
        let bandwidth = read_bandwidth(threads);
        println!("{threads} threads read {:.1} GB/s", bandwidth / 1e9);
        for isa in Isa::available() {
            if isa != Isa::Scalar {
                measure(isa, threads, bandwidth)?;
            }
        }
    }
    Ok(())
}

fn measure(isa: Isa, threads: usize, bandwidth: f64) -> Result<(), KernelError> {
    let cpu = Cpu::new(CpuOptions { threads: Some(threads), isa: Some(isa) })?;
    let mut random = 1u64;
    let mut layers: Vec<Vec<Vec<Ternary>>> = Vec::new();
    let (mut bytes, mut loading) = (0, 0.0);
    for _ in 0..LAYERS {
        let mut layer = Vec::new();
        for group in LAYER {
            let mut matrices = Vec::new();
            for &(rows, cols) in group {
                let codes: Vec<u8> = (0..rows * cols / 4)
                    .map(|_| {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let bits = (random >> 33) as u8;
                        bits & !(bits & (bits << 1) & 0xaa) // no code 3
                    })
                    .collect();
                bytes += codes.len();
                let start = Instant::now();
                let scales = TernaryScales::Tensor(1.0);
                matrices.push(cpu.ternary(TernaryWeights { rows, cols, codes: codes.into(), scales })?);
                loading += start.elapsed().as_secs_f64();
            }
            layer.push(matrices);
        }
        layers.push(layer);
    }
    println!("  {isa}, {threads} threads: {} MB checked in {:.1} ms", bytes >> 20, loading * 1e3);
    for tokens in [1, 2, 4, 8, 16, 32, 128, 512] {
        let mut inputs: Vec<Quantized> = Vec::new();
        let mut outs: Vec<Vec<Rows>> = Vec::new();
        for group in LAYER {
            let mut x = cpu.rows(tokens, group[0].1)?;
            x.set_len(tokens);
            x.data_mut().iter_mut().enumerate().for_each(|(i, x)| *x = (i * 7919 % 1000) as f32 - 500.0);
            let mut quantized = cpu.quantized(tokens, group[0].1)?;
            cpu.norm_quantize(&x, None, &mut quantized);
            inputs.push(quantized);
            outs.push(group.iter().map(|&(rows, _)| cpu.rows(tokens, rows)).collect::<Result<_, _>>()?);
        }
        // Few tokens: all layers, so that every weight comes from memory. Many: arithmetic is the bound, and enough of it
        // for the 4 ms in which some systems count processor time.
        let layers = &layers[..(1024 / tokens).clamp(2, LAYERS)];
        let bytes = bytes / LAYERS * layers.len();
        let mut times = Vec::new();
        let clock = Instant::now();
        for _ in 0..11 {
            let start = seconds(threads, clock);
            for layer in layers {
                for (group, (x, outs)) in layer.iter().zip(inputs.iter().zip(&mut outs)) {
                    let weights: Vec<&Ternary> = group.iter().collect();
                    cpu.ternary_matmul(x, &weights, &mut outs.iter_mut().collect::<Vec<_>>());
                }
            }
            times.push(seconds(threads, clock) - start);
        }
        times.sort_by(f64::total_cmp);
        for (what, time) in [("median", times[times.len() / 2]), ("best", times[0])] {
            let (rate, operations) = (bytes as f64 / time, 8.0 * (bytes * tokens) as f64 / time);
            print!(
                "    {tokens:3} tokens, {what}: {:6.2} GB/s = {:3.0} % of the bandwidth, {:6.1} Gop/s;",
                rate / 1e9,
                100.0 * rate / bandwidth,
                operations / 1e9
            );
        }
        println!();
    }
    Ok(())
}
