//! The sampler chain as arguments.

use bitnet::Sampling;
use clap::Args;
use std::hash::{BuildHasher, RandomState};

/// How the next token is chosen. The steps apply in the order listed here.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Always take the most probable token
    #[arg(long, conflicts_with = "temperature")]
    greedy: bool,
    /// Add VALUE to the logit of token ID (repeatable)
    #[arg(long, value_name = "ID=VALUE", value_parser = logit_bias, allow_hyphen_values = true)]
    logit_bias: Vec<(u32, f32)>,
    /// Divide the logits of tokens already seen by this; 1 = off
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Subtract this for every time a token was seen; 0 = off
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Subtract this if a token was seen at all; 0 = off
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// How many past tokens the penalties look at [default: all]
    #[arg(long, value_name = "N")]
    penalty_window: Option<usize>,
    /// DRY: penalise tokens that continue a repeated sequence; 0 = off
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    dry_multiplier: Option<f32>,
    /// DRY: growth of the penalty per repeated token
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    dry_base: Option<f32>,
    /// DRY: repeats up to this length are free
    #[arg(long, value_name = "N")]
    dry_allowed_length: Option<usize>,
    /// Keep the K most probable tokens; 0 = all [default: 40]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Locally typical sampling; 1 = off
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    typical_p: Option<f32>,
    /// Keep the most probable tokens that make up P; 1 = all [default: 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Keep tokens at least P times as probable as the best; 0 = all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// XTC: chance per token to drop the most probable ones; 0 = off
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    xtc_probability: Option<f32>,
    /// XTC: tokens above this probability may be dropped
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    xtc_threshold: Option<f32>,
    /// Flatten (above 1) or sharpen (below 1) the choice; 0 = greedy [default: 0.8]
    #[arg(long, visible_alias = "temp", value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Same seed, same text [default: a new one each time, shown with the statistics]
    #[arg(long, env = "BITNET_SEED", value_name = "S")]
    seed: Option<u64>,
}

impl SamplingArgs {
    /// The library's defaults with what was given put over them. Ranges are checked by the library.
    pub(crate) fn sampling(&self) -> Sampling {
        let mut s = if self.greedy { Sampling::greedy() } else { Sampling::default() };
        let set = |field: &mut f32, given: Option<f32>| *field = given.unwrap_or(*field);
        set(&mut s.repetition_penalty, self.repetition_penalty);
        set(&mut s.frequency_penalty, self.frequency_penalty);
        set(&mut s.presence_penalty, self.presence_penalty);
        set(&mut s.dry_multiplier, self.dry_multiplier);
        set(&mut s.dry_base, self.dry_base);
        set(&mut s.typical_p, self.typical_p);
        set(&mut s.top_p, self.top_p);
        set(&mut s.min_p, self.min_p);
        set(&mut s.xtc_probability, self.xtc_probability);
        set(&mut s.xtc_threshold, self.xtc_threshold);
        set(&mut s.temperature, self.temperature);
        s.logit_bias.clone_from(&self.logit_bias);
        s.penalty_window = self.penalty_window.or(s.penalty_window);
        s.dry_allowed_length = self.dry_allowed_length.unwrap_or(s.dry_allowed_length);
        s.top_k = self.top_k.unwrap_or(s.top_k);
        s.seed = self.seed.unwrap_or_else(fresh_seed);
        s
    }
}

/// A seed nobody can guess, short enough to type again: the standard library's hasher keys come from the system's
/// random numbers.
fn fresh_seed() -> u64 {
    RandomState::new().hash_one(0) >> 32
}

fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let (id, value) = text.split_once('=').ok_or("expected ID=VALUE, for example 13=-5")?;
    let id = id.trim().parse().map_err(|e| format!("token id {id:?}: {e}"))?;
    let value = value.trim().parse().map_err(|e| format!("value {value:?}: {e}"))?;
    Ok((id, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_given_is_the_library_default() {
        let args = SamplingArgs { seed: Some(7), ..SamplingArgs::default() };
        assert_eq!(args.sampling(), Sampling { seed: 7, ..Sampling::default() });
        let args = SamplingArgs { greedy: true, seed: Some(7), ..SamplingArgs::default() };
        assert_eq!(args.sampling(), Sampling { seed: 7, ..Sampling::greedy() });
    }

    #[test]
    fn biases_parse() {
        assert_eq!(logit_bias("13=-5"), Ok((13, -5.0)));
        assert!(logit_bias("13").is_err());
        assert!(logit_bias("-1=2").is_err());
        assert!(logit_bias("1=x").is_err());
    }
}
