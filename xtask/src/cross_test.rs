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
        }
    }

    /// Processors of the emulator, and the best tier that each must have.
    fn processors(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Target::Aarch64 => &[("cortex-a72", "neon"), ("neoverse-n1", "dotprod"), ("max", "i8mm")],
        }
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
        let libraries = Command::new("rustc").args(["--print", "target-libdir", "--target", triple]).output();
        let libraries = libraries.context("rustc does not run")?;
        let mut missing = Vec::new();
        if !Path::new(String::from_utf8_lossy(&libraries.stdout).trim()).is_dir() {
            missing.push(format!("Rust's standard library: rustup target add {triple}"));
        }
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
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
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

impl CrossTest {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
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
