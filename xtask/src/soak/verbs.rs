//! Random cases of every verb. The data comes from the conformance suite.

#[path = "../../../crates/bitnet-kernels/tests/conformance/suite.rs"]
#[allow(dead_code)] // only its data is used here
mod suite;

use bitnet::kernels::{
    Activation, Backend, Batch, Cpu, DenseFormat, DenseWeights, KvFormat, KvShape, NormWeight, PAGE_LEN, RopeStyle,
    RopeTable, TernaryScales, TernaryWeights, Top, Wanted,
};
pub(super) use suite::Random;
use suite::{FORMATS, dense, pack_row, random_dense, upload};

/// A shape to be printed, and what computes the case.
type Case = (String, Box<dyn Fn(&Cpu) -> Vec<f32>>);

/// Makes a case of a verb.
type Make = fn(&mut Random) -> Case;

/// Every verb by name.
pub(super) const VERBS: [(&str, Make); 12] = [
    ("ternary, one scale", |random| ternary(random, false)),
    ("ternary, grouped scales", |random| ternary(random, true)),
    ("norm and quantise", quantize),
    ("norm", norm),
    ("dense", multiply_dense),
    ("embed", embed),
    ("rope and attend, f32", |random| attend(random, KvFormat::F32)),
    ("rope and attend, f16", |random| attend(random, KvFormat::F16)),
    ("rope and attend, int8", |random| attend(random, KvFormat::Int8)),
    ("gate and add", gate),
    ("logits", logits),
    ("selected logits", selected_logits),
];

pub(super) fn below(random: &mut Random, n: usize) -> usize {
    (random.bits() % n as u64) as usize
}

fn chance(random: &mut Random, one_in: usize) -> bool {
    below(random, one_in) == 0
}

fn choose<T: Copy>(random: &mut Random, of: &[T]) -> T {
    of[below(random, of.len())]
}

/// From 1 to `most`: small ones as often as large ones, and often beside the edge of a block.
fn size(random: &mut Random, most: usize) -> usize {
    let largest = below(random, most.ilog2() as usize + 1) + 1;
    let n = 1 + below(random, most.min(1 << largest));
    if !chance(random, 3) {
        return n;
    }
    let block = choose(random, &[16, 32, 64, 128, 256]);
    (n.next_multiple_of(block) + below(random, 3)).saturating_sub(1).clamp(1, most)
}

/// Activations: ordinary, of very different sizes, extreme, or all the same.
fn floats(random: &mut Random, len: usize) -> Vec<f32> {
    let kind = below(random, 8);
    let value = random.float() * 100.0;
    (0..len)
        .map(|i| match kind {
            0 => 0.0,
            1 => value,
            2 => [value, -value][i % 2],
            3 => [127.0, -127.0][below(random, 2)],
            4 if i % 11 == 0 => f32::from_bits(random.bits() as u32 & 0x7f_ffff), // subnormal
            4 => random.float() * 10f32.powi(below(random, 13) as i32 - 6),
            5 if chance(random, 50) => random.float() * 1e4, // outliers, as networks have them
            _ => random.float(),
        })
        .collect()
}

/// Factors of a norm.
fn norm_weight(random: &mut Random, len: usize) -> NormWeight {
    NormWeight { weight: (0..len).map(|_| 1.0 + random.float()).collect(), eps: choose(random, &[1e-5, 1e-6]) }
}

/// Codes of a ternary matrix: random, or all the same.
fn codes(random: &mut Random, rows: usize, cols: usize) -> Vec<u8> {
    let same = chance(random, 6).then(|| below(random, 3) as u8);
    let rows = (0..rows).flat_map(|_| {
        let codes: Vec<u8> = (0..cols).map(|_| same.unwrap_or_else(|| below(random, 3) as u8)).collect();
        pack_row(&codes)
    });
    rows.collect()
}

fn ternary(random: &mut Random, grouped: bool) -> Case {
    let cols = size(random, 4096);
    let tokens = size(random, 150);
    let rows = size(random, (3_000_000 / (cols * tokens)).clamp(1, 300));
    let scales = if grouped {
        let len = if chance(random, 5) { cols } else { 32 * (1 + below(random, 9)) };
        let values = (0..rows * cols.div_ceil(len)).map(|_| random.float().abs()).collect();
        TernaryScales::Groups { len, values }
    } else {
        TernaryScales::Tensor(random.float().abs() + 1e-3)
    };
    let len = match &scales {
        TernaryScales::Groups { len, .. } => format!(", groups of {len}"),
        TernaryScales::Tensor(_) => String::new(),
    };
    let shape = format!("{tokens} × {rows} × {cols}{len}");
    let weights = TernaryWeights { rows, cols, codes: codes(random, rows, cols).into(), scales };
    let x = floats(random, tokens * cols);
    let compute = move |cpu: &Cpu| {
        let weights = cpu.ternary(weights.clone()).expect("valid weights");
        let mut quantized = cpu.quantized(tokens, cols).expect("memory");
        cpu.norm_quantize(&upload(cpu, &x, cols), None, &mut quantized);
        let mut out = cpu.rows(tokens, rows).expect("memory");
        cpu.ternary_matmul(&quantized, &[&weights], &mut [&mut out]);
        out.data().to_vec()
    };
    (shape, Box::new(compute))
}

fn quantize(random: &mut Random) -> Case {
    let (cols, rows) = (size(random, 8192), size(random, 20));
    let x = floats(random, rows * cols);
    let norm = chance(random, 2).then(|| norm_weight(random, cols));
    let shape = format!("{rows} × {cols}, {}", if norm.is_some() { "normed" } else { "as it is" });
    let compute = move |cpu: &Cpu| {
        let mut out = cpu.quantized(rows, cols).expect("memory");
        cpu.norm_quantize(&upload(cpu, &x, cols), norm.as_ref(), &mut out);
        let codes = (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col)));
        let scales = (0..rows).map(|row| out.scale(row));
        scales.chain(codes.map(|(row, col)| f32::from(out.code(row, col)))).collect()
    };
    (shape, Box::new(compute))
}

fn norm(random: &mut Random) -> Case {
    let len = size(random, 4096);
    let cols = len * if chance(random, 2) { 1 } else { size(random, 8) };
    let rows = size(random, 20);
    let x = floats(random, rows * cols);
    let norm = norm_weight(random, len);
    let shape = format!("{rows} × {cols} by {len}");
    let compute = move |cpu: &Cpu| {
        let mut out = cpu.rows(rows, cols).expect("memory");
        cpu.norm(&upload(cpu, &x, cols), &norm, &mut out);
        out.data().to_vec()
    };
    (shape, Box::new(compute))
}

/// A format and a row length that it can have.
fn format(random: &mut Random) -> (DenseFormat, usize) {
    let format = choose(random, &FORMATS);
    let block = match format {
        DenseFormat::Q8_0 | DenseFormat::Q4_0 => 32,
        DenseFormat::Q4K | DenseFormat::Q6K => 256,
        DenseFormat::F32 | DenseFormat::F16 | DenseFormat::BF16 | DenseFormat::Ternary => 1,
    };
    (format, size(random, 2048).next_multiple_of(block))
}

fn multiply_dense(random: &mut Random) -> Case {
    let (format, cols) = format(random);
    let tokens = size(random, 100);
    let rows = size(random, (2_000_000 / (cols * tokens)).clamp(1, 300));
    let (bytes, _) = random_dense(random, format, rows, cols);
    let x = floats(random, tokens * cols);
    let shape = format!("{format:?}, {tokens} × {rows} × {cols}");
    let compute = move |cpu: &Cpu| {
        let weights = dense(cpu, format, rows, cols, bytes.clone());
        let mut out = cpu.rows(tokens, rows).expect("memory");
        cpu.dense_matmul(&upload(cpu, &x, cols), &[&weights], &mut [&mut out]);
        out.data().to_vec()
    };
    (shape, Box::new(compute))
}

fn embed(random: &mut Random) -> Case {
    let ((format, cols), rows, tokens) = (format(random), size(random, 30), size(random, 70));
    let (bytes, _) = random_dense(random, format, rows, cols);
    let ids: Vec<u32> = (0..tokens).map(|_| below(random, rows) as u32).collect();
    let scale = if chance(random, 2) { 1.0 } else { random.float() * 60.0 };
    let shape = format!("{format:?}, {tokens} of {rows} × {cols}");
    let compute = move |cpu: &Cpu| {
        let table = dense(cpu, format, rows, cols, bytes.clone());
        let mut out = cpu.rows(tokens, cols).expect("memory");
        cpu.embed(&table, &ids, scale, &mut out);
        out.data().to_vec()
    };
    (shape, Box::new(compute))
}

/// Inputs of one step: tokens of each sequence, queries, keys, values.
struct Step {
    tokens: Vec<usize>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

/// Prompts, then some further tokens of the same sequences.
fn attend(random: &mut Random, format: KvFormat) -> Case {
    let kv_heads = size(random, 5);
    let heads = kv_heads * size(random, 8);
    let head_dim = 2 + size(random, 158);
    let sequences = size(random, 3);
    let most = (200_000 / (heads * head_dim)).clamp(3, 400);
    let lengths: Vec<_> = (0..sequences).map(|_| size(random, most)).collect();
    let (q_cols, kv_cols) = (heads * head_dim, kv_heads * head_dim);
    let later: Vec<_> = (0..1 + below(random, 3)).map(|_| vec![1 + below(random, 3); sequences]).collect();
    let steps: Vec<Step> = std::iter::once(lengths.clone())
        .chain(later)
        .map(|tokens| {
            let rows = tokens.iter().sum::<usize>();
            let (q, k) = (floats(random, rows * q_cols), floats(random, rows * kv_cols));
            Step { tokens, q, k, v: floats(random, rows * kv_cols) }
        })
        .collect();
    let pages_each = (most + 9).div_ceil(PAGE_LEN);
    let pages = pages_each * sequences;
    let shift = below(random, pages);
    let window = chance(random, 3).then(|| 1 + below(random, most));
    let pairs = size(random, head_dim / 2);
    let base = 10f32.powi(1 + below(random, 5) as i32);
    let rope = RopeTable {
        style: choose(random, &[RopeStyle::Neox, RopeStyle::Interleaved]),
        inverse_frequencies: (0..pairs).map(|i| base.powf(-(i as f32) / pairs as f32)).collect(),
    };
    let scale = random.float().abs() / (head_dim as f32).sqrt();
    let shape = format!("{heads}/{kv_heads} heads of {head_dim}, prompts {lengths:?}, window {window:?}");
    let compute = move |cpu: &Cpu| {
        let mut kv = cpu.kv(KvShape { layers: 1, heads, kv_heads, head_dim, pages, format }).expect("memory");
        let mut done = vec![0; sequences];
        let mut results = Vec::new();
        for step in &steps {
            let mut batch = Batch::default();
            for (sequence, &tokens) in step.tokens.iter().enumerate() {
                // Pages of a sequence do not lie side by side.
                let own = |page| ((page * sequences + sequence + shift) % pages) as u32;
                let table: Vec<u32> = (0..pages_each).map(own).collect();
                batch.push(done[sequence], &vec![0; tokens], &table, 0);
                done[sequence] += tokens;
            }
            let (mut q, k) = (upload(cpu, &step.q, q_cols), upload(cpu, &step.k, kv_cols));
            cpu.rope_store(&mut q, &k, &upload(cpu, &step.v, kv_cols), &rope, &batch, 0, &mut kv);
            let mut out = cpu.rows(q.len(), q_cols).expect("memory");
            cpu.attend(&q, &kv, &batch, 0, scale, window, &mut out);
            results.extend_from_slice(q.data());
            results.extend_from_slice(out.data());
        }
        results
    };
    (shape, Box::new(compute))
}

fn gate(random: &mut Random) -> Case {
    let (rows, cols) = (size(random, 20), size(random, 4096));
    let (x, up) = (floats(random, rows * cols), floats(random, rows * cols));
    let activation = choose(random, &[Activation::Relu2, Activation::Silu, Activation::GeluTanh]);
    let shape = format!("{activation:?}, {rows} × {cols}");
    let compute = move |cpu: &Cpu| {
        let mut out = upload(cpu, &x, cols);
        let up = upload(cpu, &up, cols);
        cpu.gated_activation(activation, &mut out, &up);
        cpu.add(&mut out, &up);
        out.data().to_vec()
    };
    (shape, Box::new(compute))
}

fn logits(random: &mut Random) -> Case {
    let ((format, cols), tokens) = (format(random), size(random, 40));
    let chosen: Vec<u32> = (0..tokens as u32).filter(|_| !chance(random, 3)).collect();
    let vocab = size(random, (2_000_000 / (cols * tokens)).clamp(1, 500));
    let (bytes, _) = random_dense(random, format, vocab, cols);
    let (x, norm) = (floats(random, tokens * cols), norm_weight(random, cols));
    let shape = format!("{format:?}, {} of {tokens} × {vocab} × {cols}", chosen.len());
    let compute = move |cpu: &Cpu| {
        let head = dense(cpu, format, vocab, cols, bytes.clone());
        let mut out = cpu.rows(tokens, vocab).expect("memory");
        cpu.logits(&upload(cpu, &x, cols), &chosen, &norm, &head, Wanted::All, &mut out);
        out.data().to_vec()
    };
    (shape, Box::new(compute))
}

/// The largest logits from a head that may leave others out. (Which of those it computes nevertheless is its own affair.)
fn selected_logits(random: &mut Random) -> Case {
    let format = choose(random, &[DenseFormat::F32, DenseFormat::F16, DenseFormat::BF16, DenseFormat::Q8_0]);
    let cols = 32 * size(random, 40);
    let vocab = size(random, 1500);
    let (bytes, _) = random_dense(random, format, vocab, cols);
    let (x, norm) = (floats(random, cols), norm_weight(random, cols));
    let count = 1 + below(random, 50);
    let ids: Vec<u32> = chance(random, 3).then(|| below(random, vocab) as u32).into_iter().collect();
    let shape = format!("{format:?}, {count} of {vocab} × {cols}");
    let compute = move |cpu: &Cpu| {
        let weights = DenseWeights { rows: vocab, cols, format, bytes: bytes.clone().into() };
        let head = cpu.head(weights).expect("valid weights");
        let mut out = cpu.rows(1, vocab).expect("memory");
        let wanted = [Top { count, margin: 0.0, ids: &ids }];
        cpu.logits(&upload(cpu, &x, cols), &[0], &norm, &head, Wanted::Top(&wanted), &mut out);
        let mut largest: Vec<f32> =
            (0..vocab).filter(|id| !ids.contains(&(*id as u32))).map(|id| out.row(0)[id]).collect();
        largest.sort_by(|a, b| b.total_cmp(a));
        largest.truncate(count);
        largest.into_iter().chain(ids.iter().map(|&id| out.row(0)[id as usize])).collect()
    };
    (shape, Box::new(compute))
}
