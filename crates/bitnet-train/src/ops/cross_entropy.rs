//! Cross-entropy of a head, without ever holding all logits: those of a chunk of tokens are computed, turned into their own
//! gradient `softmax − onehot`, multiplied back and forgotten.

use super::{exp, largest};
use crate::matmul::{Operand, Packed, Store, Values, matmul};
use crate::vectorized::vectorized;
use rayon::prelude::*;

/// Tokens whose logits are held at a time.
const HEAD_CHUNK: usize = 512;

/// Head, targets and memory of a cross-entropy.
pub(crate) struct CrossEntropy<'a> {
    /// The table `[vocab, channels]` packed to multiply hidden states with.
    pub(crate) forward: &'a Packed,
    /// The same, to multiply gradients of logits with.
    pub(crate) backward: &'a Packed,
    pub(crate) vocab: usize,
    pub(crate) channels: usize,
    /// Memory for logits.
    pub(crate) logits: &'a mut Vec<f32>,
    /// Memory for packed hidden states.
    pub(crate) packed: &'a mut Packed,
}

impl CrossEntropy<'_> {
    /// Sum of `−ln p(target)` over the rows of `hidden` (`[tokens, channels]`); with gradients
    /// `(dhidden, dtable, scale)` sets the first and adds to the second `scale` times the derivative of the sum.
    pub(crate) fn nats(
        &mut self,
        hidden: &[f32],
        targets: &[u32],
        mut gradients: Option<(&mut [f32], &mut [f32], f32)>,
    ) -> f64 {
        let (vocab, channels) = (self.vocab, self.channels);
        let mut total = 0.0;
        for (chunk, targets) in targets.chunks(HEAD_CHUNK).enumerate() {
            let tokens = targets.len();
            let at = chunk * HEAD_CHUNK * channels..(chunk * HEAD_CHUNK + tokens) * channels;
            let hidden = &hidden[at.clone()];
            self.logits.resize(tokens * vocab, 0.0);
            matmul(&Operand::rows(Values::F32(hidden), tokens, channels), self.forward, Store::SET, self.logits);
            let scale = gradients.as_ref().map(|gradients| gradients.2);
            total += softmax_minus_onehot(self.logits, targets, scale);
            if let Some((dhidden, dtable, _)) = &mut gradients {
                let rows = Operand::rows(Values::F32(self.logits), tokens, vocab);
                matmul(&rows, self.backward, Store::SET, &mut dhidden[at]);
                self.packed.pack(&Operand::columns(Values::F32(hidden), tokens, channels));
                let columns = Operand::columns(Values::F32(self.logits), tokens, vocab);
                matmul(&columns, self.packed, Store::ADD, dtable);
            }
        }
        total
    }
}

/// Sum of `−ln p(target)`; with a scale, logits become `(softmax − onehot) · scale`, else they are lost.
fn softmax_minus_onehot(logits: &mut [f32], targets: &[u32], scale: Option<f32>) -> f64 {
    let vocab = logits.len() / targets.len();
    let losses: Vec<f64> = logits
        .par_chunks_mut(vocab)
        .zip(targets)
        .map(|(row, &target)| {
            let wanted = row[target as usize];
            vectorized(
                #[inline(always)]
                || {
                    let top = largest(row);
                    let mut lanes = [0f32; 16];
                    let (chunks, rest) = row.as_chunks_mut::<16>();
                    for chunk in chunks {
                        for (x, lane) in chunk.iter_mut().zip(&mut lanes) {
                            *x = exp(*x - top);
                            *lane += *x;
                        }
                    }
                    for x in rest {
                        *x = exp(*x - top);
                        lanes[0] += *x;
                    }
                    let total: f32 = lanes.iter().sum();
                    if let Some(scale) = scale {
                        let factor = scale / total;
                        row.iter_mut().for_each(|x| *x *= factor);
                        row[target as usize] -= scale;
                    }
                    f64::from(total).ln() + f64::from(top) - f64::from(wanted)
                },
            )
        })
        .collect();
    losses.iter().sum() // in one order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nats(hidden: &[f32], table: &[f32], channels: usize, targets: &[u32]) -> (f64, Vec<f32>, Vec<f32>) {
        let vocab = table.len() / channels;
        let (mut forward, mut backward) = (Packed::default(), Packed::default());
        forward.pack(&Operand::rows(Values::F32(table), vocab, channels));
        backward.pack(&Operand::columns(Values::F32(table), vocab, channels));
        let (mut logits, mut packed) = (Vec::new(), Packed::default());
        let mut head = CrossEntropy {
            forward: &forward,
            backward: &backward,
            vocab,
            channels,
            logits: &mut logits,
            packed: &mut packed,
        };
        let (mut dhidden, mut dtable) = (vec![0.0; hidden.len()], vec![0.0; table.len()]);
        let without = head.nats(hidden, targets, None);
        let with = head.nats(hidden, targets, Some((&mut dhidden, &mut dtable, 0.5)));
        assert_eq!(with, without);
        (with, dhidden, dtable)
    }

    #[test]
    fn by_hand() {
        // logits 0, 1, 2 of one token: p = e^i / (1 + e + e²)
        let total = 1.0 + 1f64.exp() + 2f64.exp();
        let (loss, dhidden, dtable) = nats(&[1.0], &[0.0, 1.0, 2.0], 1, &[1]);
        assert!((loss - (total.ln() - 1.0)).abs() < 1e-6);
        let p = [1.0 / total, 1f64.exp() / total, 2f64.exp() / total];
        let want = [p[0], p[1] - 1.0, p[2]];
        for (got, want) in dtable.iter().zip(want) {
            assert!((f64::from(*got) - 0.5 * want).abs() < 3e-3, "{got} {want}");
        }
        assert!((f64::from(dhidden[0]) - 0.5 * (want[1] + 2.0 * want[2])).abs() < 3e-3);
    }

    #[test]
    fn several_chunks() {
        let tokens = HEAD_CHUNK + 3;
        let hidden: Vec<f32> = (0..tokens).map(|i| (i % 4) as f32).collect();
        let targets: Vec<u32> = (0..tokens as u32).map(|i| i % 3).collect();
        let (loss, dhidden, dtable) = nats(&hidden, &[0.0, 1.0, 2.0], 1, &targets);
        let (mut want, mut want_table) = (0.0, [0.0; 3]);
        for ((h, t), dh) in hidden.iter().zip(&targets).zip(&dhidden) {
            let (one, dh_one, dtable_one) = nats(&[*h], &[0.0, 1.0, 2.0], 1, &[*t]);
            want += one;
            assert_eq!(*dh, dh_one[0]);
            (0..3).for_each(|i| want_table[i] += f64::from(dtable_one[i]));
        }
        assert!((loss - want).abs() < 1e-6 * want);
        assert!(dtable.iter().zip(want_table).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-2 * (1.0 + b.abs())));
    }
}
