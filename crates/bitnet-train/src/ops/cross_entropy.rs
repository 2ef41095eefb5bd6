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

/// What a teacher expects: targets become `(1 − share) · onehot + share · softmax(its logits)`.
pub(crate) struct SoftTargets<'a> {
    /// Its states `[tokens, channels]`, and its table.
    pub(crate) normed: &'a [f32],
    pub(crate) forward: &'a Packed,
    pub(crate) channels: usize,
    pub(crate) share: f32,
    /// Memory for its logits.
    pub(crate) logits: &'a mut Vec<f32>,
}

impl CrossEntropy<'_> {
    /// Sum of `−ln p(target)` over the rows of `hidden` (`[tokens, channels]`) whose target is in the vocabulary; with gradients
    /// `(dhidden, dtable, scale)` sets the first and adds to the second `scale` times the derivative of the sum. With soft
    /// targets `Σ −target ln p`.
    pub(crate) fn nats(
        &mut self,
        hidden: &[f32],
        targets: &[u32],
        mut gradients: Option<(&mut [f32], &mut [f32], f32)>,
        mut soft: Option<&mut SoftTargets<'_>>,
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
            if let Some(SoftTargets { normed, forward, channels, logits, .. }) = soft.as_deref_mut() {
                let from = chunk * HEAD_CHUNK * *channels;
                logits.resize(tokens * vocab, 0.0);
                let normed = &normed[from..from + tokens * *channels];
                matmul(&Operand::rows(Values::F32(normed), tokens, *channels), forward, Store::SET, logits);
            }
            let soft = soft.as_deref_mut().map(|soft| (&mut soft.logits[..], soft.share));
            total += softmax_minus_target(self.logits, targets, scale, soft);
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

/// Sum of `−target · ln softmax`; with a scale, logits become `(softmax − target) · scale`, else they are lost. The target is one
/// token, or mixed with the softmax of a teacher's logits, which are lost too. A target outside of the vocabulary is none.
fn softmax_minus_target(
    logits: &mut [f32],
    targets: &[u32],
    scale: Option<f32>,
    soft: Option<(&mut [f32], f32)>,
) -> f64 {
    let vocab = logits.len() / targets.len();
    let (teacher, share) = soft.map_or((None, 0.0), |(logits, share)| (Some(logits), share));
    let teacher: Vec<Option<&mut [f32]>> = match teacher {
        Some(logits) => logits.chunks_mut(vocab).map(Some).collect(),
        None => targets.iter().map(|_| None).collect(),
    };
    let rows = logits.par_chunks_mut(vocab).zip(targets).zip(teacher);
    let losses: Vec<f64> = rows
        .map(|((row, &target), teacher)| {
            if target as usize >= vocab {
                row.fill(0.0);
                return 0.0;
            }
            // −Σ target · logit, before the logits are overwritten
            let mut wanted = f64::from(row[target as usize]);
            let teacher = teacher.map(|teacher| {
                let (_, total) = exponentials(teacher);
                teacher.iter_mut().for_each(|x| *x /= total);
                let mean: f64 = teacher.iter().zip(&*row).map(|(p, x)| f64::from(*p) * f64::from(*x)).sum();
                wanted += f64::from(share) * (mean - wanted);
                &*teacher
            });
            let (top, total) = exponentials(row);
            if let Some(scale) = scale {
                let factor = scale / total;
                match teacher {
                    Some(teacher) => {
                        row.iter_mut().zip(teacher).for_each(|(x, p)| *x = *x * factor - scale * share * p)
                    }
                    None => row.iter_mut().for_each(|x| *x *= factor),
                }
                row[target as usize] -= scale * (1.0 - share);
            }
            f64::from(total).ln() + f64::from(top) - wanted
        })
        .collect();
    losses.iter().sum() // in one order
}

/// Values become `e^(x − max)`; gives the maximum and their sum.
fn exponentials(row: &mut [f32]) -> (f32, f32) {
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
            (top, lanes.iter().sum())
        },
    )
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
        let without = head.nats(hidden, targets, None, None);
        let with = head.nats(hidden, targets, Some((&mut dhidden, &mut dtable, 0.5)), None);
        assert_eq!(with, without);
        (with, dhidden, dtable)
    }

    #[test]
    fn a_target_that_is_not_learned() {
        let (loss, dhidden, dtable) = nats(&[1.0, 2.0], &[0.0, 1.0, 2.0], 1, &[1 | 1 << 31, 2]);
        let (alone, dalone, dtable_alone) = nats(&[2.0], &[0.0, 1.0, 2.0], 1, &[2]);
        assert_eq!((loss, dhidden, dtable), (alone, vec![0.0, dalone[0]], dtable_alone));
    }

    /// Against sums in f64: the target is half the second token, half the teacher's opinion.
    #[test]
    fn soft_targets() {
        let (student, teacher) = ([0.5f32, -1.0, 2.0], [1.0f32, 0.0, -0.5]);
        let softmax = |x: &[f32]| {
            let e: Vec<f64> = x.iter().map(|&x| f64::from(x).exp()).collect();
            let total: f64 = e.iter().sum();
            e.into_iter().map(|e| e / total).collect::<Vec<_>>()
        };
        let (p, t) = (softmax(&student), softmax(&teacher));
        let target: Vec<f64> = (0..3).map(|i| 0.5 * f64::from(u8::from(i == 1)) + 0.5 * t[i]).collect();
        let want: f64 = (0..3).map(|i| -target[i] * p[i].ln()).sum();
        let (mut row, mut opinion) = (student, teacher);
        let loss = softmax_minus_target(&mut row, &[1], Some(2.0), Some((&mut opinion, 0.5)));
        assert!((loss - want).abs() < 1e-5, "{loss} {want}");
        for i in 0..3 {
            assert!((f64::from(row[i]) - 2.0 * (p[i] - target[i])).abs() < 1e-5, "{row:?}");
        }
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
