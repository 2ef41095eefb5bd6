//! Selected logits are those of the full head, bit for bit, and none that matters is missing.

use bitnet_kernels::{Backend, Cpu, CpuOptions, Dense, DenseFormat, DenseWeights, Isa, NormWeight, Rows, Top, Wanted};
use half::{bf16, f16};

struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 ^ self.0 >> 29) >> 16
    }

    fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Nearly normal.
    fn normal(&mut self) -> f32 {
        (0..6).map(|_| self.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0).sum::<f32>() * 0.7
    }
}

/// A head with rows that are hard to tell apart.
fn weights(random: &mut Random, format: DenseFormat, rows: usize, cols: usize) -> DenseWeights {
    let outliers = random.below(8) == 0;
    let mut values: Vec<Vec<f32>> = Vec::new();
    for i in 0..rows {
        let normal = |random: &mut Random, scale: f32| (0..cols).map(|_| random.normal() * scale).collect::<Vec<_>>();
        let row = match random.below(12) {
            0 if i > 0 => values[random.below(i)].clone(), // the same again
            1 if i > 0 => values[random.below(i)].iter().map(|w| -w).collect(),
            2 if i > 0 => values[random.below(i)].iter().map(|w| w * 1.001).collect(), // nearly the same
            3 => vec![0.0; cols],
            4 if outliers => {
                let mut row = normal(random, 0.02);
                row[random.below(cols)] = 30.0; // approximated badly
                row
            }
            5 => normal(random, 1e-6), // denormal in f16
            6 => vec![0.01; cols],
            _ => normal(random, 0.02),
        };
        values.push(row);
    }
    let bytes = values.iter().flatten().flat_map(|&w| match format {
        DenseFormat::F16 => f16::from_f32(w).to_le_bytes().to_vec(),
        DenseFormat::BF16 => bf16::from_f32(w).to_le_bytes().to_vec(),
        _ => w.to_le_bytes().to_vec(),
    });
    DenseWeights { rows, cols, format, bytes: bytes.collect::<Vec<u8>>().into() }
}

/// Rows of a step, at most.
const MOST: usize = 6;

struct Heads {
    cpu: Cpu,
    head: Dense,
    norm: NormWeight,
    x: Rows,
    full: Rows,
    selected: Rows,
}

impl Heads {
    fn new(isa: Isa, threads: usize, weights: DenseWeights) -> Heads {
        let cpu = Cpu::new(CpuOptions { threads: Some(threads), isa: Some(isa) }).expect("an available tier");
        let (vocab, cols) = (weights.rows, weights.cols);
        let rows = |cols| cpu.rows(MOST, cols).expect("memory");
        let (x, full, selected) = (rows(cols), rows(vocab), rows(vocab));
        let norm = NormWeight { weight: vec![1.0; cols], eps: 1e-6 };
        Heads { head: cpu.head(weights).expect("a head"), cpu, norm, x, full, selected }
    }

    /// Compares one step of a row; returns how many logits were left out, `None` when the full head ran.
    fn step(&mut self, x: &[f32], top: Top<'_>) -> Option<usize> {
        self.steps(x, &[top])
    }

    /// The same of several rows at once.
    fn steps(&mut self, x: &[f32], tops: &[Top<'_>]) -> Option<usize> {
        let Heads { cpu, head, norm, x: hidden, full, selected } = self;
        hidden.set_len(tops.len());
        hidden.data_mut().copy_from_slice(x);
        let chosen: Vec<u32> = (0..tops.len() as u32).collect();
        assert!(cpu.logits(hidden, &chosen, norm, head, Wanted::All, full).complete);
        let computed = cpu.logits(hidden, &chosen, norm, head, Wanted::Top(tops), selected);
        let left_out = (0..tops.len()).map(|i| compare(full.row(i), selected.row(i), tops[i])).sum();
        assert!(left_out == 0 || !computed.complete);
        (!computed.complete).then_some(left_out)
    }
}

/// Every selected logit is that of the full head or not wanted; returns how many are left out.
fn compare(full: &[f32], selected: &[f32], top: Top<'_>) -> usize {
    let mut others: Vec<f32> = (0..full.len()).filter(|&i| !top.ids.contains(&(i as u32))).map(|i| full[i]).collect();
    others.sort_by(|a, b| b.total_cmp(a));
    let floor = others.get(top.count - 1).map_or(f32::NEG_INFINITY, |least| least - top.margin);
    let mut left_out = 0;
    for (i, (full, selected)) in full.iter().zip(selected).enumerate() {
        if selected.to_bits() == full.to_bits() || (full.is_nan() && selected.is_nan()) {
            continue;
        }
        assert!(*selected == f32::NEG_INFINITY, "logit {i}: {selected}, not {full}");
        assert!(*full < floor, "logit {i} of {full} is missing, all from {floor} are wanted");
        assert!(!top.ids.contains(&(i as u32)), "the wanted logit {i} is missing");
        left_out += 1;
    }
    left_out
}

#[test]
fn ten_thousand_selections() {
    let mut random = Random(1);
    let (mut steps, mut left_out) = (0, 0);
    let tiers = Isa::available();
    for round in 0..50 {
        let format = [DenseFormat::F16, DenseFormat::BF16, DenseFormat::F32][round % 3];
        let (vocab, cols) = (200 + random.below(700), [128, 240, 256, 368, 384][random.below(5)]);
        let weights = weights(&mut random, format, vocab, cols);
        let row = |i: usize, bytes: &[u8]| -> Vec<f32> {
            let size = bytes.len() / vocab / cols;
            let value = |b: &[u8]| match size {
                4 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
                _ if format == DenseFormat::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
                _ => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            };
            bytes[i * cols * size..(i + 1) * cols * size].chunks(size).map(value).collect()
        };
        let bytes = weights.bytes.clone();
        let mut heads = Heads::new(tiers[round % tiers.len()], 1 + round % 3, weights);
        let mut compared = 0;
        while compared < 200 {
            // a row takes another first look than several do
            let rows = if random.below(4) == 0 { 2 + random.below(MOST - 1) } else { 1 };
            let ids: Vec<Vec<u32>> =
                (0..rows).map(|_| (0..random.below(10)).map(|i| (i * 17 % vocab) as u32).collect()).collect();
            let (mut xs, mut tops) = (Vec::new(), Vec::new());
            for ids in &ids {
                // anything; in the direction of a row; between two rows; one channel much larger than the others
                let mut x: Vec<f32> = (0..cols).map(|_| random.normal()).collect();
                match random.below(if rows > 1 { 20 } else { 5 }) {
                    0 => x = row(random.below(vocab), &bytes),
                    1 => {
                        let (a, b) = (row(random.below(vocab), &bytes), row(random.below(vocab), &bytes));
                        x = a.iter().zip(&b).map(|(a, b)| a + b).collect();
                    }
                    2 => x[random.below(cols)] = 1000.0,
                    3 => x.iter_mut().for_each(|x| *x *= 1e-3),
                    _ => {}
                }
                xs.extend(x);
                let (count, margin) = ([1, 1, 2, 10, 12][random.below(5)], [0.0, 0.0, 0.1, 0.3][random.below(4)]);
                tops.push(Top { count, margin, ids });
            }
            steps += rows;
            if let Some(count) = heads.steps(&xs, &tops) {
                compared += rows;
                left_out += count;
            }
        }
    }
    assert!(steps < 30_000, "{steps} steps with 10,000 selections");
    assert!(left_out > 10_000 * 100, "{left_out} logits left out in 10,000 selections");
}

/// What cannot be selected takes the full head.
#[test]
fn odd_requests() {
    let mut random = Random(2);
    let weights = weights(&mut random, DenseFormat::F16, 500, 256);
    let mut heads = Heads::new(Isa::best(), 2, weights.clone());
    let x: Vec<f32> = (0..256).map(|_| random.normal()).collect();
    let top = |count, ids| Top { count, margin: 0.0, ids };
    assert_eq!(heads.step(&x, top(1, &[])), None, "the first step makes no planes");
    assert!(heads.step(&x, top(1, &[])).is_some_and(|n| n > 300));
    assert_eq!(heads.step(&x, top(500, &[])), None, "too many");
    let many: Vec<u32> = (0..400).collect();
    assert_eq!(heads.step(&x, top(1, &many)), None, "too many ids");
    assert!(heads.step(&x, top(1, &many[..50])).is_some());
    // Planes are locked while they are read: the same head twice must not wait for itself.
    assert!(bitnet_kernels::weight_bandwidth(&heads.cpu, &[], &[&heads.head, &heads.head]) > 0.0);
    for value in [f32::NAN, f32::INFINITY] {
        let mut x = x.clone();
        x[3] = value;
        assert_eq!(heads.step(&x, top(1, &[])), None, "{value}");
    }
    assert_eq!(heads.step(&[0.0; 256], top(1, &[])), None);

    // NaN in the weights is seen although the row could not win
    let mut bytes = weights.bytes.to_vec();
    bytes[2 * (256 * 77 + 5)..][..2].copy_from_slice(&f16::NAN.to_le_bytes());
    let mut damaged = Heads::new(Isa::best(), 2, DenseWeights { bytes: bytes.into(), ..weights });
    for _ in 0..3 {
        assert_eq!(damaged.step(&x, top(1, &[])), None);
        assert!(damaged.selected.row(0)[77].is_nan());
    }
}

/// Formats of few bits have no planes.
#[test]
fn other_formats_run_in_full() {
    let weights = DenseWeights { rows: 4, cols: 32, format: DenseFormat::Q4_0, bytes: vec![0; 4 * 18].into() };
    assert_eq!(bitnet_kernels::selection_bytes(&weights), 0);
    let mut heads = Heads::new(Isa::best(), 1, weights);
    for _ in 0..3 {
        assert_eq!(heads.step(&[1.0; 32], Top { count: 1, margin: 0.0, ids: &[] }), None);
    }
}

/// The rows of a batch get each what it wants, in all formats that allow for it.
#[test]
fn batches() {
    let mut random = Random(3);
    let (vocab, cols, most) = (3000, 256, 17);
    let norm = NormWeight { weight: vec![1.0; cols], eps: 1e-6 };
    let blocks = |random: &mut Random, format, block: usize, len: usize, scale_at: usize| {
        let mut bytes: Vec<u8> = (0..vocab * cols / block * len).map(|_| random.bits() as u8).collect();
        for block in bytes.chunks_mut(len) {
            block[scale_at..scale_at + 2].copy_from_slice(&f16::from_f32(1e-4).to_le_bytes());
        }
        DenseWeights { rows: vocab, cols, format, bytes: bytes.into() }
    };
    let heads = [
        weights(&mut random, DenseFormat::F16, vocab, cols),
        blocks(&mut random, DenseFormat::Q8_0, 32, 34, 0),
        blocks(&mut random, DenseFormat::Q6K, 256, 210, 208),
    ];
    for (isa, weights) in Isa::available().into_iter().flat_map(|isa| heads.iter().map(move |head| (isa, head))) {
        let cpu = Cpu::new(CpuOptions { threads: Some(2), isa: Some(isa) }).expect("an available tier");
        let head = cpu.head(weights.clone()).expect("a head");
        let rows = |capacity, cols| cpu.rows(capacity, cols).expect("memory");
        let (mut x, mut out, mut full) = (rows(most, cols), rows(most, vocab), rows(most, vocab));
        x.set_len(most);
        x.data_mut().iter_mut().for_each(|x| *x = random.normal());
        let ids: Vec<Vec<u32>> = (0..most as u32).map(|i| (0..i).map(|j| j * 31 + i).collect()).collect();
        let top = |i: usize| Top { count: 1 + i % 5, margin: 0.1 * (i % 2) as f32, ids: &ids[i] };
        let tops: Vec<Top<'_>> = (0..most).map(top).collect();
        cpu.logits(&x, &[0], &norm, &head, Wanted::Top(&tops[..1]), &mut out); // makes no planes yet
        for count in [2, 7, 8, 9, 16] {
            let chosen: Vec<u32> = (0..count as u32).rev().collect();
            let tops: Vec<Top<'_>> = (0..count).rev().map(top).collect();
            let computed = cpu.logits(&x, &chosen, &norm, &head, Wanted::Top(&tops), &mut out);
            assert!(!computed.complete, "{isa}, {count} rows");
            cpu.logits(&x, &chosen, &norm, &head, Wanted::All, &mut full);
            for (i, top) in tops.iter().enumerate() {
                assert!(compare(full.row(i), out.row(i), *top) > vocab / 2, "{isa}, row {i} of {count}");
            }
        }
        let chosen: Vec<u32> = (0..most as u32).collect();
        assert!(cpu.logits(&x, &chosen, &norm, &head, Wanted::Top(&tops), &mut out).complete, "too many rows");
    }
}
