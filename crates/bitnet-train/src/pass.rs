//! One forward and backward pass over a few windows: the decoder that `bitnet-models` runs, with its gradients.
//!
//! All memory is kept between passes. A block keeps for its gradients what is expensive to compute again: its two
//! hidden states, the quantised inputs of its layers (two bytes a value), queries, keys, values, gate and up.

use crate::Family;
use crate::lora::{Lora, LowRank};
use crate::matmul::{Operand, Packed, Store, Values, matmul};
use crate::network::{Block, Network, Param, TABLE, Weights};
use crate::ops::{
    Activation, AttentionShape, CrossEntropy, Input, SoftTargets, attend, attend_backward, attend_in_f32, gate,
    gate_backward, join_heads, norm, norm_backward, split_heads,
};
use crate::tokens::GIVEN;
use rayon::prelude::*;
use std::borrow::Cow;

/// What a block keeps of its forward pass.
#[derive(Default)]
struct Kept {
    /// Before the block, and between its halves: `[tokens, hidden]`.
    hidden: Vec<f32>,
    middle: Vec<f32>,
    /// Rotated, head by head.
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// `[tokens, heads · head_dim]`
    attended: Vec<f32>,
    /// `[tokens, ffn]`
    gate: Vec<f32>,
    up: Vec<f32>,
    attention_input: Input,
    output_input: Input,
    ffn_input: Input,
    down_input: Input,
}

/// The memory of a pass.
#[derive(Default)]
pub(crate) struct Pass {
    /// Whether a backward pass follows: else nothing is rounded that the engine does not round.
    learning: bool,
    tokens: usize,
    positions: usize,
    kept: Vec<Kept>,
    hidden: Vec<f32>,
    last: Vec<f32>,
    normed: Vec<f32>,
    logits: Vec<f32>,
    packed: Packed,
    scratch: [Vec<f32>; 6],
}

/// A slice of `len` values, whatever they are.
fn sized(values: &mut Vec<f32>, len: usize) -> &mut [f32] {
    values.resize(len, 0.0);
    values
}

/// The same of memory that is used for different things: it never shrinks, so that it is not cleared again and again.
fn room(values: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if values.len() < len {
        values.resize(len, 0.0);
    }
    &mut values[..len]
}

impl Pass {
    /// Nats of the next tokens of some windows of one length, summed.
    pub(crate) fn nats(&mut self, network: &Network, weights: &Weights, windows: &[&[u32]]) -> f64 {
        let (ids, targets) = inputs_and_targets(windows);
        self.learning = false;
        self.forward(network, weights, &ids, windows.len());
        let mut head = self.head(network, weights);
        head.entropy.nats(head.normed, &targets, None, None)
    }

    /// The same, and adds `scale` times the derivative of the sum to the network's gradients. With a teacher, of nats of its mixed
    /// targets.
    pub(crate) fn learn(
        &mut self,
        network: &mut Network,
        weights: &Weights,
        windows: &[&[u32]],
        scale: f32,
        teacher: Option<&mut Teacher>,
    ) -> f64 {
        let (ids, targets) = inputs_and_targets(windows);
        let mut teacher = teacher.map(|teacher| {
            let Teacher { network, weights, pass, share, .. } = teacher;
            pass.learning = true; // rounds as the student does, and is faster
            pass.forward(network, weights, &ids, windows.len());
            let Pass { normed, logits, .. } = pass;
            let (forward, channels) = (&weights.matrix(TABLE).forward, network.recipe.hidden);
            SoftTargets { normed, forward, channels, share: *share, logits }
        });
        self.learning = true;
        self.forward(network, weights, &ids, windows.len());
        let mut dnormed = std::mem::take(&mut self.scratch[0]);
        let mut dtable = std::mem::take(&mut network.params[TABLE].gradient);
        let normed = self.normed.len();
        let gradients = Some((room(&mut dnormed, normed), &mut dtable[..], scale));
        let mut head = self.head(network, weights);
        let nats = head.entropy.nats(head.normed, &targets, gradients, teacher.as_mut());
        network.params[TABLE].gradient = dtable;
        self.backward(network, weights, &dnormed[..normed]);
        self.scratch[0] = dnormed;
        add_embedding_gradient(&mut network.params[TABLE], &ids, &self.hidden);
        nats
    }

    /// What one of the four inputs of a block's projections (of attention, of its output, of gate and up, of down) is in some windows.
    pub(crate) fn input(
        &mut self,
        network: &Network,
        weights: &Weights,
        windows: &[&[u32]],
        layer: usize,
        input: usize,
    ) -> &Input {
        let (ids, _) = inputs_and_targets(windows);
        self.learning = true;
        self.forward(network, weights, &ids, windows.len());
        let Kept { attention_input, output_input, ffn_input, down_input, .. } = &self.kept[layer];
        [attention_input, output_input, ffn_input, down_input][input]
    }

    /// Logits of all tokens of one text, with the head in full precision, as the engine has it.
    pub(crate) fn logits(mut self, network: &Network, weights: &Weights, ids: &[u32]) -> Vec<f32> {
        self.forward(network, weights, ids, 1);
        let table = &network.params[TABLE].values;
        let rows = self.normed.chunks_exact(network.recipe.hidden);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        rows.flat_map(|x| table.chunks_exact(network.recipe.hidden).map(move |w| dot(x, w))).collect()
    }

    fn head<'a>(&'a mut self, network: &Network, weights: &'a Weights) -> Head<'a> {
        let table = weights.matrix(TABLE);
        let entropy = CrossEntropy {
            forward: &table.forward,
            backward: &table.backward,
            vocab: network.vocab,
            channels: network.recipe.hidden,
            logits: &mut self.logits,
            packed: &mut self.packed,
        };
        Head { entropy, normed: &self.normed }
    }

    /// Runs `batch` windows up to the final norm.
    fn forward(&mut self, network: &Network, weights: &Weights, ids: &[u32], batch: usize) {
        let m = &network.recipe;
        (self.tokens, self.positions) = (ids.len(), ids.len() / batch);
        self.kept.resize_with(m.layers, Kept::default);
        let table = &network.params[TABLE].values;
        let rows = sized(&mut self.hidden, ids.len() * m.hidden).chunks_exact_mut(m.hidden);
        for (row, &id) in rows.zip(ids) {
            row.copy_from_slice(&table[id as usize * m.hidden..][..m.hidden]);
        }
        for layer in 0..m.layers {
            self.forward_block(network, weights, layer);
        }
        self.last.clone_from(&self.hidden);
        let weight = &network.params[network.final_norm].values;
        norm(&self.last, weight, sized(&mut self.normed, self.tokens * m.hidden));
    }

    fn forward_block(&mut self, network: &Network, weights: &Weights, layer: usize) {
        let Network { recipe: m, params, rotations, .. } = network;
        let (tokens, positions) = (self.tokens, self.positions);
        let block = &network.blocks[layer];
        let (queries, keys) = (m.heads * m.head_dim, m.kv_heads * m.head_dim);
        let norm_weight = |param: usize| Some(&params[param].values[..]);
        let Kept {
            hidden,
            middle,
            q,
            k,
            v,
            attended,
            gate: gates,
            up,
            attention_input,
            output_input,
            ffn_input,
            down_input,
        } = &mut self.kept[layer];
        let [a, b, ..] = &mut self.scratch;

        // attention
        hidden.clone_from(&self.hidden);
        attention_input.make(hidden, m.hidden, norm_weight(block.attention_norm), weights.matrix(block.query).rounding);
        let x = lora_input(network, hidden, norm_weight(block.attention_norm));
        for (param, width, out, rotations) in [
            (block.query, queries, &mut *q, Some(rotations)),
            (block.key, keys, &mut *k, Some(rotations)),
            (block.value, keys, &mut *v, None),
        ] {
            let projected = room(a, tokens * width);
            linear(weights, param, attention_input, m.hidden, Store::SET, projected);
            add_low_rank(network, param, &x, projected);
            split_heads(projected, positions, width / m.head_dim, m.head_dim, rotations, sized(out, tokens * width));
        }
        let split = room(b, tokens * queries);
        let attend = if self.learning { attend } else { attend_in_f32 };
        attend(attention_shape(network, positions), q, k, v, split);
        join_heads(split, positions, m.heads, m.head_dim, None, sized(attended, tokens * queries));
        let sub_norm = block.attention_sub_norm.and_then(norm_weight);
        output_input.make(attended, queries, sub_norm, weights.matrix(block.output).rounding);
        linear(weights, block.output, output_input, queries, Store::ADD, &mut self.hidden);
        add_low_rank(network, block.output, &lora_input(network, attended, sub_norm), &mut self.hidden);

        // feed-forward
        middle.clone_from(&self.hidden);
        ffn_input.make(middle, m.hidden, norm_weight(block.ffn_norm), weights.matrix(block.gate).rounding);
        let x = lora_input(network, middle, norm_weight(block.ffn_norm));
        for (param, out) in [(block.gate, &mut *gates), (block.up, &mut *up)] {
            let out = sized(out, tokens * m.ffn);
            linear(weights, param, ffn_input, m.hidden, Store::SET, out);
            add_low_rank(network, param, &x, out);
        }
        let gated = room(a, tokens * m.ffn);
        gate(activation(network), gates, up, gated);
        let sub_norm = block.ffn_sub_norm.and_then(norm_weight);
        down_input.make(gated, m.ffn, sub_norm, weights.matrix(block.down).rounding);
        linear(weights, block.down, down_input, m.ffn, Store::ADD, &mut self.hidden);
        add_low_rank(network, block.down, &lora_input(network, gated, sub_norm), &mut self.hidden);
    }

    /// From the gradient of the normed states to that of the embedded tokens, which is left in `hidden`.
    fn backward(&mut self, network: &mut Network, weights: &Weights, dnormed: &[f32]) {
        let final_norm = &mut network.params[network.final_norm];
        self.hidden.fill(0.0);
        norm_backward(&self.last, &final_norm.values, dnormed, &mut self.hidden, &mut final_norm.gradient);
        for layer in (0..network.recipe.layers).rev() {
            self.backward_block(network, weights, layer);
        }
    }

    /// `self.hidden` holds the gradient of the block's output, and then that of its input.
    fn backward_block(&mut self, network: &mut Network, weights: &Weights, layer: usize) {
        let (tokens, positions) = (self.tokens, self.positions);
        let shape = attention_shape(network, positions);
        let activation = activation(network);
        let low_rank = network.lora.clone();
        let Block { query, key, value, output, gate: gate_param, up: up_param, down, .. } = network.blocks[layer];
        let Block { attention_norm, attention_sub_norm, ffn_norm, ffn_sub_norm, .. } = network.blocks[layer];
        let Network { recipe: m, params, rotations, .. } = network;
        let (queries, keys) = (m.heads * m.head_dim, m.kv_heads * m.head_dim);
        let Pass { kept, hidden: dhidden, packed, scratch, .. } = self;
        let [_, a, b, c, d, e] = scratch;
        let kept = &mut kept[layer];
        let mut back = Back { weights, params, packed, lora: low_rank.as_ref() };

        // feed-forward
        back.weight(down, &kept.down_input, m.ffn, dhidden);
        let dinput = room(a, tokens * m.ffn);
        back.input(down, Store::SET, dhidden, dinput);
        let gated = room(b, tokens * m.ffn);
        if back.lora.is_some() || ffn_sub_norm.is_some() {
            gate(activation, &kept.gate, &kept.up, gated);
        }
        back.low_rank(&[(down, &*dhidden)], gated, ffn_sub_norm, dinput);
        let dgated = match ffn_sub_norm {
            Some(norm) => {
                let dgated = room(c, tokens * m.ffn);
                back.norm(norm, gated, dinput, dgated, true);
                dgated
            }
            None => dinput,
        };
        gate_backward(activation, &mut kept.gate, &mut kept.up, dgated);
        let dinput = room(d, tokens * m.hidden);
        for (param, dy, store) in [(gate_param, &kept.gate, Store::SET), (up_param, &kept.up, Store::ADD)] {
            back.weight(param, &kept.ffn_input, m.hidden, dy);
            back.input(param, store, dy, dinput);
        }
        back.low_rank(&[(gate_param, &kept.gate), (up_param, &kept.up)], &kept.middle, Some(ffn_norm), dinput);
        back.norm(ffn_norm, &kept.middle, dinput, dhidden, false);

        // attention
        back.weight(output, &kept.output_input, queries, dhidden);
        let dinput = room(a, tokens * queries);
        back.input(output, Store::SET, dhidden, dinput);
        back.low_rank(&[(output, &*dhidden)], &kept.attended, attention_sub_norm, dinput);
        let dattended = match attention_sub_norm {
            Some(norm) => {
                let dattended = room(b, tokens * queries);
                back.norm(norm, &kept.attended, dinput, dattended, true);
                dattended
            }
            None => dinput,
        };
        let split = room(c, tokens * queries);
        split_heads(dattended, positions, m.heads, m.head_dim, None, split);
        let (dq, dk, dv) =
            (room(d, tokens * queries), room(e, tokens * keys), sized(&mut kept.attended, tokens * keys));
        attend_backward(shape, &kept.q, &kept.k, &kept.v, split, dq, dk, dv);
        let dinput = room(a, tokens * m.hidden);
        let results = [(query, dq, queries, true), (key, dk, keys, true), (value, dv, keys, false)];
        for (index, (param, split, width, rotated)) in results.into_iter().enumerate() {
            let dy = room(b, tokens * width);
            join_heads(split, positions, width / m.head_dim, m.head_dim, rotated.then_some(&*rotations), dy);
            back.weight(param, &kept.attention_input, m.hidden, dy);
            back.input(param, if index == 0 { Store::SET } else { Store::ADD }, dy, dinput);
            back.low_rank(&[(param, &*dy)], &kept.hidden, Some(attention_norm), dinput);
        }
        back.norm(attention_norm, &kept.hidden, dinput, dhidden, false);
    }
}

/// The head of a pass, with the states that it reads.
struct Head<'a> {
    entropy: CrossEntropy<'a>,
    normed: &'a [f32],
}

/// A model that is imitated.
pub(crate) struct Teacher {
    pub(crate) network: Network,
    pub(crate) weights: Weights,
    pub(crate) pass: Pass,
    /// Share of its probabilities in the targets.
    pub(crate) share: f32,
}

/// `out (+)= input · Wᵀ`.
fn linear(weights: &Weights, param: usize, input: &Input, cols: usize, store: Store<'_>, out: &mut [f32]) {
    let matrix = weights.matrix(param);
    let left = Operand::rows(Values::Bf16(&input.values), input.factors.len(), cols);
    matmul(&left, &matrix.forward, Store { scale: matrix.scale, factors: Some(&input.factors), ..store }, out);
}

/// Rows after a norm, if there is one.
fn normed<'a>(x: &'a [f32], weight: Option<&[f32]>) -> Cow<'a, [f32]> {
    match weight {
        Some(weight) => {
            let mut out = vec![0.0; x.len()];
            norm(x, weight, &mut out);
            Cow::Owned(out)
        }
        None => Cow::Borrowed(x),
    }
}

/// What side-cars get: a projection's input before it is rounded. Nothing where there are none.
fn lora_input<'a>(network: &Network, x: &'a [f32], weight: Option<&[f32]>) -> Cow<'a, [f32]> {
    if network.lora.is_some() { normed(x, weight) } else { Cow::Borrowed(&[]) }
}

/// Adds what the side-car beside a projection makes of `x`.
fn add_low_rank(network: &Network, param: usize, x: &[f32], out: &mut [f32]) {
    let Some((lora, index)) = network.lora.as_ref().and_then(|lora| Some((lora, lora.beside(param)?))) else { return };
    let [a, b] = [&network.params[index], &network.params[index + 1]];
    LowRank { a: &a.values, b: &b.values, rank: a.dims[0], scaling: lora.scaling() }.add_to(x, out);
}

/// The gradients of a layer.
struct Back<'a> {
    weights: &'a Weights,
    params: &'a mut [Param],
    packed: &'a mut Packed,
    lora: Option<&'a Lora>,
}

impl Back<'_> {
    /// Adds `dyᵀ · input` to a matrix's gradient.
    fn weight(&mut self, param: usize, input: &Input, cols: usize, dy: &[f32]) {
        if self.lora.is_some() {
            return; // frozen
        }
        let tokens = input.factors.len();
        self.packed.pack(&Operand::columns(Values::Bf16(&input.values), tokens, cols));
        let left = Operand::columns(Values::F32(dy), tokens, dy.len() / tokens);
        let left = Operand { factors: Some(&input.factors), ..left };
        matmul(&left, self.packed, Store::ADD, &mut self.params[param].gradient);
    }

    /// `dx (+)= dy · W`.
    fn input(&self, param: usize, store: Store<'_>, dy: &[f32], dx: &mut [f32]) {
        let matrix = self.weights.matrix(param);
        let &[rows, _] = &self.params[param].dims[..] else { return };
        let left = Operand::rows(Values::F32(dy), dy.len() / rows, rows);
        matmul(&left, &matrix.backward, Store { scale: matrix.scale, ..store }, dx);
    }

    /// Through the side-cars beside projections of one input, which is `norm` of `x`: adds to their gradients and to that of the input.
    fn low_rank(&mut self, projections: &[(usize, &[f32])], x: &[f32], norm: Option<usize>, dinput: &mut [f32]) {
        let Some(lora) = self.lora else { return };
        let x = normed(x, norm.map(|norm| &self.params[norm].values[..]));
        for (param, dy) in projections {
            let Some(index) = lora.beside(*param) else { continue };
            let [a, b] = &mut self.params[index..index + 2] else { continue };
            let low_rank = LowRank { a: &a.values, b: &b.values, rank: a.dims[0], scaling: lora.scaling() };
            low_rank.backward(&x, dy, dinput, &mut a.gradient, &mut b.gradient);
        }
    }

    /// Adds the gradient through a norm to `dx`, which is cleared first if asked.
    fn norm(&mut self, param: usize, x: &[f32], dy: &[f32], dx: &mut [f32], clear: bool) {
        if clear {
            dx.fill(0.0);
        }
        let Param { values, gradient, .. } = &mut self.params[param];
        norm_backward(x, values, dy, dx, gradient);
    }
}

fn attention_shape(network: &Network, positions: usize) -> AttentionShape {
    let m = &network.recipe;
    AttentionShape { positions, group: m.heads / m.kv_heads, dim: m.head_dim }
}

fn activation(network: &Network) -> Activation {
    match network.recipe.family {
        Family::Bitnet => Activation::Relu2,
        Family::Llama => Activation::Silu,
    }
}

/// Adds rows to the rows of their ids. Threads share the channels, so that every sum has one order.
fn add_embedding_gradient(table: &mut Param, ids: &[u32], rows: &[f32]) {
    let cols = table.dims[1];
    let parts = table.dims[0].div_ceil(rayon::current_num_threads());
    table.gradient.par_chunks_mut(parts * cols).enumerate().for_each(|(part, gradient)| {
        for (&id, row) in ids.iter().zip(rows.chunks_exact(cols)) {
            if let Some(own) = (id as usize).checked_sub(part * parts).filter(|own| *own < parts) {
                let gradient = &mut gradient[own * cols..(own + 1) * cols];
                gradient.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
        }
    });
}

/// Windows side by side, without the last token of each, and without the first; targets that are not learned keep their mark.
fn inputs_and_targets(windows: &[&[u32]]) -> (Vec<u32>, Vec<u32>) {
    let inputs = windows.iter().flat_map(|window| &window[..window.len() - 1]).map(|id| id & !GIVEN).collect();
    let targets = windows.iter().flat_map(|window| &window[1..]).copied().collect();
    (inputs, targets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelRecipe;

    fn network(family: Family, ternary: bool) -> Network {
        let recipe = ModelRecipe {
            family,
            ternary,
            hidden: 64,
            ffn: 96,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            context: 12,
            rope_theta: 10_000.0,
        };
        let mut network = Network::new(&recipe, 50, 3);
        // larger than at the start of training, so that every path matters
        let larger = |param: &mut Param| {
            param.values.iter_mut().for_each(|x| *x *= if param.dims.len() == 2 { 6.0 } else { 1.0 })
        };
        network.params.iter_mut().for_each(larger);
        network
    }

    fn windows() -> Vec<Vec<u32>> {
        (0..3).map(|w| (0..13).map(|i| (w * 31 + i * i * 7 + 5) % 50).collect()).collect()
    }

    /// Moving a weight group along its gradient changes the loss by the gradient's square norm: every group by itself, so that
    /// an error in a small one is not hidden by the large ones.
    #[test]
    fn gradients_of_the_float_network() {
        for (family, rank) in
            [(Family::Bitnet, None), (Family::Llama, None), (Family::Bitnet, Some(3)), (Family::Llama, Some(3))]
        {
            let mut network = network(family, false);
            if let Some(rank) = rank {
                network.adapt(&crate::LoraRecipe { rank, alpha: 6.0 }, 5);
                let mut random = crate::random::Random::new(5, 5);
                for param in network.trained_mut() {
                    param.values = random.normal(param.values.len(), 0.1);
                }
            }
            let first = network.params.len() - network.trained().len();
            let windows = windows();
            let windows: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
            let weights = Weights::new(&network, 1.0).unwrap();
            let mut pass = Pass::default();
            let scale = 1.0 / 36.0;
            let nats = pass.learn(&mut network, &weights, &windows, scale, None);
            let measured = pass.nats(&network, &weights, &windows);
            assert!((nats - measured).abs() < 1e-2 * measured, "{nats} {measured}");
            for index in first..network.params.len() {
                let gradient = network.params[index].gradient.clone();
                let norm: f64 = gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
                assert!(norm > 0.0, "{}: no gradient", network.params[index].name);
                let start = network.params[index].values.clone();
                // a hundredth of the weights' own length: above the rounding to bf16, small enough to be nearly straight
                let length = start.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
                let mut at = |step: f64| {
                    let moved = start.iter().zip(&gradient).map(|(x, g)| x + (step * f64::from(*g)) as f32);
                    network.params[index].values = moved.collect();
                    let weights = Weights::new(&network, 1.0).unwrap();
                    f64::from(scale) * pass.nats(&network, &weights, &windows)
                };
                // the mean over several widths, because each is uncertain by some hundredths
                // (a side-car is small beside its projection, and moves what comes out less)
                let wider = if rank.is_some() { 2.5 } else { 1.0 };
                let widths = [0.008, 0.01, 0.012, 0.014, 0.016].map(|width| wider * width * length / norm);
                let slopes = widths.map(|step| (at(step) - at(-step)) / (2.0 * step * norm));
                let slope = slopes.iter().sum::<f64>() / slopes.len() as f64;
                at(0.0);
                network.params[index].values = start;
                let name = &network.params[index].name;
                assert!((slope - norm).abs() < 0.1 * norm + 1e-4, "{family:?} {name}: slope {slope}, gradient {norm}");
            }
        }
    }

    #[test]
    fn windows_do_not_see_each_other() {
        let network = network(Family::Bitnet, true);
        let weights = Weights::new(&network, 1.0).unwrap();
        let windows = windows();
        let windows: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
        let together = Pass::default().nats(&network, &weights, &windows);
        let alone: f64 = windows.iter().map(|window| Pass::default().nats(&network, &weights, &[window])).sum();
        assert!((together - alone).abs() < 1e-9 * together, "{together} {alone}");
        // nor a token the later ones
        let logits = |ids: &[u32]| Pass::default().logits(&network, &weights, ids);
        assert_eq!(logits(&windows[0][..5]), logits(&windows[0][..12])[..5 * 50]);
    }

    #[test]
    fn gradients_add_up() {
        let windows = windows();
        let windows: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
        let mut whole = network(Family::Bitnet, true);
        let weights = Weights::new(&whole, 1.0).unwrap();
        let mut parts = network(Family::Bitnet, true);
        let mut pass = Pass::default();
        pass.learn(&mut whole, &weights, &windows, 1.0, None);
        for part in windows.chunks(2) {
            pass.learn(&mut parts, &weights, part, 1.0, None);
        }
        for (a, b) in whole.params.iter().zip(&parts.params) {
            let largest = a.gradient.iter().fold(0f32, |m, x| m.max(x.abs()));
            let close = a.gradient.iter().zip(&b.gradient).all(|(a, b)| (a - b).abs() <= 1e-2 * largest);
            assert!(close, "{}", a.name);
        }
    }
}
