//! Instructions that the kernels take, counted by valgrind: a gate that no noise of a shared machine can move.
//!
//! Valgrind knows no AVX-512, so the tier is AVX2, with one thread. Every workload runs twice, with and without its repetitions; the
//! difference is what the repetitions take. The counts are those of one compiler: with another one, compare two commits instead of the file.

use anyhow::{Context, bail, ensure};
use bitnet::kernels::{
    Backend, Batch, Cpu, CpuOptions, DenseFormat, DenseWeights, Isa, KvFormat, KvShape, NormWeight, PAGE_LEN, Rows,
    TernaryScales, TernaryWeights, Top, Wanted,
};
use bitnet::{Engine, EngineOptions, GenerateRequest, Sampling};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// More than this is a regression.
const TOLERANCE: f64 = 0.01;
const REPETITIONS: usize = 4;

#[derive(Args)]
pub(crate) struct Instructions {
    /// Write the counts to the file instead of comparing with it.
    #[arg(long)]
    update: bool,
    /// What valgrind runs: the repetitions of one workload.
    #[arg(long, hide = true, num_args = 2, value_names = ["WORKLOAD", "REPETITIONS"])]
    run: Option<Vec<String>>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Workload {
    TernaryOneToken,
    TernaryPrompt,
    TernaryGroups,
    DenseF16,
    HeadSelection,
    NormQuantize,
    AttendF32,
    AttendF16,
    AttendInt8,
    AttendPrompt,
    DefaultModel,
}

impl Instructions {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        if let Some([workload, repetitions]) = self.run.as_deref() {
            let workload = Workload::from_str(workload, false).map_err(anyhow::Error::msg)?;
            return workload.run(repetitions.parse()?);
        }
        ensure!(
            !cfg!(debug_assertions),
            "counts are those of a release build: cargo run --release -p xtask -- instructions"
        );
        let mut counts = Map::new();
        for workload in Workload::value_variants() {
            let name = workload.to_possible_value().context("no workload is hidden")?.get_name().to_owned();
            let count = (count(&name, REPETITIONS)? - count(&name, 0)?) / REPETITIONS as u64;
            counts.insert(name, json!(count));
        }
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
        if self.update {
            let text = serde_json::to_string_pretty(&json!({"rustc": rustc()?, "instructions": counts}))?;
            return Ok(std::fs::write(path, text + "\n")?);
        }
        compare(&path, &counts)
    }
}

fn compare(path: &Path, counts: &Map<String, Value>) -> anyhow::Result<()> {
    let known: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let (then, now) = (known["rustc"].as_str().unwrap_or_default(), rustc()?);
    if then != now {
        println!(
            "the counts in {} are those of {then}, this is {now}: differences may be the compiler's",
            path.display()
        );
    }
    let mut worse = Vec::new();
    for (name, count) in counts {
        let count = count.as_f64().unwrap_or(f64::NAN);
        match known["instructions"][name].as_f64() {
            Some(before) => {
                let change = count / before - 1.0;
                println!("{name:<20} {count:>12} {:>+8.2} %", 100.0 * change);
                if change > TOLERANCE {
                    worse.push(name.as_str());
                }
            }
            None => println!("{name:<20} {count:>12}      new"),
        }
    }
    if !worse.is_empty() {
        bail!("more than {} % more instructions: {}; if that is right, --update", 100.0 * TOLERANCE, worse.join(", "));
    }
    Ok(())
}

fn rustc() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("rustc does not start")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Instructions of a whole run of this program.
fn count(workload: &str, repetitions: usize) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["instructions", "--run", workload, &repetitions.to_string()])
        .output()
        .context("valgrind does not start: install it with the system's package manager")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{workload}: {text}");
    // ==123== I   refs:      1,234,567
    let line = text.lines().find(|line| line.contains("refs:")).with_context(|| format!("no count in {text}"))?;
    let digits: String = line.rsplit(':').next().unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("no count in {line}"))
}

impl Workload {
    /// Everything up to the repetitions is the same whatever their number.
    fn run(self, repetitions: usize) -> anyhow::Result<()> {
        let cpu = Cpu::new(CpuOptions { threads: Some(1), isa: Some(Isa::Avx2) })?;
        match self {
            Workload::TernaryOneToken => ternary(&cpu, 1, TernaryScales::Tensor(1.0), repetitions),
            Workload::TernaryPrompt => ternary(&cpu, 16, TernaryScales::Tensor(1.0), repetitions),
            Workload::TernaryGroups => {
                let values = vec![1.0; ROWS * COLS / 64];
                ternary(&cpu, 1, TernaryScales::Groups { len: 64, values }, repetitions)
            }
            Workload::DenseF16 => dense(&cpu, repetitions),
            Workload::HeadSelection => head(&cpu, repetitions),
            Workload::NormQuantize => norm_quantize(&cpu, repetitions),
            Workload::AttendF32 => attend(&cpu, KvFormat::F32, 1, repetitions),
            Workload::AttendF16 => attend(&cpu, KvFormat::F16, 1, repetitions),
            Workload::AttendInt8 => attend(&cpu, KvFormat::Int8, 1, repetitions),
            Workload::AttendPrompt => attend(&cpu, KvFormat::F32, 64, repetitions),
            Workload::DefaultModel => default_model(repetitions),
        }
    }
}

const ROWS: usize = 640;
const COLS: usize = 2560;

/// Whole numbers that look like chance, the same every time.
fn numbers() -> impl Iterator<Item = u32> {
    let mut state = 1u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u32
    })
}

fn filled(cpu: &Cpu, rows: usize, cols: usize) -> anyhow::Result<Rows> {
    let mut out = cpu.rows(rows, cols)?;
    out.set_len(rows);
    out.data_mut().iter_mut().zip(numbers()).for_each(|(x, n)| *x = n as f32 / (1 << 23) as f32 - 1.0);
    Ok(out)
}

fn ternary(cpu: &Cpu, tokens: usize, scales: TernaryScales, repetitions: usize) -> anyhow::Result<()> {
    let weights: Vec<i8> = numbers().take(ROWS * COLS).map(|n| (n % 3) as i8 - 1).collect();
    let matrix = cpu.ternary(TernaryWeights::pack(&weights, ROWS, COLS, scales)?)?;
    let mut x = cpu.quantized(tokens, COLS)?;
    cpu.norm_quantize(&filled(cpu, tokens, COLS)?, None, &mut x);
    let mut out = cpu.rows(tokens, ROWS)?;
    (0..repetitions).for_each(|_| cpu.ternary_matmul(&x, &[&matrix], &mut [&mut out]));
    Ok(())
}

/// Small F16 numbers.
fn f16_weights(rows: usize, cols: usize) -> DenseWeights {
    let bytes: Vec<u8> = numbers().take(rows * cols).flat_map(|n| [n as u8, (n >> 8) as u8 & 0x83 | 0x24]).collect();
    DenseWeights { rows, cols, format: DenseFormat::F16, bytes: bytes.into() }
}

fn dense(cpu: &Cpu, repetitions: usize) -> anyhow::Result<()> {
    let matrix = cpu.dense(f16_weights(ROWS, COLS))?;
    let (x, mut out) = (filled(cpu, 1, COLS)?, cpu.rows(1, ROWS)?);
    (0..repetitions).for_each(|_| cpu.dense_matmul(&x, &[&matrix], &mut [&mut out]));
    Ok(())
}

fn head(cpu: &Cpu, repetitions: usize) -> anyhow::Result<()> {
    const VOCAB: usize = 4096;
    const HIDDEN: usize = 512;
    let matrix = cpu.head(f16_weights(VOCAB, HIDDEN))?;
    let norm = NormWeight { weight: vec![1.0; HIDDEN], eps: 1e-5 };
    let (x, mut out) = (filled(cpu, 1, HIDDEN)?, cpu.rows(1, VOCAB)?);
    let tops = [Top { count: 1, margin: 0.0, ids: &[] }];
    // the second selection makes the planes
    (0..2 + repetitions).for_each(|_| {
        cpu.logits(&x, &[0], &norm, &matrix, Wanted::Top(&tops), &mut out);
    });
    Ok(())
}

fn norm_quantize(cpu: &Cpu, repetitions: usize) -> anyhow::Result<()> {
    let norm = cpu.norm_weight(NormWeight { weight: vec![1.0; COLS], eps: 1e-5 })?;
    let (x, mut out) = (filled(cpu, 4, COLS)?, cpu.quantized(4, COLS)?);
    (0..repetitions).for_each(|_| cpu.norm_quantize(&x, Some(&norm), &mut out));
    Ok(())
}

/// The last `tokens` of 320 positions.
fn attend(cpu: &Cpu, format: KvFormat, tokens: usize, repetitions: usize) -> anyhow::Result<()> {
    const POSITIONS: usize = 320;
    const HEADS: usize = 8;
    const HEAD_DIM: usize = 128;
    let pages: Vec<u32> = (0..(POSITIONS / PAGE_LEN) as u32).collect();
    let shape =
        KvShape { layers: 1, heads: HEADS, kv_heads: HEADS / 4, head_dim: HEAD_DIM, pages: pages.len(), format };
    let mut kv = cpu.kv(shape)?;
    let rope = bitnet::kernels::RopeTable {
        style: bitnet::kernels::RopeStyle::Neox,
        inverse_frequencies: vec![0.01; HEAD_DIM / 2],
    };
    let (mut q, k) = (filled(cpu, POSITIONS, HEADS * HEAD_DIM)?, filled(cpu, POSITIONS, HEADS / 4 * HEAD_DIM)?);
    let mut batch = Batch::default();
    batch.push(0, &[0; POSITIONS], &pages, 1);
    cpu.rope_store(&mut q, &k, &k, &rope, &batch, 0, &mut kv);
    batch.clear();
    batch.push(POSITIONS - tokens, &vec![0; tokens], &pages, 1);
    let (q, mut out) = (filled(cpu, tokens, HEADS * HEAD_DIM)?, cpu.rows(tokens, HEADS * HEAD_DIM)?);
    (0..repetitions).for_each(|_| cpu.attend(&q, &kv, &batch, 0, 0.1, None, &mut out));
    Ok(())
}

/// Tokens of the embedded model, through every room.
fn default_model(tokens: usize) -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/default.gguf");
    let options = EngineOptions { threads: Some(1), isa: Some("avx2".into()), ..EngineOptions::default() };
    let engine = Engine::open(path, options)?;
    // one token more than what is counted, because the first comes with the prompt
    let request =
        GenerateRequest { sampling: Sampling::greedy(), ..GenerateRequest::new("Once upon a time", tokens + 1) };
    engine.stream(&request, &mut |_| true)?;
    Ok(())
}
