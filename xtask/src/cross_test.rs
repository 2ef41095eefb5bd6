//! The tests that prove exactness, built for another architecture and run in an emulator.
//!
//! A processor is chosen for every way that run-time dispatch can go, and the run fails when the tier that it stands for
//! did not take part.

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Args)]
pub(crate) struct CrossTest {
    /// What to build for.
    #[arg(long, value_enum, default_value = "aarch64-unknown-linux-gnu")]
    target: Target,
    /// Processors that the emulator plays, by its own names [default: one for each tier].
    #[arg(long, value_delimiter = ',')]
    cpu: Vec<String>,
    /// Also the tests that take minutes in an emulator.
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Target {
    #[value(name = "aarch64-unknown-linux-gnu")]
    Aarch64,
    /// The self-test and the conformance suite of the kernels, with 128-bit vectors, under Node.
    #[value(name = "wasm32-unknown-unknown")]
    Wasm32,
}

/// What one run of cargo tests.
const SUITES: [&[&str]; 2] = [
    &[
        "-p",
        "bitnet-kernels",
        "--lib",
        "--test",
        "conformance",
        "--test",
        "ternary",
        "--test",
        "floats",
        "--test",
        "selection",
    ],
    &["-p", "bitnet-models", "--test", "exactness"],
];
/// Tests that are left out without `--all`.
const LONG: [&str; 2] = ["ten_thousand_selections", "long_contexts_are_shared_out_without_a_trace"];

impl Target {
    fn triple(self) -> &'static str {
        match self {
            Target::Aarch64 => "aarch64-unknown-linux-gnu",
            Target::Wasm32 => "wasm32-unknown-unknown",
        }
    }

    /// Processors of the emulator, and the best tier that each must have.
    fn processors(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Target::Aarch64 => &[("cortex-a72", "neon"), ("neoverse-n1", "dotprod"), ("max", "i8mm")],
            Target::Wasm32 => &[],
        }
    }

    /// What to do when Rust's standard library for it is not there.
    fn missing_library(self) -> Option<String> {
        let folder = Command::new("rustc").args(["--print", "target-libdir", "--target", self.triple()]).output();
        let there = folder.is_ok_and(|out| Path::new(String::from_utf8_lossy(&out.stdout).trim()).is_dir());
        (!there).then(|| format!("Rust's standard library: rustup target add {}", self.triple()))
    }
}

/// The programs and folders that a run needs.
struct Toolchain {
    target: Target,
    linker: PathBuf,
    emulator: PathBuf,
    libraries: PathBuf,
}

impl Toolchain {
    /// Looks for everything, and names all that is missing.
    fn find(target: Target) -> anyhow::Result<Toolchain> {
        let triple = target.triple();
        let mut missing: Vec<_> = target.missing_library().into_iter().collect();
        let mut program = |variable: &str, name: &str, package: &str| {
            let wanted = std::env::var_os(variable).map_or_else(|| PathBuf::from(name), PathBuf::from);
            let found = find_program(&wanted);
            if found.is_none() {
                missing.push(format!("{}: install {package}, or set {variable}", wanted.display()));
            }
            found.unwrap_or(wanted)
        };
        let linker = program(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER",
            "aarch64-linux-gnu-gcc",
            "gcc-aarch64-linux-gnu and libc6-dev-arm64-cross (names of Debian)",
        );
        let emulator = program("QEMU", "qemu-aarch64", "qemu-user");
        let libraries = std::env::var_os("QEMU_LD_PREFIX").unwrap_or_else(|| "/usr/aarch64-linux-gnu".into());
        let libraries = PathBuf::from(libraries);
        if !libraries.join("lib/ld-linux-aarch64.so.1").exists() {
            missing.push(format!(
                "lib/ld-linux-aarch64.so.1 in {}: install libc6-arm64-cross, or set QEMU_LD_PREFIX to the folder that has it",
                libraries.display()
            ));
        }
        ensure!(missing.is_empty(), "missing for {triple}:\n  {}", missing.join("\n  "));
        Ok(Toolchain { target, linker, emulator, libraries })
    }

    /// Runs one suite on one processor; counts passed tests and collects the tiers that say they took part.
    fn test(&self, processor: &str, suite: &[&str], all: bool, run: &mut Run) -> anyhow::Result<()> {
        let variable = self.target.triple().replace('-', "_").to_uppercase();
        let mut command = cargo();
        command
            .args(["test", "--target", self.target.triple()])
            .args(suite)
            .args(["--", "--nocapture"])
            .env(format!("CARGO_TARGET_{variable}_LINKER"), &self.linker)
            .env(format!("CARGO_TARGET_{variable}_RUNNER"), &self.emulator)
            .env("QEMU_LD_PREFIX", &self.libraries)
            .env("QEMU_CPU", processor)
            .stdout(Stdio::piped());
        if !all {
            command.args(LONG.iter().flat_map(|test| ["--skip", test]));
        }
        let mut child = command.spawn().context("cargo does not run")?;
        let output = child.stdout.take().context("cargo has no output")?;
        for line in BufReader::new(output).lines() {
            let line = line?;
            println!("{line}");
            run.read(&line);
        }
        let status = child.wait()?;
        ensure!(status.success(), "{}: {suite:?} on {processor} failed ({status})", self.target.triple());
        Ok(())
    }
}

/// What the tests of one processor print.
#[derive(Default)]
struct Run {
    passed: usize,
    tiers: Vec<String>,
}

impl Run {
    fn read(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ok. ") {
            self.passed += rest.split(' ').next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        }
        // "tier neon, 2 threads", printed by the conformance suite
        let tier = line.split_once("tier ").and_then(|(_, rest)| rest.split_once(',')).map(|(tier, _)| tier.to_owned());
        if let Some(tier) = tier.filter(|tier| !self.tiers.contains(tier)) {
            self.tiers.push(tier);
        }
    }
}

/// A path, or a name that is looked for in `PATH`.
fn find_program(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return name.is_file().then(|| name.to_owned());
    }
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Builds the example `wasm_self_test` of the kernels and calls it.
fn wasm() -> anyhow::Result<()> {
    let target = Target::Wasm32;
    let mut missing: Vec<_> = target.missing_library().into_iter().collect();
    let node = std::env::var_os("NODE").map_or_else(|| PathBuf::from("node"), PathBuf::from);
    if find_program(&node).is_none() {
        missing.push(format!("{}: install Node.js 20 or later, or set NODE", node.display()));
    }
    ensure!(missing.is_empty(), "missing for {}:\n  {}", target.triple(), missing.join("\n  "));
    let built = cargo()
        .args(["build", "--target", target.triple(), "-p", "bitnet-kernels", "--example", "wasm_self_test"])
        .args(["--message-format", "json-render-diagnostics"])
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", "-C target-feature=+simd128")
        .stderr(Stdio::inherit())
        .output()
        .context("cargo does not run")?;
    ensure!(built.status.success(), "the module was not built ({})", built.status);
    let messages = String::from_utf8(built.stdout)?;
    let module = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["filenames"].as_array().cloned())
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .rfind(|name| name.ends_with(".wasm"))
        .context("cargo names no module")?;
    let program = "WebAssembly.instantiate(require('fs').readFileSync(process.argv[1]))\
        .then(({ instance }) => console.log(instance.exports.conforming_tiers()))";
    let run = Command::new(node).args(["-e", program, &module]).stderr(Stdio::inherit()).output()?;
    let tiers = String::from_utf8_lossy(&run.stdout).trim().to_owned();
    ensure!(run.status.success(), "the module failed under Node ({})", run.status);
    ensure!(tiers == "2", "{tiers} tiers conform, not two");
    println!("wasm32-unknown-unknown: the tiers simd128 and scalar give the same bits and conform");
    Ok(())
}

impl CrossTest {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        if let Target::Wasm32 = self.target {
            return wasm();
        }
        let toolchain = Toolchain::find(self.target)?;
        let known = self.target.processors();
        let processors = match &self.cpu[..] {
            [] => known.iter().map(|(name, _)| *name).collect(),
            chosen => chosen.iter().map(String::as_str).collect::<Vec<_>>(),
        };
        let mut summary = Vec::new();
        for processor in processors {
            let mut run = Run::default();
            for suite in SUITES {
                println!("\n== {} on {processor}: {}", self.target.triple(), suite.join(" "));
                toolchain.test(processor, suite, self.all, &mut run)?;
            }
            let best = known.iter().find(|(name, _)| *name == processor).map(|(_, best)| *best);
            match (best, run.tiers.first()) {
                (_, None) => bail!("{processor}: no tier said that it took part"),
                (Some(best), Some(found)) if found != best => {
                    bail!("{processor}: the best tier was {found}, not {best}")
                }
                _ => {}
            }
            summary.push(format!("{processor}: {} tests passed; tiers {}", run.passed, run.tiers.join(", ")));
        }
        println!("\n{}", summary.join("\n"));
        if !self.all {
            println!("left out (see --all): {}", LONG.join(", "));
        }
        Ok(())
    }
}
