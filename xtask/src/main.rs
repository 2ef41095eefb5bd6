//! Development chores: synthetic models and checks against other readers.
#![forbid(unsafe_code)]

mod compare;
mod cross_test;
mod crossval;
mod fixture;
mod fixture_tokenizer;
mod instructions;
mod interval;
mod peer;
mod soak;
mod tensor_hashes;

use bitnet::formats::Encoding;
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};

#[derive(Parser)]
#[command(about = "Development chores of the bitnet workspace")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Writes a synthetic BitNet model: the same bytes every time.
    GenFixtures {
        /// Shape: `2b` is exactly that of BitNet b1.58 2B-4T.
        #[arg(long, value_enum)]
        size: fixture::Size,
        /// Directory for the file `bitnet-SIZE-TYPE.gguf`; made if absent.
        #[arg(long)]
        output: PathBuf,
        /// Ternary encoding: i2_s, tq1_0, tq2_0, q2_0, pq2_0.
        #[arg(long = "type", default_value = "i2_s")]
        encoding: Encoding,
        /// Other weights of the same shape.
        #[arg(long, default_value_t = 0)]
        seed: u32,
    },
    /// Measures our engine and another in turns on the same weights, and prints how they compare.
    Compare(compare::Compare),
    /// Compares results with golden data and, on fresh random models, with other engines.
    Crossval(crossval::Crossval),
    /// Runs the tests of the kernels and of exactness for another architecture, in an emulator.
    CrossTest(cross_test::CrossTest),
    /// Counts the instructions of the kernels with valgrind, and fails when they are more than those in `instructions.json`.
    Instructions(instructions::Instructions),
    /// Compares every verb on every tier with the scalar oracle, on random shapes and inputs, for as long as you like.
    Soak(soak::Soak),
    /// Prints the SHA-256 of every dequantised tensor of a GGUF file as JSON, for crossval/check_gguf.py.
    TensorHashes {
        /// The GGUF file.
        file: PathBuf,
    },
}

/// The checkout.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The same chore by an optimised build: our engine as people run it, not with a third of its speed.
fn optimised() -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = root().join("Cargo.toml");
    let status = std::process::Command::new(cargo)
        .args(["run", "--release", "--quiet", "--package", "xtask", "--manifest-path"])
        .arg(manifest)
        .arg("--")
        .args(std::env::args_os().skip(1))
        .status()?;
    std::process::exit(status.code().unwrap_or(1))
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::GenFixtures { size, output, encoding, seed } => fixture::write(size, &output, encoding, seed),
        Task::Compare(_) if cfg!(debug_assertions) => optimised(),
        Task::Compare(task) => task.run(),
        Task::Crossval(task) => task.run(),
        Task::CrossTest(task) => task.run(),
        Task::Instructions(task) => task.run(),
        Task::Soak(task) => task.run(),
        Task::TensorHashes { file } => tensor_hashes::print(&file),
    }
}
