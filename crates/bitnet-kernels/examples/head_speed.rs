//! Speed of the output head of BitNet b1.58 2B-4T (128256 × 2560, f16, random weights: the hardest case for selections)
//! for one token: all logits, and those that can be chosen.
//!
//! `cargo run --release -p bitnet-kernels --example head_speed [tier ...]`

use bitnet_kernels::{
    Backend, Cpu, CpuOptions, DenseFormat, DenseWeights, Isa, KernelError, NormWeight, Top, Wanted, read_bandwidth,
};
use half::f16;
use std::time::Instant;

const HIDDEN: usize = 2560;
const VOCAB: usize = 128_256;
const STEPS: usize = 15;

/// Nearly normal: the sum of the four quarters of 64 random bits.
fn normal(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let bits = *state ^ *state >> 31;
    let quarters = [bits, bits >> 16, bits >> 32, bits >> 48].map(|q| f32::from(q as u16));
    (quarters.iter().sum::<f32>() - 131_070.0) / 37_837.0
}

fn main() -> Result<(), KernelError> {
    let mut state = 1;
    let bytes: Vec<u8> =
        (0..VOCAB * HIDDEN).flat_map(|_| f16::from_f32(normal(&mut state) * 0.02).to_le_bytes()).collect();
    let weights = DenseWeights { rows: VOCAB, cols: HIDDEN, format: DenseFormat::F16, bytes: bytes.into() };
    let norm = NormWeight { weight: vec![1.0; HIDDEN], eps: 1e-5 };
    let tiers: Vec<Isa> = match std::env::args().skip(1).map(|name| name.parse()).collect::<Result<Vec<_>, _>>()? {
        named if named.is_empty() => Isa::available().into_iter().filter(|isa| *isa != Isa::Scalar).collect(),
        named => named,
    };
    for threads in [1, 2] {
        let bandwidth = read_bandwidth(threads);
        println!("{threads} threads: the memory gives {:.2} GB/s", bandwidth / 1e9);
        for &isa in &tiers {
            let cpu = Cpu::new(CpuOptions { threads: Some(threads), isa: Some(isa) })?;
            let head = cpu.head(weights.clone())?;
            for rows in [1, 8] {
                let (mut x, mut out) = (cpu.rows(rows, HIDDEN)?, cpu.rows(rows, VOCAB)?);
                x.set_len(rows);
                let chosen: Vec<u32> = (0..rows as u32).collect();
                let tops = |count| vec![Top { count, margin: 0.0, ids: &[] }; rows];
                let (one, forty) = (tops(1), tops(40));
                for (what, wanted) in
                    [("all", Wanted::All), ("1 best", Wanted::Top(&one)), ("40 best", Wanted::Top(&forty))]
                {
                    let (mut best, mut read, mut first) = (f64::INFINITY, 0, 0.0f64);
                    for step in 0..STEPS {
                        x.row_mut(0).iter_mut().for_each(|x| *x = normal(&mut state));
                        for row in 1..rows {
                            let shifted: Vec<f32> = x.row(0).iter().skip(row).chain(x.row(0)).copied().collect();
                            x.row_mut(row).copy_from_slice(&shifted[..HIDDEN]);
                        }
                        let start = Instant::now();
                        read = cpu.logits(&x, &chosen, &norm, &head, wanted, &mut out).bytes;
                        let seconds = start.elapsed().as_secs_f64();
                        first = if step < 2 { first.max(seconds) } else { first };
                        best = best.min(seconds);
                    }
                    println!(
                        "  {isa}, {rows} rows, {what:7}: {:6.2} ms, {:4} MB, {:5.2} GB/s ({:3.0} %), the first {:4.0} ms",
                        best * 1e3,
                        read / 1_000_000,
                        read as f64 / best / 1e9,
                        100.0 * read as f64 / best / bandwidth,
                        first * 1e3,
                    );
                }
            }
        }
    }
    Ok(())
}
