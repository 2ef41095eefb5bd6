//! Rotary frequencies of a configuration.

use crate::config::{Config, RopeScaling};
use bitnet_kernels::RopeTable;
use std::f32::consts::TAU;

/// The tables of blocks that see everything and of blocks with a sliding window.
pub(crate) fn tables(config: &Config, factors: Option<&[f32]>) -> (RopeTable, RopeTable) {
    let full = table(config, config.rope_theta, config.rope_scaling, factors);
    let local = match &config.sliding {
        Some(sliding) => table(config, sliding.rope_theta, RopeScaling::None, None),
        None => full.clone(),
    };
    (full, local)
}

/// Frequencies `1 / theta^(2i / dim)`, computed in f32 as transformers and llama2.c do, then stretched. `factors` are
/// the divisors of a GGUF file's `rope_freqs.weight`.
fn table(config: &Config, theta: f32, scaling: RopeScaling, factors: Option<&[f32]>) -> RopeTable {
    let dim = config.rope_dim;
    let mut frequencies: Vec<f32> = (0..dim / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / dim as f32;
            // pow in f64 gives the same bits on every machine
            1.0 / libm::pow(f64::from(theta), f64::from(exponent)) as f32
        })
        .collect();
    match scaling {
        RopeScaling::None => {}
        RopeScaling::Linear(factor) => frequencies.iter_mut().for_each(|f| *f /= factor),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            for frequency in &mut frequencies {
                let wavelength = TAU / *frequency;
                *frequency = if wavelength > original_context / low_freq_factor {
                    *frequency / factor
                } else if wavelength < original_context / high_freq_factor {
                    *frequency
                } else {
                    let smooth =
                        (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * *frequency / factor + smooth * *frequency
                };
            }
        }
    }
    for (frequency, factor) in frequencies.iter_mut().zip(factors.unwrap_or_default()) {
        *frequency /= factor;
    }
    RopeTable { style: config.rope_style, inverse_frequencies: frequencies }
}
