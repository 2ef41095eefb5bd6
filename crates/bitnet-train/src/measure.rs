//! Loss on a validation text.

use crate::TrainError;
use crate::network::{Network, Weights};
use crate::pass::Pass;
use crate::tokens::Tokens;
use serde::{Deserialize, Serialize};

/// Windows that are measured together.
const BATCH: usize = 8;

/// Loss on the validation text, each token predicted once, in windows of the context.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Nats per token.
    pub nats_per_token: f64,
    /// Bits per byte of text.
    pub bits_per_byte: f64,
}

/// Measures a network with all its quantisation.
pub(crate) fn measure(
    pass: &mut Pass,
    network: &Network,
    text: &Tokens,
    context: usize,
) -> Result<Validation, TrainError> {
    let weights = Weights::new(network, 1.0)?;
    let windows: Vec<&[u32]> = text.windows(context).collect();
    let whole = windows.iter().take_while(|window| window.len() == context + 1).count();
    let mut nats = 0.0;
    for part in windows[..whole].chunks(BATCH).chain(windows[whole..].chunks(1)) {
        nats += pass.nats(network, &weights, part);
    }
    Ok(Validation {
        nats_per_token: nats / text.predicted().max(1) as f64,
        bits_per_byte: nats / std::f64::consts::LN_2 / text.bytes as f64,
    })
}
