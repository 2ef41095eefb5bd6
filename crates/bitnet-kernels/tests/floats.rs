//! The float verbs: the same bits on every tier, thread count, batch and chunking; stored formats against other
//! people's decoders; refusals.

#[path = "conformance/suite.rs"]
#[allow(dead_code)] // only its data is used here
mod suite;

use bitnet_kernels::{
    Activation, Backend, Batch, Cpu, CpuOptions, DenseFormat, DenseWeights, Isa, KernelError, Kv, KvFormat, KvShape,
    NormWeight, RopeStyle, RopeTable, Rows, Wanted,
};
use suite::{FORMATS, Random, dense, download, odd_cols, random_dense, upload};

fn cpu(isa: Isa, threads: usize) -> Cpu {
    Cpu::new(CpuOptions { threads: Some(threads), isa: Some(isa) }).expect("an available tier")
}

/// Computes on one scalar thread and demands the same bits of every tier and thread count.
fn same_everywhere(what: &str, compute: impl Fn(&Cpu) -> Vec<f32>) -> Vec<f32> {
    let want = compute(&cpu(Isa::Scalar, 1));
    for isa in Isa::available() {
        for threads in [1, 2, 3, 7] {
            let got = compute(&cpu(isa, threads));
            let differs = got.iter().zip(&want).position(|(a, b)| a.to_bits() != b.to_bits());
            assert_eq!((got.len(), differs), (want.len(), None), "{what} on {isa}, {threads} threads");
        }
    }
    want
}

/// Numbers of very different size: subnormal to large.
fn wild(random: &mut Random, len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| match i % 11 {
            0 => f32::from_bits(random.bits() as u32 & 0x7f_ffff),
            1 => -0.0,
            _ => random.float() * 10f32.powi((random.bits() % 13) as i32 - 6),
        })
        .collect()
}

#[test]
fn products_have_the_same_bits_everywhere_and_in_every_batch() {
    let mut random = Random::new(11);
    for format in FORMATS {
        let cols = odd_cols(format);
        for (rows, tokens) in [(67, 70), (1, 9), (5, 2), (300, 1)] {
            let (bytes, _) = random_dense(&mut random, format, rows, cols);
            let x = wild(&mut random, tokens * cols);
            let product = |cpu: &Cpu, x: &[f32]| {
                let weights = dense(cpu, format, rows, cols, bytes.clone());
                let mut out = cpu.rows(x.len() / cols, rows).expect("memory");
                cpu.dense_matmul(&upload(cpu, x, cols), &[&weights], &mut [&mut out]);
                out.data().to_vec()
            };
            let all = same_everywhere(&format!("{format:?} {rows} × {tokens}"), |cpu| product(cpu, &x));
            let best = cpu(Isa::best(), 2);
            let single: Vec<f32> = x.chunks(cols).flat_map(|x| product(&best, x)).collect();
            assert_eq!(single, all, "{format:?}: one by one and {tokens} together");
        }
    }
}

#[test]
fn row_verbs_have_the_same_bits_everywhere() {
    let mut random = Random::new(12);
    for (rows, cols, channels) in [(1, 1, 1), (3, 50, 50), (2, 96, 24), (40, 640, 640), (2, 8191, 8191)] {
        let (x, y) = (wild(&mut random, rows * cols), wild(&mut random, rows * cols));
        let norm = NormWeight { weight: wild(&mut random, channels), eps: 1e-6 };
        same_everywhere("norm", |cpu| {
            let mut out = cpu.rows(rows, cols).expect("memory");
            cpu.norm(&upload(cpu, &x, cols), &norm, &mut out);
            out.data().to_vec()
        });
        for activation in [Activation::Relu2, Activation::Silu, Activation::GeluTanh] {
            same_everywhere("gated_activation", |cpu| {
                let mut out = upload(cpu, &x, cols);
                cpu.gated_activation(activation, &mut out, &upload(cpu, &y, cols));
                cpu.add(&mut out, &upload(cpu, &x, cols));
                out.data().to_vec()
            });
        }
    }
}

#[test]
fn a_nan_is_not_hidden() {
    for isa in Isa::available() {
        let cpu = cpu(isa, 1);
        for activation in [Activation::Relu2, Activation::Silu, Activation::GeluTanh] {
            let mut gate = upload(&cpu, &[f32::NAN, 1.0], 2);
            cpu.gated_activation(activation, &mut gate, &upload(&cpu, &[1.0, 1.0], 2));
            assert!(gate.row(0)[0].is_nan() && gate.row(0)[1] > 0.5, "{activation:?} on {isa}");
        }
    }
}

#[test]
fn logits_are_products_of_normed_rows() {
    let mut random = Random::new(13);
    let (tokens, cols, vocab) = (150, 80, 333);
    let x = random.floats(tokens * cols);
    let norm = NormWeight { weight: random.floats(cols), eps: 1e-5 };
    let (bytes, _) = random_dense(&mut random, DenseFormat::F16, vocab, cols);
    let chosen: Vec<u32> = (0..tokens as u32).filter(|row| row % 7 != 3).rev().collect();
    let logits = same_everywhere("logits", |cpu| {
        let head = dense(cpu, DenseFormat::F16, vocab, cols, bytes.clone());
        let mut out = cpu.rows(tokens, vocab).expect("memory");
        cpu.logits(&upload(cpu, &x, cols), &chosen, &norm, &head, Wanted::All, &mut out);
        out.data().to_vec()
    });
    let cpu = cpu(Isa::best(), 2);
    let (mut normed, mut out) = (cpu.rows(tokens, cols).expect("memory"), cpu.rows(tokens, vocab).expect("memory"));
    cpu.norm(&upload(&cpu, &x, cols), &norm, &mut normed);
    cpu.dense_matmul(&normed, &[&dense(&cpu, DenseFormat::F16, vocab, cols, bytes)], &mut [&mut out]);
    let rows: Vec<f32> = chosen.iter().flat_map(|row| out.row(*row as usize).to_vec()).collect();
    assert_eq!(logits, rows);
}

/// Shape of an attention.
#[derive(Clone, Copy, Debug)]
struct Heads {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
    format: KvFormat,
}

/// One sequence's inputs: `q`, `k`, `v` rows.
struct Sequence {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    pages: Vec<u32>,
}

impl Heads {
    fn sequence(&self, random: &mut Random, len: usize, pages: &[u32]) -> Sequence {
        let kv_len = len * self.kv_heads * self.head_dim;
        Sequence {
            q: random.floats(len * self.heads * self.head_dim),
            k: random.floats(kv_len),
            v: random.floats(kv_len),
            pages: pages.to_vec(),
        }
    }

    fn rope(&self, style: RopeStyle) -> RopeTable {
        RopeTable { style, inverse_frequencies: (0..self.head_dim / 4).map(|i| 0.9f32.powi(i as i32)).collect() }
    }

    fn cache(&self, cpu: &Cpu) -> Kv {
        let Heads { heads, kv_heads, head_dim, format, .. } = *self;
        cpu.kv(KvShape { layers: 1, heads, kv_heads, head_dim, pages: 64, format }).expect("memory")
    }

    /// Attention outputs of tokens `start..end` of each sequence, which go in together.
    fn step(&self, cpu: &Cpu, kv: &mut Kv, style: RopeStyle, runs: &[(&Sequence, usize, usize)]) -> Vec<f32> {
        let (q_cols, kv_cols) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut batch = Batch::default();
        let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
        for (sequence, start, end) in runs {
            batch.push(*start, &vec![0; end - start], &sequence.pages, 0);
            q.extend_from_slice(&sequence.q[start * q_cols..end * q_cols]);
            k.extend_from_slice(&sequence.k[start * kv_cols..end * kv_cols]);
            v.extend_from_slice(&sequence.v[start * kv_cols..end * kv_cols]);
        }
        let mut q: Rows = upload(cpu, &q, q_cols);
        let mut out = cpu.rows(q.len(), q_cols).expect("memory");
        let (k, v) = (upload(cpu, &k, kv_cols), upload(cpu, &v, kv_cols));
        cpu.rope_store(&mut q, &k, &v, &self.rope(style), &batch, 0, kv);
        cpu.attend(&q, kv, &batch, 0, 0.3, self.window, &mut out);
        out.data().to_vec()
    }
}

#[test]
fn attention_does_not_depend_on_tier_threads_chunks_or_batch() {
    let mut random = Random::new(14);
    for (heads, kv_heads, head_dim, window, style) in [
        (4, 1, 128, None, RopeStyle::Neox),
        (2, 2, 8, Some(33), RopeStyle::Interleaved),
        (35, 1, 33, None, RopeStyle::Neox),
        (6, 2, 80, Some(1), RopeStyle::Interleaved),
        (20, 5, 64, Some(64), RopeStyle::Neox),
    ] {
        for format in KvFormat::ALL {
            let shape = Heads { heads, kv_heads, head_dim, window, format };
            let first = shape.sequence(&mut random, 70, &[9, 2, 33]);
            let second = shape.sequence(&mut random, 45, &[0, 1]);
            let cols = heads * head_dim;
            let what = format!("{heads}/{kv_heads} heads of {head_dim}, window {window:?}, {format}");
            let together = same_everywhere(&what, |cpu| {
                shape.step(cpu, &mut shape.cache(cpu), style, &[(&first, 0, 70), (&second, 0, 45)])
            });
            for isa in Isa::available() {
                let cpu = cpu(isa, 2);
                let mut kv = shape.cache(&cpu);
                // Chunks of uneven length, and the two sequences by turns.
                let (mut a, mut b) = (Vec::new(), Vec::new());
                a.extend(shape.step(&cpu, &mut kv, style, &[(&first, 0, 31)]));
                let mixed = shape.step(&cpu, &mut kv, style, &[(&second, 0, 40), (&first, 31, 32)]);
                b.extend_from_slice(&mixed[..40 * cols]);
                a.extend_from_slice(&mixed[40 * cols..]);
                for position in 32..70 {
                    a.extend(shape.step(&cpu, &mut kv, style, &[(&first, position, position + 1)]));
                }
                b.extend(shape.step(&cpu, &mut kv, style, &[(&second, 40, 45)]));
                a.extend(b);
                assert_eq!(a, together, "{what} on {isa}: in chunks and at once");
            }
        }
    }
}

#[test]
fn long_contexts_are_shared_out_without_a_trace() {
    // One thread walks the pages; several take the steps apart. The last tokens of a prompt are the reference.
    let mut random = Random::new(18);
    let pages: Vec<u32> = (0..40).map(|page| page * 27 % 64).collect();
    for (heads, kv_heads, head_dim, window) in
        [(20, 5, 128, None), (3, 1, 40, Some(300)), (7, 1, 33, None), (2, 2, 16, Some(260)), (9, 1, 256, None)]
    {
        for format in KvFormat::ALL {
            let shape = Heads { heads, kv_heads, head_dim, window, format };
            let long = shape.sequence(&mut random, 331, &pages[..11]);
            let short = shape.sequence(&mut random, 290, &pages[30..]);
            let cols = heads * head_dim;
            for isa in Isa::available() {
                let one = cpu(isa, 1);
                let mut kv = shape.cache(&one);
                let whole = shape.step(&one, &mut kv, RopeStyle::Neox, &[(&long, 0, 331)]);
                for threads in [1, 2, 3, 7] {
                    let cpu = cpu(isa, threads);
                    shape.cache(&cpu); // a backend makes room for its verbs when it makes a cache
                    for tokens in [1, 2] {
                        let got = shape.step(&cpu, &mut kv, RopeStyle::Neox, &[(&long, 331 - tokens, 331)]);
                        let what = format!("{shape:?} on {isa}, {threads} threads, {tokens} tokens");
                        assert_eq!(got, whole[(331 - tokens) * cols..], "{what}");
                    }
                }
                // Two sequences of unequal length that decode together.
                let mut kv = shape.cache(&one);
                let long = shape.sequence(&mut random, 320, &pages[..10]);
                let a = shape.step(&one, &mut kv, RopeStyle::Neox, &[(&long, 0, 320)]);
                let b = shape.step(&one, &mut kv, RopeStyle::Neox, &[(&short, 0, 290)]);
                let want = [&a[319 * cols..], &b[289 * cols..]].concat();
                let three = cpu(isa, 3);
                shape.cache(&three);
                let got = shape.step(&three, &mut kv, RopeStyle::Neox, &[(&long, 319, 320), (&short, 289, 290)]);
                assert_eq!(got, want, "{shape:?} on {isa}, two sequences");
            }
        }
    }
}

#[test]
fn int8_heads_have_a_largest_size() {
    let shape = |head_dim| KvShape { layers: 1, heads: 1, kv_heads: 1, head_dim, pages: 1, format: KvFormat::Int8 };
    let cpu = cpu(Isa::Scalar, 1);
    assert!(cpu.kv(shape(256)).is_ok());
    let error = cpu.kv(shape(257)).map(|_| ()).expect_err("too long");
    assert!(error.to_string().contains("257, expected at most 256; take f16 or f32"), "{error}");
}

/// Refused as an error, and not by the allocator, which would end the process.
#[test]
fn caches_that_no_memory_holds_are_refused() {
    let cpu = cpu(Isa::Scalar, 1);
    for kv_heads in [1 << 44, 1 << 62, usize::MAX] {
        let shape = KvShape { layers: 1, heads: kv_heads, kv_heads, head_dim: 2, pages: 1, format: KvFormat::F16 };
        assert!(matches!(cpu.kv(shape), Err(KernelError::Memory { .. })), "{kv_heads} heads");
    }
}

#[test]
fn what_is_not_finite_shows() {
    let mut random = Random::new(19);
    for format in KvFormat::ALL {
        let shape = Heads { heads: 2, kv_heads: 1, head_dim: 24, window: None, format };
        for broken in [f32::NAN, f32::INFINITY] {
            for place in 0..3 {
                let mut sequence = shape.sequence(&mut random, 3, &[3]);
                [&mut sequence.q, &mut sequence.k, &mut sequence.v][place][20] = broken;
                for isa in Isa::available() {
                    let cpu = cpu(isa, 1);
                    let out = shape.step(&cpu, &mut shape.cache(&cpu), RopeStyle::Neox, &[(&sequence, 0, 3)]);
                    assert!(!out[..24].iter().all(|x| x.is_finite()), "{format}: {broken} vanished on {isa}");
                }
            }
        }
    }
}

#[test]
fn long_prompts_are_rotated_block_by_block() {
    let mut random = Random::new(15);
    let shape = Heads { heads: 1, kv_heads: 1, head_dim: 8, window: Some(5), format: KvFormat::F32 };
    let pages: Vec<u32> = (0..40).rev().collect();
    let sequence = shape.sequence(&mut random, 1100, &pages);
    let cpu = cpu(Isa::best(), 2);
    for style in [RopeStyle::Neox, RopeStyle::Interleaved] {
        let whole = shape.step(&cpu, &mut shape.cache(&cpu), style, &[(&sequence, 0, 1100)]);
        let mut kv = shape.cache(&cpu);
        let mut chunks = Vec::new();
        for start in (0..1100).step_by(100) {
            chunks.extend(shape.step(&cpu, &mut kv, style, &[(&sequence, start, start + 100)]));
        }
        assert_eq!(whole, chunks);
    }
}

#[test]
fn what_stands_behind_a_query_is_never_seen() {
    let mut random = Random::new(16);
    for (window, format) in KvFormat::ALL.into_iter().flat_map(|format| [(None, format), (Some(20), format)]) {
        let shape = Heads { heads: 2, kv_heads: 1, head_dim: 24, window, format };
        let sequence = shape.sequence(&mut random, 50, &[3, 4]);
        let mut poison = shape.sequence(&mut random, 64, &[3, 4]);
        poison.k.fill(f32::NAN);
        poison.v.fill(f32::NAN);
        for isa in Isa::available() {
            let cpu = cpu(isa, 1);
            let clean = shape.step(&cpu, &mut shape.cache(&cpu), RopeStyle::Neox, &[(&sequence, 0, 50)]);
            let mut kv = shape.cache(&cpu);
            shape.step(&cpu, &mut kv, RopeStyle::Neox, &[(&poison, 0, 64)]);
            let used = shape.step(&cpu, &mut kv, RopeStyle::Neox, &[(&sequence, 0, 50)]);
            assert_eq!(clean, used, "{isa}");
        }
    }
}

#[test]
fn a_quarter_turn() {
    // One pair at position 1 with angle π/2: (1, 2) becomes (−2, 1); the other channels stay.
    let angle = std::f32::consts::FRAC_PI_2;
    for (style, want) in [(RopeStyle::Neox, [-2.0, 1.0, 3.0, 4.0]), (RopeStyle::Interleaved, [-2.0, 1.0, 3.0, 4.0])] {
        let cpu = cpu(Isa::best(), 1);
        let mut kv = cpu
            .kv(KvShape { layers: 1, heads: 1, kv_heads: 1, head_dim: 4, pages: 1, format: KvFormat::F32 })
            .expect("memory");
        let mut batch = Batch::default();
        batch.push(1, &[0], &[0], 0);
        let mut q = upload(&cpu, &[1.0, 2.0, 3.0, 4.0], 4);
        let k = upload(&cpu, &[0.0; 4], 4);
        let rope = RopeTable { style, inverse_frequencies: vec![angle] };
        cpu.rope_store(&mut q, &k, &k, &rope, &batch, 0, &mut kv);
        for (got, want) in q.row(0).iter().zip(want) {
            assert!((got - want).abs() < 2e-7, "{style:?}: {:?}", q.row(0));
        }
    }
}

#[test]
fn stored_formats_decode_as_other_peoples_readers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/crossval/encodings.safetensors");
    let Ok(file) = std::fs::read(path) else {
        eprintln!("SKIPPED: {path} is absent");
        return;
    };
    let tensors = safetensors::SafeTensors::deserialize(&file).expect("a safetensors file");
    for (name, format) in [
        ("F16", DenseFormat::F16),
        ("BF16", DenseFormat::BF16),
        ("Q8_0", DenseFormat::Q8_0),
        ("Q4_0", DenseFormat::Q4_0),
        ("Q4_K", DenseFormat::Q4K),
        ("Q6_K", DenseFormat::Q6K),
    ] {
        let tensor = |what: &str| tensors.tensor(&format!("{name}.{what}")).expect("a tensor of the set");
        let (bytes, values) = (tensor("bytes"), tensor("values"));
        let want: Vec<f32> =
            values.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert!(want.len() > 700);
        for isa in Isa::available() {
            let cpu = cpu(isa, 1);
            let table = dense(&cpu, format, 1, want.len(), bytes.data().to_vec());
            let mut out = cpu.rows(1, want.len()).expect("memory");
            cpu.embed(&table, &[0], 1.0, &mut out);
            let got = download(&cpu, &out, want.len());
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                assert!(got == want, "{name} on {isa}, value {i}: {got}, expected {want}");
            }
        }
    }
}

#[test]
fn damaged_matrices_are_refused() {
    let cpu = cpu(Isa::Scalar, 1);
    let load = |format, rows, cols, bytes: Vec<u8>| {
        cpu.dense(DenseWeights { rows, cols, format, bytes: bytes.into() }).map(|_| ()).expect_err("damaged")
    };
    assert!(matches!(load(DenseFormat::F16, 2, 3, vec![0; 11]), KernelError::Shape { .. }));
    assert!(matches!(load(DenseFormat::F32, usize::MAX, 2, vec![]), KernelError::Shape { .. }));
    assert!(matches!(load(DenseFormat::F32, 2, usize::MAX, vec![]), KernelError::Shape { .. }));
    assert!(matches!(load(DenseFormat::Q8_0, 1, 48, vec![0; 51]), KernelError::Shape { .. }));
    assert!(matches!(load(DenseFormat::Q6K, 1, 128, vec![0; 105]), KernelError::Shape { .. }));
    let ternary = |code: u8, scale: f32, tail: usize| {
        let mut bytes = vec![code; 32];
        bytes.extend(scale.to_le_bytes());
        bytes.resize(32 + tail, 0);
        bytes
    };
    assert!(matches!(load(DenseFormat::Ternary, 1, 100, ternary(0x55, 1.0, 8)), KernelError::Shape { .. }));
    assert!(matches!(load(DenseFormat::Ternary, 1, 100, ternary(0x5d, 1.0, 4)), KernelError::IllegalCode { byte: 0 }));
    assert!(matches!(load(DenseFormat::Ternary, 1, 100, ternary(0x55, -1.0, 32)), KernelError::Scale { .. }));
    assert!(matches!(load(DenseFormat::Ternary, 1, 100, ternary(0x55, f32::NAN, 4)), KernelError::Scale { .. }));
}
