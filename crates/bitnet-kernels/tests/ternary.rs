//! Quantisation and ternary products: every tier, thread count and batch size gives the bits of a naive computation,
//! and the numbers of the reference implementation.

use std::path::PathBuf;

use bitnet_kernels::{
    Backend, Cpu, CpuOptions, Isa, KernelError, Quantized, Rows, Ternary, TernaryScales, TernaryWeights, self_test,
};
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

fn cpu(isa: Isa, threads: usize) -> Cpu {
    Cpu::new(CpuOptions { threads: Some(threads), isa: Some(isa) }).unwrap()
}

/// A small generator, so that every failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn weights(&mut self, len: usize) -> Vec<i8> {
        (0..len).map(|_| (self.next() % 3) as i8 - 1).collect()
    }

    /// int8 codes as floats with one ±127 per row, so that quantisation (scale 1) leaves them as they are.
    fn codes(&mut self, rows: usize, cols: usize) -> Vec<f32> {
        let mut codes: Vec<f32> = (0..rows * cols).map(|_| (self.next() % 255) as f32 - 127.0).collect();
        for row in codes.chunks_mut(cols) {
            row[self.next() as usize % cols] = if self.next().is_multiple_of(2) { 127.0 } else { -127.0 };
        }
        codes
    }

    fn scales(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.next() % 1000) as f32 / 777.0 + 0.01).collect()
    }
}

fn rows(cpu: &Cpu, values: &[f32], cols: usize) -> Rows {
    let mut rows = cpu.rows(values.len() / cols, cols).unwrap();
    rows.set_len(values.len() / cols);
    rows.data_mut().copy_from_slice(values);
    rows
}

fn quantized(cpu: &Cpu, values: &[f32], cols: usize) -> Quantized {
    let mut out = cpu.quantized(values.len() / cols, cols).unwrap();
    cpu.norm_quantize(&rows(cpu, values, cols), None, &mut out);
    out
}

fn product(cpu: &Cpu, x: &Quantized, weights: &Ternary) -> Vec<u32> {
    let mut out = cpu.rows(x.len(), weights.rows()).unwrap();
    cpu.ternary_matmul(x, &[weights], &mut [&mut out]);
    let mut values = vec![0.0; x.len() * weights.rows()];
    cpu.read(&out, &mut values);
    values.into_iter().map(f32::to_bits).collect()
}

/// The definition, from unpacked weights.
fn naive(x: &Quantized, weights: &[i8], rows: usize, cols: usize, scales: &TernaryScales) -> Vec<u32> {
    let mut out = Vec::new();
    for token in 0..x.len() {
        let codes: Vec<i32> = (0..cols).map(|col| i32::from(x.code(token, col))).collect();
        for row in 0..rows {
            let products: Vec<i32> =
                weights[row * cols..(row + 1) * cols].iter().zip(&codes).map(|(&w, q)| i32::from(w) * q).collect();
            let value = match scales {
                TernaryScales::Tensor(scale) => products.iter().sum::<i32>() as f32 * (scale / x.scale(token)),
                TernaryScales::Groups { len, values } => {
                    let groups = cols.div_ceil(*len);
                    let sums = products.chunks(*len).zip(&values[row * groups..]);
                    sums.fold(0.0f32, |y, (group, scale)| libm::fmaf(group.iter().sum::<i32>() as f32, *scale, y))
                        / x.scale(token)
                }
            };
            out.push(value.to_bits());
        }
    }
    out
}

/// On all `cpus`.
fn check(cpus: &[Cpu], codes: &[f32], weights: &[i8], rows: usize, cols: usize, scales: TernaryScales) {
    let expected = naive(&quantized(&cpus[0], codes, cols), weights, rows, cols, &scales);
    let packed = TernaryWeights::pack(weights, rows, cols, scales).unwrap();
    for cpu in cpus {
        let x = quantized(cpu, codes, cols);
        let found = product(cpu, &x, &cpu.ternary(packed.clone()).unwrap());
        assert!(found == expected, "{} × {rows} × {cols}, {}, {} threads", x.len(), cpu.isa(), cpu.threads());
    }
}

/// Every tier, with one thread.
fn tiers() -> Vec<Cpu> {
    Isa::available().into_iter().map(|isa| cpu(isa, 1)).collect()
}

#[test]
fn every_tier_passes_its_self_test() {
    for isa in Isa::available() {
        self_test(isa).unwrap();
    }
    assert_eq!(Isa::available().last(), Some(&Isa::Scalar));
}

#[test]
fn every_tier_gives_the_exact_sums_at_odd_sizes() {
    let (mut random, tiers) = (Random(1), tiers());
    for cols in [1, 31, 32, 33, 127, 128, 129, 255, 256, 257, 384, 640, 6912, 15_500] {
        for (rows, tokens) in
            [(1, 1), (3, 2), (5, 3), (7, 7), (1100, 4), (37, 1), (33, 12), (2, 125), (101, 53), (650, 25)]
        {
            let (codes, weights) = (random.codes(tokens, cols), random.weights(rows * cols));
            check(&tiers, &codes, &weights, rows, cols, TernaryScales::Tensor(0.37));
            let values = random.scales(rows);
            check(&tiers, &codes, &weights, rows, cols, TernaryScales::Groups { len: cols, values });
            for len in [32, 64, 96, 128, 256, 1024] {
                let values = random.scales(rows * cols.div_ceil(len));
                check(&tiers, &codes, &weights, rows, cols, TernaryScales::Groups { len, values });
            }
        }
    }
}

/// Tiles of the matrix unit are 16 tokens by 16 rows, taken in pairs, and blocks are 128 tokens by 512 columns: every
/// number of tokens around them, with rows and columns that end anywhere.
#[test]
fn every_tier_gives_the_exact_sums_for_every_number_of_tokens() {
    let mut random = Random(5);
    for (rows, cols) in [(33, 520), (64, 1024), (15, 100), (103, 897)] {
        let weights = random.weights(rows * cols);
        let packed = TernaryWeights::pack(&weights, rows, cols, TernaryScales::Tensor(0.37)).unwrap();
        let codes = random.codes(261, cols);
        let oracle = cpu(Isa::Scalar, 1);
        let x = quantized(&oracle, &codes, cols);
        let expected = naive(&x, &weights, rows, cols, &TernaryScales::Tensor(0.37));
        for isa in Isa::available() {
            let cpu = cpu(isa, 1);
            let ternary = cpu.ternary(packed.clone()).unwrap();
            for tokens in (1..=67).chain([95, 96, 97, 127, 128, 129, 161, 255, 256, 257, 261]) {
                if isa == Isa::Scalar && tokens < 261 {
                    continue; // the oracle has no batches
                }
                let found = product(&cpu, &quantized(&cpu, &codes[..tokens * cols], cols), &ternary);
                assert!(found == expected[..tokens * rows], "{isa}: {tokens} × {rows} × {cols}");
            }
        }
    }
}

/// The largest sums there are: nothing may saturate or wrap.
#[test]
fn extreme_activations_and_weights_do_not_overflow() {
    let tiers = tiers();
    for cols in [128, 2048, 2560, 6912, 20_000] {
        for code in [127.0, -127.0] {
            for weight in [-1, 0, 1] {
                let (codes, weights) = (vec![code; 7 * cols], vec![weight; 5 * cols]);
                check(&tiers, &codes, &weights, 5, cols, TernaryScales::Tensor(1.0));
                let values = vec![1.0; 5 * cols.div_ceil(256)];
                check(&tiers, &codes, &weights, 5, cols, TernaryScales::Groups { len: 256, values });
                if cols < 3000 {
                    let (codes, weights) = (vec![code; 32 * cols], vec![weight; 99 * cols]);
                    check(&tiers, &codes, &weights, 99, cols, TernaryScales::Tensor(1.0));
                }
            }
        }
        let alternating: Vec<f32> = (0..cols).map(|i| if i % 2 == 0 { 127.0 } else { -127.0 }).collect();
        let same_signs: Vec<i8> = (0..cols).map(|i| if i % 2 == 0 { 1 } else { -1 }).collect();
        check(&tiers, &alternating, &same_signs, 1, cols, TernaryScales::Tensor(1.0));
    }
}

#[test]
fn threads_and_batch_size_do_not_change_a_bit() {
    let (rows, cols) = (1031, 640);
    let mut random = Random(2);
    let weights = random.weights(rows * cols);
    let values: Vec<f32> = (0..64 * cols).map(|_| random.next() as f32 / 1e9 - 1.0).collect();
    let groups = TernaryScales::Groups { len: 128, values: random.scales(rows * 5) };
    for scales in [TernaryScales::Tensor(0.7), groups] {
        let packed = TernaryWeights::pack(&weights, rows, cols, scales).unwrap();
        let mut first = None;
        for isa in Isa::available() {
            for threads in [1, 2, 3, 7] {
                let cpu = cpu(isa, threads);
                let ternary = cpu.ternary(packed.clone()).unwrap();
                let whole = product(&cpu, &quantized(&cpu, &values, cols), &ternary);
                let first = first.get_or_insert_with(|| whole.clone());
                assert!(*first == whole, "{isa}, {threads} threads");
                for batch in (1..=9).chain([64]) {
                    let tokens = &values[..batch * cols];
                    let together = product(&cpu, &quantized(&cpu, tokens, cols), &ternary);
                    assert!(together == first[..batch * rows], "{isa}, {threads} threads, batch {batch}");
                    if isa == Isa::Scalar {
                        break; // the oracle has no batches
                    }
                }
            }
        }
    }
}

#[test]
fn matrices_that_share_an_input_go_in_one_call() {
    let cols = 256;
    let mut random = Random(3);
    let cpu = cpu(Isa::best(), 3);
    let x = quantized(&cpu, &random.codes(5, cols), cols);
    let shapes = [100, 1, 64, 33, 7, 300]; // more than the pool takes in one pass
    let matrices: Vec<Ternary> = shapes
        .iter()
        .map(|&rows| {
            let weights = random.weights(rows * cols);
            cpu.ternary(TernaryWeights::pack(&weights, rows, cols, TernaryScales::Tensor(0.5)).unwrap()).unwrap()
        })
        .collect();
    let mut outs: Vec<Rows> = shapes.iter().map(|&rows| cpu.rows(5, rows).unwrap()).collect();
    cpu.ternary_matmul(&x, &matrices.iter().collect::<Vec<_>>(), &mut outs.iter_mut().collect::<Vec<_>>());
    for (matrix, out) in matrices.iter().zip(&outs) {
        let bits: Vec<u32> = out.data().iter().map(|v| v.to_bits()).collect();
        assert_eq!(bits, product(&cpu, &x, matrix));
    }
    // no tokens, no result, no trouble
    let none = quantized(&cpu, &[], cols);
    cpu.ternary_matmul(&none, &[&matrices[0]], &mut [&mut outs[0]]);
    assert!(outs[0].is_empty());
}

#[test]
fn buffers_are_reused_with_fewer_rows() {
    let cols = 100; // with padding
    let mut random = Random(4);
    let cpu = cpu(Isa::best(), 2);
    let weights = random.weights(9 * cols);
    let ternary = cpu.ternary(TernaryWeights::pack(&weights, 9, cols, TernaryScales::Tensor(1.0)).unwrap()).unwrap();
    let mut x = cpu.quantized(6, cols).unwrap();
    for tokens in [6, 1, 3] {
        let values = random.codes(tokens, cols);
        cpu.norm_quantize(&rows(&cpu, &values, cols), None, &mut x);
        assert_eq!(x.len(), tokens);
        assert_eq!(product(&cpu, &x, &ternary), naive(&x, &weights, 9, cols, &TernaryScales::Tensor(1.0)));
    }
}

#[test]
fn the_bitlinear_example_of_the_paper_formula() {
    // x = [.30, -1.20, .05, .80]: s = 105.8333, q = [32, -127, 5, 85]; w = [1, -1, 0, 1] · 0.75: y = 1.729134
    for isa in Isa::available() {
        let cpu = cpu(isa, 1);
        let x = quantized(&cpu, &[0.30, -1.20, 0.05, 0.80], 4);
        assert_eq!([0, 1, 2, 3].map(|col| x.code(0, col)), [32, -127, 5, 85]);
        assert_eq!(x.scale(0), (1.0 / 1.2f32) * 127.0);
        let weights = TernaryWeights::pack(&[1, -1, 0, 1], 1, 4, TernaryScales::Tensor(0.75)).unwrap();
        let y = f32::from_bits(product(&cpu, &x, &cpu.ternary(weights).unwrap())[0]);
        assert!((y - 1.729134).abs() < 1e-6, "{y}");
    }
}

#[test]
fn a_row_of_zeros_has_the_floor_scale() {
    for isa in Isa::available() {
        let x = quantized(&cpu(isa, 1), &[0.0; 300], 300);
        assert_eq!(x.scale(0), (1.0 / 1e-5) * 127.0);
        assert!((0..300).all(|col| x.code(0, col) == 0));
    }
}

/// Broken input stays visible: the outputs of such a row are NaN, those of other rows are not touched.
#[test]
fn not_finite_values_give_nan_outputs() {
    for isa in Isa::available() {
        let cpu = cpu(isa, 2);
        let ternary =
            cpu.ternary(TernaryWeights::pack(&[1; 140 * 3], 3, 140, TernaryScales::Tensor(1.0)).unwrap()).unwrap();
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![1.0; 2 * 140];
            values[133] = bad;
            let x = quantized(&cpu, &values, 140);
            assert!(x.scale(0).is_nan());
            assert!((0..140).all(|col| x.code(0, col) == 0 && x.code(1, col) == 127));
            let y: Vec<f32> = product(&cpu, &x, &ternary).into_iter().map(f32::from_bits).collect();
            assert!(y[..3].iter().all(|v| v.is_nan()), "{bad}: {y:?}");
            assert!(y[3..].iter().all(|v| (v - 140.0).abs() < 1e-3), "{bad}: {y:?}");
        }
    }
}

#[test]
fn packing_follows_the_documented_bytes() {
    // formats.md §2.1: elements 0,1,2 = +1,-1,+1; 32,33,34 = -1,-1,+1; 64,65,66 = 0,-1,+1; 96,97,98 = +1,-1,+1
    let mut weights = [0i8; 128];
    for (at, values) in [(0, [1, -1, 1]), (32, [-1, -1, 1]), (64, [0, -1, 1]), (96, [1, -1, 1])] {
        weights[at..at + 3].copy_from_slice(&values);
    }
    let packed = TernaryWeights::pack(&weights, 1, 128, TernaryScales::Tensor(0.75)).unwrap();
    assert_eq!(packed.codes[..4], [0x86, 0x00, 0xaa, 0x55]);
    assert!(packed.codes[4..].iter().all(|&byte| byte == 0x55));
    let padded = TernaryWeights::pack(&[1, -1], 1, 2, TernaryScales::Tensor(1.0)).unwrap();
    assert_eq!(padded.codes[..3], [0x95, 0x15, 0x55]);
    for bad in [2, -2, 127, -128] {
        let error = TernaryWeights::pack(&[0, 1, bad], 1, 3, TernaryScales::Tensor(1.0)).unwrap_err();
        assert!(error.to_string().contains(&format!("{bad} at index 2")), "{error}");
    }
    assert!(TernaryWeights::pack(&[0, 1], 1, 3, TernaryScales::Tensor(1.0)).is_err());
}

#[test]
fn broken_weights_are_refused() {
    let cpu = cpu(Isa::best(), 2);
    let good = TernaryWeights::pack(&vec![1; 40 * 65_536], 40, 65_536, TernaryScales::Tensor(1.0)).unwrap();
    assert!(cpu.ternary(good.clone()).is_ok());
    let refuse = |weights: TernaryWeights| cpu.ternary(weights).err().expect("must be refused");

    for at in [0, 31, 77_777, 40 * 65_536 / 4 - 1] {
        for pair in 0..4 {
            let mut bytes = good.codes.to_vec();
            bytes[at] = 0x55 | 3 << (2 * pair);
            let error = refuse(TernaryWeights { codes: bytes.into(), ..good.clone() });
            assert!(matches!(error, KernelError::IllegalCode { byte } if byte == at), "{error}");
        }
    }
    for scale in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
        let error = refuse(TernaryWeights { scales: TernaryScales::Tensor(scale), ..good.clone() });
        assert!(matches!(error, KernelError::Scale { index: 0, .. }), "{error}");
    }
    let mut values = vec![1.0; 40 * 512];
    values[77] = f32::NAN;
    let error = refuse(TernaryWeights { scales: TernaryScales::Groups { len: 128, values }, ..good.clone() });
    assert!(matches!(error, KernelError::Scale { index: 77, .. }), "{error}");
    for (len, count) in [(0, 1), (48, 40 * 1366), (128, 40 * 512 - 1), (usize::MAX, 40)] {
        let scales = TernaryScales::Groups { len, values: vec![1.0; count] };
        assert!(matches!(refuse(TernaryWeights { scales, ..good.clone() }), KernelError::Shape { .. }));
    }
    for (rows, cols) in [(0, 128), (128, 0), (41, 65_536), (40, 65_537), (usize::MAX, 128), (1, usize::MAX)] {
        assert!(matches!(refuse(TernaryWeights { rows, cols, ..good.clone() }), KernelError::Shape { .. }));
    }
}

#[test]
fn an_unknown_or_missing_tier_is_an_error_that_names_the_others() {
    let error = "avx1024".parse::<Isa>().unwrap_err().to_string();
    assert!(error.contains("avx1024") && error.contains("scalar"), "{error}");
    for isa in Isa::ALL {
        assert_eq!(isa.to_string().parse::<Isa>().unwrap(), isa);
        let made = Cpu::new(CpuOptions { threads: Some(1), isa: Some(isa) });
        assert_eq!(made.is_ok(), isa.is_available());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_shape_and_values(
        rows in 1usize..20, cols in 1usize..700, tokens in 0usize..14, threads in 1usize..4, seed: u64, floor: bool,
    ) {
        let mut random = Random(seed);
        let weights = random.weights(rows * cols);
        let unit = if floor { 1e-9 } else { 3.7 };
        let values: Vec<f32> = (0..tokens * cols).map(|_| (random.next() as f32 / 2e9 - 0.5) * unit).collect();
        let cpus: Vec<Cpu> = Isa::available().into_iter().map(|isa| cpu(isa, threads)).collect();
        check(&cpus, &values, &weights, rows, cols, TernaryScales::Tensor(0.01));
    }
}

// ---- numbers of transformers, see the README beside the data ----

fn reference() -> Option<Vec<u8>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/crossval/quantize.safetensors");
    let bytes = std::fs::read(&path).ok();
    if bytes.is_none() {
        eprintln!("SKIPPED: {} is not there", path.display());
    }
    bytes
}

fn floats(tensor: &TensorView<'_>) -> Vec<f32> {
    assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
    tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn signed(tensor: &TensorView<'_>) -> Vec<i8> {
    assert_eq!(tensor.dtype(), safetensors::Dtype::I8);
    tensor.data().iter().map(|&b| b as i8).collect()
}

#[test]
fn activation_codes_are_those_of_transformers() {
    let Some(bytes) = reference() else { return };
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut cases = 0;
    for name in file.names() {
        let Some(case) = name.strip_suffix(".f32.input").filter(|case| case.starts_with("act.")) else { continue };
        cases += 1;
        let input = file.tensor(name).unwrap();
        let cols = *input.shape().last().unwrap();
        let codes = signed(&file.tensor(&format!("{case}.f32.BitLinear_codes")).unwrap());
        let scales = floats(&file.tensor(&format!("{case}.f32.BitLinear_scale")).unwrap());
        for isa in Isa::available() {
            let x = quantized(&cpu(isa, 1), &floats(&input), cols);
            for (token, codes) in codes.chunks(cols).enumerate() {
                assert_eq!(x.scale(token), scales[token], "{case}, row {token}");
                let found: Vec<i8> = (0..cols).map(|col| x.code(token, col)).collect();
                assert_eq!(found, codes, "{case}, row {token}, {isa}");
            }
        }
    }
    assert!(cases >= 13, "{cases} cases");
}

#[test]
fn projections_are_those_of_transformers() {
    let Some(bytes) = reference() else { return };
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let read = |name: &str| floats(&file.tensor(name).unwrap());
    for case in ["linear.plain", "linear.bias"] {
        let shape = file.tensor(&format!("{case}.weight")).unwrap().shape().to_vec();
        let (rows, cols) = (shape[0], shape[1]);
        let master = read(&format!("{case}.weight"));
        let mean = master.iter().map(|w| f64::from(w.abs())).sum::<f64>() / master.len() as f64;
        let scale = (mean as f32).max(1e-5);
        let weights: Vec<i8> = master.iter().map(|w| (w / scale).round_ties_even().clamp(-1.0, 1.0) as i8).collect();
        let accumulators = file.tensor(&format!("{case}.accumulator_i32")).unwrap();
        let accumulators = accumulators.data().chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()));
        let accumulators: Vec<i32> = accumulators.collect();
        let bias = if case == "linear.bias" { read("linear.bias.bias") } else { vec![0.0; rows] };
        for isa in Isa::available() {
            let cpu = cpu(isa, 2);
            let x = quantized(&cpu, &read(&format!("{case}.input")), cols);
            let packed = TernaryWeights::pack(&weights, rows, cols, TernaryScales::Tensor(scale)).unwrap();
            let found = product(&cpu, &x, &cpu.ternary(packed).unwrap());
            for class in ["BitLinear_offline", "AutoBitLinear_online"] {
                let expected = read(&format!("{case}.{class}"));
                for (i, found) in found.iter().map(|&bits| f32::from_bits(bits)).enumerate() {
                    let sum = found * x.scale(i / rows) / scale;
                    assert_eq!(sum.round() as i32, accumulators[i], "{case}, {class}, element {i}");
                    let found = found + bias[i % rows];
                    let error = (found - expected[i]).abs();
                    assert!(error <= 1e-6 * expected[i].abs().max(1.0), "{case}, {class}: {found}, {}", expected[i]);
                }
            }
        }
    }
}
