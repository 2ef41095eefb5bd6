//! Every verb of a `Backend` against a naive f64 computation. A backend in another crate includes this file in a test
//! and calls `run`. Values go in by `embed` of an F32 table and come out by `read`, so nothing but the trait is needed.

use bitnet_kernels::{
    Activation, Backend, Batch, DenseFormat, DenseWeights, KvFormat, KvShape, NormWeight, PAGE_LEN, RopeStyle,
    RopeTable, TernaryScales, TernaryWeights, Wanted,
};

/// Runs all of it; panics with what differs.
pub(crate) fn run<B: Backend>(backend: &B) {
    embeds(backend);
    norms(backend);
    multiplies_ternary(backend);
    combines_products(backend);
    multiplies_dense(backend);
    attends(backend);
    gates_and_adds(backend);
    makes_logits(backend);
}

// ---- data ----

/// Deterministic numbers in −1..1.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(crate) fn float(&mut self) -> f32 {
        (self.bits() & 0xff_ffff) as f32 / 8_388_608.0 - 1.0
    }

    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub(crate) fn dense<B: Backend>(
    backend: &B,
    format: DenseFormat,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
) -> B::Dense {
    backend.dense(DenseWeights { rows, cols, format, bytes: bytes.into() }).expect("valid weights")
}

/// Puts `values` `[rows, cols]` into rows.
pub(crate) fn upload<B: Backend>(backend: &B, values: &[f32], cols: usize) -> B::Rows {
    let rows = values.len() / cols;
    let table = dense(backend, DenseFormat::F32, rows, cols, f32_bytes(values));
    let ids: Vec<u32> = (0..rows as u32).collect();
    let mut out = backend.rows(rows, cols).expect("memory");
    backend.embed(&table, &ids, 1.0, &mut out);
    out
}

pub(crate) fn download<B: Backend>(backend: &B, rows: &B::Rows, len: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; len];
    backend.read(rows, &mut out);
    out
}

/// `scale` is the magnitude of the sum that was rounded.
fn close(what: &str, got: f32, want: f64, scale: f64) {
    let bound = 2e-6 * scale.max(want.abs()) + 1e-30;
    assert!((f64::from(got) - want).abs() <= bound, "{what}: {got}, expected {want} ± {bound:e}");
}

/// Bytes of a random matrix and its values by the format's definition.
pub(crate) fn random_dense(random: &mut Random, format: DenseFormat, rows: usize, cols: usize) -> (Vec<u8>, Vec<f64>) {
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    // f16 numbers of moderate size, written by their bits: 2^-6 .. 2^0.
    let f16 = |random: &mut Random| {
        let bits = (random.bits() as u16 & 0x83ff) | (9 + (random.bits() % 6) as u16) << 10;
        let value = (1.0 + f64::from(bits & 0x3ff) / 1024.0) * 2f64.powi(i32::from(bits >> 10 & 31) - 15);
        (bits, if bits >> 15 == 1 { -value } else { value })
    };
    for _ in 0..rows {
        match format {
            DenseFormat::F32 => {
                for x in random.floats(cols) {
                    bytes.extend(x.to_le_bytes());
                    values.push(f64::from(x));
                }
            }
            DenseFormat::F16 => {
                for _ in 0..cols {
                    let (bits, value) = f16(random);
                    bytes.extend(bits.to_le_bytes());
                    values.push(value);
                }
            }
            DenseFormat::BF16 => {
                for x in random.floats(cols) {
                    let bits = x.to_bits() & 0xffff_0000;
                    bytes.extend(((bits >> 16) as u16).to_le_bytes());
                    values.push(f64::from(f32::from_bits(bits)));
                }
            }
            DenseFormat::Q8_0 => {
                for _ in 0..cols / 32 {
                    let (bits, d) = f16(random);
                    bytes.extend(bits.to_le_bytes());
                    for _ in 0..32 {
                        let q = random.bits() as u8;
                        bytes.push(q);
                        values.push(f64::from(q as i8) * d);
                    }
                }
            }
            DenseFormat::Q4_0 => {
                for _ in 0..cols / 32 {
                    let (bits, d) = f16(random);
                    let qs: Vec<u8> = (0..16).map(|_| random.bits() as u8).collect();
                    bytes.extend(bits.to_le_bytes());
                    bytes.extend(&qs);
                    values.extend(qs.iter().map(|q| (f64::from(q & 15) - 8.0) * d));
                    values.extend(qs.iter().map(|q| (f64::from(q >> 4) - 8.0) * d));
                }
            }
            DenseFormat::Q4K => {
                for _ in 0..cols / 256 {
                    let ((d_bits, d), (min_bits, dmin)) = (f16(random), f16(random));
                    let s: Vec<u8> = (0..12).map(|_| random.bits() as u8).collect();
                    let qs: Vec<u8> = (0..128).map(|_| random.bits() as u8).collect();
                    bytes.extend(d_bits.to_le_bytes());
                    bytes.extend(min_bits.to_le_bytes());
                    bytes.extend(&s);
                    bytes.extend(&qs);
                    for e in 0..256 {
                        let j = e / 32;
                        let (scale, min) = if j < 4 {
                            (s[j] & 63, s[j + 4] & 63)
                        } else {
                            (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
                        };
                        let byte = qs[j / 2 * 32 + e % 32];
                        let n = if j % 2 == 0 { byte & 15 } else { byte >> 4 };
                        values.push(d * f64::from(scale) * f64::from(n) - dmin * f64::from(min));
                    }
                }
            }
            DenseFormat::Q6K => {
                for _ in 0..cols / 256 {
                    let block: Vec<u8> = (0..208).map(|_| random.bits() as u8).collect();
                    let (bits, d) = f16(random);
                    bytes.extend(&block);
                    bytes.extend(bits.to_le_bytes());
                    let (ql, qh, scales) = (&block[..128], &block[128..192], &block[192..]);
                    for e in 0..256 {
                        let (h, quarter, l) = (e / 128, e % 128 / 32, e % 32);
                        let nibbles = ql[64 * h + 32 * (quarter % 2) + l];
                        let low = if quarter < 2 { nibbles & 15 } else { nibbles >> 4 };
                        let q = low | (qh[32 * h + l] >> (2 * quarter) & 3) << 4;
                        let scale = scales[8 * h + 2 * quarter + l / 16] as i8;
                        values.push(d * f64::from(scale) * (f64::from(q) - 32.0));
                    }
                }
            }
            DenseFormat::Ternary => {
                let codes: Vec<u8> = (0..cols).map(|_| (random.bits() % 3) as u8).collect();
                bytes.extend(pack_row(&codes));
                values.extend(codes.iter().map(|c| (f64::from(*c) - 1.0) * 0.375));
            }
        }
    }
    if format == DenseFormat::Ternary {
        bytes.extend(0.375f32.to_le_bytes());
    }
    (bytes, values)
}

/// Codes 0, 1, 2 of one row, as 2-bit codes in the 128-group layout.
pub(crate) fn pack_row(codes: &[u8]) -> Vec<u8> {
    let mut out = vec![0b01_01_01_01; codes.len().div_ceil(128) * 32];
    for (col, code) in codes.iter().enumerate() {
        let (byte, shift) = (col / 128 * 32 + col % 32, 6 - 2 * (col % 128 / 32));
        out[byte] = out[byte] & !(3 << shift) | code << shift;
    }
    out
}

pub(crate) const FORMATS: [DenseFormat; 8] = [
    DenseFormat::F32,
    DenseFormat::F16,
    DenseFormat::BF16,
    DenseFormat::Q8_0,
    DenseFormat::Q4_0,
    DenseFormat::Q4K,
    DenseFormat::Q6K,
    DenseFormat::Ternary,
];

/// A row length that the format can have, and which is not a multiple of 16 where that is possible.
pub(crate) fn odd_cols(format: DenseFormat) -> usize {
    match format {
        DenseFormat::Q8_0 | DenseFormat::Q4_0 => 288,
        DenseFormat::Q4K | DenseFormat::Q6K => 512,
        DenseFormat::F32 | DenseFormat::F16 | DenseFormat::BF16 | DenseFormat::Ternary => 301,
    }
}

fn inverse_rms(x: &[f32], eps: f64) -> f64 {
    let squares: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
    1.0 / (squares / x.len() as f64 + eps).sqrt()
}

// ---- verbs ----

fn embeds<B: Backend>(backend: &B) {
    let mut random = Random::new(1);
    for format in FORMATS {
        let (rows, cols) = (5, odd_cols(format));
        let (bytes, values) = random_dense(&mut random, format, rows, cols);
        let table = dense(backend, format, rows, cols, bytes);
        let ids = [3, 0, 4, 3];
        let mut out = backend.rows(7, cols).expect("memory");
        backend.embed(&table, &ids, 2.5, &mut out);
        let got = download(backend, &out, ids.len() * cols);
        for (i, got) in got.iter().enumerate() {
            let want = 2.5 * values[ids[i / cols] as usize * cols + i % cols];
            close(&format!("embed {format:?} [{i}]"), *got, want, 1.0);
        }
    }
}

fn norms<B: Backend>(backend: &B) {
    let mut random = Random::new(2);
    for (rows, cols, len) in [(1, 256, 256), (3, 75, 75), (4, 96, 24), (2, 6912, 6912)] {
        let x = random.floats(rows * cols);
        let weight = random.floats(len);
        let norm = backend.norm_weight(NormWeight { weight: weight.clone(), eps: 1e-5 }).expect("a norm");
        let mut out = backend.rows(rows, cols).expect("memory");
        backend.norm(&upload(backend, &x, cols), &norm, &mut out);
        let got = download(backend, &out, x.len());
        for (i, got) in got.iter().enumerate() {
            let factor = inverse_rms(&x[i / len * len..][..len], f64::from(1e-5f32));
            close(&format!("norm [{i}]"), *got, f64::from(x[i]) * factor * f64::from(weight[i % len]), 0.0);
        }
    }
}

fn multiplies_ternary<B: Backend>(backend: &B) {
    let mut random = Random::new(3);
    for (tokens, rows, cols, group, normed) in [
        (1, 7, 256, 0, true),
        (3, 5, 130, 0, false),
        (2, 33, 512, 128, true),
        (5, 4, 96, 96, true),
        (2, 3, 640, 64, false),
    ] {
        let x = random.floats(tokens * cols);
        let weight = random.floats(cols);
        let codes: Vec<u8> = (0..rows * cols).map(|_| (random.bits() % 3) as u8).collect();
        let scales: Vec<f32> = match group {
            0 => vec![0.7],
            len => (0..rows * cols / len).map(|_| random.float().abs() + 0.1).collect(),
        };
        let weights = TernaryWeights {
            rows,
            cols,
            codes: codes.chunks(cols).flat_map(pack_row).collect::<Vec<u8>>().into(),
            scales: match group {
                0 => TernaryScales::Tensor(scales[0]),
                len => TernaryScales::Groups { len, values: scales.clone() },
            },
        };
        let weights = backend.ternary(weights).expect("valid weights");
        let norm = backend.norm_weight(NormWeight { weight: weight.clone(), eps: 1e-6 }).expect("a norm");
        let mut quantized = backend.quantized(tokens, cols).expect("memory");
        let mut outs = [backend.rows(tokens, rows).expect("memory"), backend.rows(tokens, rows).expect("memory")];
        backend.norm_quantize(&upload(backend, &x, cols), normed.then_some(&norm), &mut quantized);
        {
            let [a, b] = &mut outs;
            backend.ternary_matmul(&quantized, &[&weights, &weights], &mut [a, b]);
        }
        for out in &outs {
            let got = download(backend, out, tokens * rows);
            for t in 0..tokens {
                let x = &x[t * cols..][..cols];
                let factor = inverse_rms(x, f64::from(1e-6f32));
                let values: Vec<f64> = (0..cols)
                    .map(|i| if normed { f64::from(x[i]) * factor * f64::from(weight[i]) } else { f64::from(x[i]) })
                    .collect();
                let s = 127.0 / values.iter().fold(1e-5f64, |m, x| m.max(x.abs()));
                for r in 0..rows {
                    let (mut want, mut size) = (0.0, 0.0);
                    for (c, x) in values.iter().enumerate() {
                        let scale = scales[(r * cols + c).checked_div(group).unwrap_or(0)];
                        let term = (x * s).round_ties_even() / s * f64::from(scale);
                        want += term * (f64::from(codes[r * cols + c]) - 1.0);
                        size += term.abs();
                    }
                    close(
                        &format!("ternary_matmul [{t}, {r}] of {rows}x{cols}/{group}"),
                        got[t * rows + r],
                        want,
                        size,
                    );
                }
            }
        }
    }
}

/// Products that are combined with what is there give the very bits of the two verbs one after the other.
fn combines_products<B: Backend>(backend: &B) {
    let mut random = Random::new(31);
    for (tokens, rows, cols, group) in
        [(1, 40, 256, 0), (15, 33, 130, 0), (16, 50, 96, 96), (37, 70, 640, 64), (70, 161, 512, 0)]
    {
        let mut ternary = || {
            let codes: Vec<u8> = (0..rows * cols).map(|_| (random.bits() % 3) as u8).collect();
            let scales = match group {
                0 => TernaryScales::Tensor(0.7),
                len => TernaryScales::Groups {
                    len,
                    values: (0..rows * cols / len).map(|_| random.float().abs() + 0.1).collect(),
                },
            };
            let codes = codes.chunks(cols).flat_map(pack_row).collect::<Vec<u8>>().into();
            backend.ternary(TernaryWeights { rows, cols, codes, scales }).expect("valid weights")
        };
        let weights = [ternary(), ternary()];
        let weights = weights.each_ref();
        let x = upload(backend, &random.floats(tokens * cols), cols);
        let mut quantized = backend.quantized(tokens, cols).expect("memory");
        backend.norm_quantize(&x, None, &mut quantized);
        let rows_of = |values: &[f32]| upload(backend, values, rows);
        let (mut gate, mut up) = (rows_of(&vec![0.0; tokens * rows]), rows_of(&vec![0.0; tokens * rows]));
        let residual = random.floats(tokens * rows);
        let (mut sum, mut want_sum) = (rows_of(&residual), rows_of(&residual));
        for activation in [Activation::Relu2, Activation::Silu, Activation::GeluTanh] {
            backend.ternary_matmul(&quantized, &weights, &mut [&mut gate, &mut up]);
            backend.gated_activation(activation, &mut gate, &up);
            let want = download(backend, &gate, tokens * rows);
            backend.ternary_gated(&quantized, weights, activation, &mut gate, &mut up);
            assert_eq!(
                download(backend, &gate, tokens * rows),
                want,
                "{activation:?} of {tokens} tokens, {rows} × {cols}"
            );
        }
        backend.ternary_matmul(&quantized, &weights[..1], &mut [&mut up]);
        backend.add(&mut want_sum, &up);
        backend.ternary_add(&quantized, weights[0], &mut up, &mut sum);
        let (got, want) = (download(backend, &sum, tokens * rows), download(backend, &want_sum, tokens * rows));
        assert_eq!(got, want, "sum of {tokens} tokens, {rows} × {cols}");
    }
}

fn multiplies_dense<B: Backend>(backend: &B) {
    let mut random = Random::new(4);
    for format in FORMATS {
        for (tokens, rows) in [(1, 9), (2, 1), (7, 70)] {
            let cols = odd_cols(format);
            let (bytes, values) = random_dense(&mut random, format, rows, cols);
            let (more_bytes, more_values) = random_dense(&mut random, DenseFormat::F32, 3, cols);
            let x = random.floats(tokens * cols);
            let weights = [
                (dense(backend, format, rows, cols, bytes), values, rows),
                (dense(backend, DenseFormat::F32, 3, cols, more_bytes), more_values, 3),
            ];
            let mut outs = [backend.rows(8, rows).expect("memory"), backend.rows(8, 3).expect("memory")];
            {
                let [a, b] = &mut outs;
                backend.dense_matmul(&upload(backend, &x, cols), &[&weights[0].0, &weights[1].0], &mut [a, b]);
            }
            for (out, (_, values, rows)) in outs.iter().zip(&weights) {
                let got = download(backend, out, tokens * rows);
                for (i, got) in got.iter().enumerate() {
                    let (x, w) = (&x[i / rows * cols..][..cols], &values[i % rows * cols..][..cols]);
                    let terms = x.iter().zip(w).map(|(x, w)| f64::from(*x) * w);
                    let size = terms.clone().map(f64::abs).sum();
                    close(&format!("dense_matmul {format:?} [{i}]"), *got, terms.sum(), size);
                }
            }
        }
    }
}

/// Rotated copy of `[heads, head_dim]`.
fn rotated(x: &[f32], head_dim: usize, rope: &RopeTable, position: usize) -> Vec<f64> {
    let mut out: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    let pairs = rope.inverse_frequencies.len();
    for head in out.chunks_mut(head_dim) {
        for (i, frequency) in rope.inverse_frequencies.iter().enumerate() {
            let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
            let (a, b) = match rope.style {
                RopeStyle::Neox => (i, i + pairs),
                RopeStyle::Interleaved => (2 * i, 2 * i + 1),
            };
            (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
        }
    }
    out
}

/// How far attention may lie from that of the exact keys and values, besides rounding: `q` and `seen` (keys and values of
/// one head) are exact, `weights` are those of softmax, normed.
///
/// When no score is off by more than `d`, no weight is off by more than the factor `exp(2 d)`. f16 is off by one part in
/// 2^11, which is also an absolute error of 2^-25 at most below its normal range. An int8 code is off by half a step, max/254; so is the weight of a value, by 1/254 of the largest of its page's
/// in the products with the scales, and a value may be as large as 127 steps.
fn format_error(
    format: KvFormat,
    q: &[f64],
    seen: &[(&[f64], &[f64])],
    weights: &[f64],
    first: usize,
    scale: f64,
) -> f64 {
    let largest = |x: &[f64]| x.iter().fold(0f64, |m, x| m.max(x.abs()));
    let total = |x: &[f64]| x.iter().map(|x| x.abs()).sum::<f64>();
    let v = seen.iter().map(|(_, v)| largest(v)).fold(0.0, f64::max);
    let scores = |error: &dyn Fn(&[f64]) -> f64| seen.iter().map(|(k, _)| error(k)).fold(0.0, f64::max) * scale;
    let spread = |d: f64| ((2.0 * d).exp() - 1.0) * v;
    match format {
        KvFormat::F32 => 0.0,
        KvFormat::F16 => {
            let u = 2f64.powi(-11);
            let d = scores(&|k| q.iter().zip(k).map(|(q, k)| (q * k).abs() * u + q.abs() * 2f64.powi(-25)).sum());
            spread(d) + v * u + 2f64.powi(-25)
        }
        KvFormat::Int8 => {
            let eq = largest(q) / 254.0;
            let d = scores(&|k| {
                let ek = largest(k) / 254.0;
                total(q) * ek + total(k) * eq + q.len() as f64 * eq * ek
            });
            let mut pages = std::collections::BTreeMap::new();
            for (i, p) in weights.iter().enumerate() {
                let page = pages.entry((first + i) / PAGE_LEN).or_insert((0f64, 0usize));
                *page = (page.0.max(*p), page.1 + 1);
            }
            let weighing: f64 = pages.values().map(|(p, count)| p * (2.0 * d).exp() * v / 254.0 * *count as f64).sum();
            spread(d) + v / 254.0 + weighing
        }
    }
}

fn attends<B: Backend>(backend: &B) {
    KvFormat::ALL.into_iter().for_each(|format| attends_in(backend, format));
}

fn attends_in<B: Backend>(backend: &B, format: KvFormat) {
    let mut random = Random::new(5);
    for (heads, kv_heads, head_dim, pairs, style, window) in [
        (4, 1, 64, 32, RopeStyle::Neox, None),
        (4, 2, 8, 4, RopeStyle::Interleaved, None),
        (6, 3, 80, 20, RopeStyle::Neox, Some(40)),
        (1, 1, 33, 3, RopeStyle::Interleaved, Some(1)),
        (20, 5, 128, 64, RopeStyle::Neox, Some(1000)),
    ] {
        let rope = RopeTable {
            style,
            inverse_frequencies: (0..pairs).map(|i| 10_000f32.powf(-(i as f32) / pairs as f32)).collect(),
        };
        // Two sequences; a batch with one run of each; then one further token of each. Pages are out of order.
        let lengths = [75usize, 3];
        let (q_cols, kv_cols) = (heads * head_dim, kv_heads * head_dim);
        let scale = 1.5 / (head_dim as f32).sqrt();
        let tables: [&[u32]; 2] = [&[5, 1, 6], &[0]];
        let layers = 2;
        let mut kv = backend.kv(KvShape { layers, heads, kv_heads, head_dim, pages: 8, format }).expect("memory");
        let mut seen: Vec<Vec<(Vec<f64>, Vec<f64>)>> = vec![Vec::new(); 2]; // rotated key, value
        for steps in [[lengths[0], lengths[1]], [1, 1]] {
            let mut batch = Batch::with_capacity(128, 2, 8);
            for s in 0..2 {
                batch.push(seen[s].len(), &vec![0; steps[s]], tables[s], 1);
            }
            let tokens = steps[0] + steps[1];
            let q = random.floats(tokens * q_cols);
            let (k, v) = (random.floats(tokens * kv_cols), random.floats(tokens * kv_cols));
            let mut rows = upload(backend, &q, q_cols);
            let (k_rows, v_rows) = (upload(backend, &k, kv_cols), upload(backend, &v, kv_cols));
            backend.rope_store(&mut rows, &k_rows, &v_rows, &rope, &batch, 1, &mut kv);
            let mut out = backend.rows(tokens, q_cols).expect("memory");
            backend.attend(&rows, &kv, &batch, 1, scale, window, &mut out);
            let got_q = download(backend, &rows, q.len());
            let got = download(backend, &out, q.len());
            let mut row = 0;
            for s in 0..2 {
                for _ in 0..steps[s] {
                    let position = seen[s].len();
                    seen[s].push((
                        rotated(&k[row * kv_cols..][..kv_cols], head_dim, &rope, position),
                        v[row * kv_cols..][..kv_cols].iter().map(|x| f64::from(*x)).collect(),
                    ));
                    let q = rotated(&q[row * q_cols..][..q_cols], head_dim, &rope, position);
                    for (i, want) in q.iter().enumerate() {
                        close(&format!("rotated q [{row}, {i}]"), got_q[row * q_cols + i], *want, 1.0);
                    }
                    let first = window.map_or(0, |w| (position + 1usize).saturating_sub(w));
                    for h in 0..heads {
                        let kv_from = h / (heads / kv_heads) * head_dim;
                        let q = &q[h * head_dim..][..head_dim];
                        let weights: Vec<f64> = seen[s][first..]
                            .iter()
                            .map(|(k, _)| {
                                let dot: f64 = q.iter().zip(&k[kv_from..]).map(|(a, b)| a * b).sum();
                                (dot * f64::from(scale)).exp()
                            })
                            .collect();
                        let sum: f64 = weights.iter().sum();
                        let normed: Vec<f64> = weights.iter().map(|w| w / sum).collect();
                        let of_head: Vec<_> = seen[s][first..]
                            .iter()
                            .map(|(k, v)| (&k[kv_from..][..head_dim], &v[kv_from..][..head_dim]))
                            .collect();
                        let error = format_error(format, q, &of_head, &normed, first, f64::from(scale));
                        for d in 0..head_dim {
                            let want: f64 =
                                weights.iter().zip(&seen[s][first..]).map(|(w, (_, v))| w * v[kv_from + d]).sum();
                            let got = got[row * q_cols + h * head_dim + d];
                            let what = format!("{format}: attend [{row}, {h}, {d}] of {position}");
                            let (want, bound) = (want / sum, 6e-6 + error);
                            assert!(
                                (f64::from(got) - want).abs() <= bound,
                                "{what}: {got}, expected {want} ± {bound:e}"
                            );
                        }
                    }
                    row += 1;
                }
            }
        }
        // A copied page holds the same keys and values.
        let mut batch = Batch::with_capacity(1, 1, 3);
        batch.push(lengths[0], &[0], tables[0], 1);
        let (q, k) = (random.floats(q_cols), random.floats(kv_cols));
        let mut rows = upload(backend, &q, q_cols);
        let k_rows = upload(backend, &k, kv_cols);
        backend.rope_store(&mut rows, &k_rows, &k_rows, &rope, &batch, 1, &mut kv);
        let mut original = backend.rows(1, q_cols).expect("memory");
        backend.attend(&rows, &kv, &batch, 1, scale, window, &mut original);
        backend.copy_page(&mut kv, tables[0][2], 3);
        let mut copied = Batch::with_capacity(1, 1, 3);
        copied.push(lengths[0], &[0], &[tables[0][0], tables[0][1], 3], 1);
        let mut copy = backend.rows(1, q_cols).expect("memory");
        backend.attend(&rows, &kv, &copied, 1, scale, window, &mut copy);
        assert!(lengths[0] / PAGE_LEN == 2, "the copied page is the one in use");
        assert_eq!(download(backend, &original, q_cols), download(backend, &copy, q_cols), "copied page");
    }
}

fn gates_and_adds<B: Backend>(backend: &B) {
    let mut random = Random::new(6);
    let (rows, cols) = (3, 77);
    let mut gate: Vec<f32> = random.floats(rows * cols).iter().map(|x| 20.0 * x * x * x).collect();
    gate[..8].copy_from_slice(&[0.0, -0.0, 30.0, -30.0, 100.0, -100.0, 1e-20, -1e-20]);
    let up = random.floats(rows * cols);
    for activation in [Activation::Relu2, Activation::Silu, Activation::GeluTanh] {
        let mut out = upload(backend, &gate, cols);
        backend.gated_activation(activation, &mut out, &upload(backend, &up, cols));
        for (i, got) in download(backend, &out, gate.len()).iter().enumerate() {
            let x = f64::from(gate[i]);
            let active = match activation {
                Activation::Relu2 => x.max(0.0).powi(2),
                Activation::Silu => x / (1.0 + (-x).exp()),
                Activation::GeluTanh => {
                    let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                    x * (1.0 / (1.0 + (-2.0 * z).exp()))
                }
            };
            // Where the sigmoid nearly vanishes, the rounding of its argument counts.
            let size = active.abs() * (1.0 + x.abs().powi(3) * 0.1).min(30.0);
            close(&format!("{activation:?}({x})"), *got, active * f64::from(up[i]), size);
        }
    }
    let mut sum = upload(backend, &gate, cols);
    backend.add(&mut sum, &upload(backend, &up, cols));
    let want: Vec<f32> = gate.iter().zip(&up).map(|(a, b)| a + b).collect();
    assert_eq!(download(backend, &sum, want.len()), want, "add");
}

fn makes_logits<B: Backend>(backend: &B) {
    let mut random = Random::new(7);
    let (tokens, cols, vocab) = (70, 96, 130);
    let x = random.floats(tokens * cols);
    let weight = random.floats(cols);
    let (bytes, values) = random_dense(&mut random, DenseFormat::F16, vocab, cols);
    let head = dense(backend, DenseFormat::F16, vocab, cols, bytes);
    let norm = backend.norm_weight(NormWeight { weight: weight.clone(), eps: 1e-5 }).expect("a norm");
    let x_rows = upload(backend, &x, cols);
    let mut out = backend.rows(tokens, vocab).expect("memory");
    for rows in [vec![69, 2], vec![], (0..70).rev().collect::<Vec<u32>>()] {
        backend.logits(&x_rows, &rows, &norm, &head, Wanted::All, &mut out);
        let got = download(backend, &out, rows.len() * vocab);
        for (i, got) in got.iter().enumerate() {
            let x = &x[rows[i / vocab] as usize * cols..][..cols];
            let factor = inverse_rms(x, f64::from(1e-5f32));
            let terms =
                (0..cols).map(|c| f64::from(x[c]) * factor * f64::from(weight[c]) * values[i % vocab * cols + c]);
            close(&format!("logits [{i}]"), *got, terms.clone().sum(), terms.map(f64::abs).sum());
        }
    }
}
