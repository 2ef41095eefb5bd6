//! A trained network on the engine's kernels: int8 activations, integer sums.

use crate::dataset::Dataset;
use crate::linear::Linear;
use crate::network::{Network, classes};
use bitnet::formats::Scales;
use bitnet::kernels::{Backend, Cpu, CpuOptions, DenseFormat, DenseWeights, TernaryScales, TernaryWeights};

/// The likeliest class of every image.
pub(crate) fn answers(network: &Network, data: &Dataset) -> anyhow::Result<Vec<u8>> {
    let cpu = Cpu::new(CpuOptions::from_env()?)?;
    let image = data.size * data.size * data.channels;
    let mut all = Vec::new();
    for part in data.pixels.chunks(64 * image) {
        let mut x = part.to_vec();
        for (index, layer) in network.layers.iter().enumerate() {
            layer.norm(&mut x);
            x = multiply(&cpu, &layer.linear, &layer.windows(&x))?;
            if index + 1 < network.layers.len() {
                x.iter_mut().for_each(|x| *x = x.max(0.0));
            }
        }
        all.extend(classes(&x));
    }
    Ok(all)
}

/// `x Wᵀ`: a ternary layer by `norm_quantize` and `ternary_matmul`, the head by `dense_matmul`.
fn multiply(cpu: &Cpu, linear: &Linear, x: &[f32]) -> anyhow::Result<Vec<f32>> {
    let &Linear { inputs, outputs, .. } = linear;
    let count = x.len() / inputs;
    let dense = |rows: usize, cols: usize, values: &[f32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        cpu.dense(DenseWeights { rows, cols, format: DenseFormat::F32, bytes: bytes.into() })
    };
    let (mut rows, mut out) = (cpu.rows(count, inputs)?, cpu.rows(count, outputs)?);
    let ids: Vec<u32> = (0..count as u32).collect();
    cpu.embed(&dense(count, inputs, x)?, &ids, 1.0, &mut rows);
    if linear.ternary {
        let codes = linear.codes();
        let Scales::Tensor(scale) = codes.scales else { anyhow::bail!("absmean has one scale") };
        let weights = TernaryWeights::pack(&codes.codes, outputs, inputs, TernaryScales::Tensor(scale))?;
        let mut quantized = cpu.quantized(count, inputs)?;
        cpu.norm_quantize(&rows, None, &mut quantized);
        cpu.ternary_matmul(&quantized, &[&cpu.ternary(weights)?], &mut [&mut out]);
    } else {
        cpu.dense_matmul(&rows, &[&dense(outputs, inputs, &linear.weights)?], &mut [&mut out]);
    }
    let mut values = vec![0.0; count * outputs];
    cpu.read(&out, &mut values);
    Ok(values)
}
