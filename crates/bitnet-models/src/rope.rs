//! Rotary frequencies of a configuration, and the row order that goes with a pairing.

use crate::config::{Config, RopeScaling};
use crate::names::Projection;
use bitnet_formats::{Checkpoint, Source};
use bitnet_kernels::{RopeStyle, RopeTable};
use std::f32::consts::TAU;

/// The tables of blocks that see everything and of blocks with a sliding window.
pub(crate) fn tables(config: &Config, factors: Option<&[f32]>) -> (RopeTable, RopeTable) {
    // Files of ours state LLaMA 3.1's scaling both ways; the divisors are for other readers.
    let factors = factors.filter(|_| !matches!(config.rope_scaling, RopeScaling::Llama3 { .. }));
    let full = table(config, config.rope_theta, config.rope_scaling, factors);
    let local = match &config.sliding {
        Some(sliding) => table(config, sliding.rope_theta, RopeScaling::None, None),
        None => full.clone(),
    };
    (full, local)
}

/// Frequencies `1 / theta^(2i / dim)`, computed in f32 as transformers and llama2.c do, then stretched. `factors` are
/// the divisors of a GGUF file's `rope_freqs.weight`.
pub(crate) fn table(config: &Config, theta: f32, scaling: RopeScaling, factors: Option<&[f32]>) -> RopeTable {
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

/// Row order that turns NeoX pairs of a head into neighbours: row `h * rope_dim / 2 + j` (half `h`) goes to row
/// `2 j + h`; rows that are not rotated stay (formats.md §4.4).
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadRows {
    head_dim: usize,
    rope_dim: usize,
    /// From neighbours to halves instead.
    back: bool,
}

impl HeadRows {
    /// The order in which rows of a projection must be brought: that of Q and K of Hugging Face checkpoints, which are
    /// in NeoX order, when the network computes with neighbouring pairs.
    pub(crate) fn of(checkpoint: &Checkpoint, config: &Config, projection: Projection) -> Option<HeadRows> {
        HeadRows::of_hugging_face(config, projection).filter(|_| matches!(checkpoint.source, Source::HuggingFace(_)))
    }

    /// The order in which rows in Hugging Face's order must be brought for the network.
    pub(crate) fn of_hugging_face(config: &Config, projection: Projection) -> Option<HeadRows> {
        let rotated = matches!(projection, Projection::Query | Projection::Key);
        (rotated && config.rope_style == RopeStyle::Interleaved).then_some(HeadRows {
            head_dim: config.head_dim,
            rope_dim: config.rope_dim,
            back: false,
        })
    }

    /// The order in which a Hugging Face checkpoint has the rows of a projection, from that of this one.
    pub(crate) fn back(checkpoint: &Checkpoint, config: &Config, projection: Projection) -> Option<HeadRows> {
        let order = HeadRows::of_hugging_face(config, projection).map(|order| HeadRows { back: true, ..order });
        order.filter(|_| !matches!(checkpoint.source, Source::HuggingFace(_)))
    }

    /// The row of the input that becomes row `row`.
    fn source(self, row: usize) -> usize {
        let r = row % self.head_dim;
        let half = self.rope_dim / 2;
        match r < self.rope_dim {
            true if self.back => row - r + r % half * 2 + r / half,
            true => row - r + r % 2 * half + r / 2,
            false => row,
        }
    }

    /// Rows of `len` values each, in the new order.
    pub(crate) fn apply<T: Copy>(self, values: &[T], len: usize) -> Vec<T> {
        let rows = values.len().checked_div(len).unwrap_or(0);
        let mut out = Vec::with_capacity(values.len());
        (0..rows).for_each(|row| out.extend_from_slice(&values[self.source(row) * len..][..len]));
        out
    }
}
