//! Quantisation-aware training of two image networks, each beside its float twin: a perceptron with BitLinear on the UCI optical
//! digits, and a small convolutional network with BitConv on MNIST's test images (8,000 to learn, 2,000 to judge). The ternary ones
//! then run on the engine's kernels, which must give the same answers.
//!
//! ```sh
//! cargo run --release -p digits -- DIRECTORY   # with the files of the two sets
//! ```

#![forbid(unsafe_code)]

mod dataset;
mod engine;
mod linear;
mod network;
mod random;

use crate::dataset::Dataset;
use crate::network::{Network, Window};
use std::path::{Path, PathBuf};

/// Accuracies of the twins on images that they have not seen.
struct Comparison {
    float: f64,
    ternary: f64,
    /// Of the ternary network on the engine's kernels.
    engine: f64,
    /// Images that engine and training graph see differently.
    different: usize,
}

/// Trains both twins on the same images in the same order.
fn compare(train: &Dataset, test: &Dataset, shape: &[(Window, usize)], epochs: usize) -> anyhow::Result<Comparison> {
    let learn = |ternary: bool| {
        let mut network = Network::new(train.size, train.channels, shape, ternary, 1);
        network.train(train, epochs, 2)?;
        anyhow::Ok(network)
    };
    let (float, ternary) = (learn(false)?, learn(true)?);
    let answers = ternary.answers(test);
    let engine = engine::answers(&ternary, test)?;
    Ok(Comparison {
        float: test.accuracy(&float.answers(test)),
        ternary: test.accuracy(&answers),
        engine: test.accuracy(&engine),
        different: answers.iter().zip(&engine).filter(|(a, b)| a != b).count(),
    })
}

/// 64 inputs, two hidden layers, ten classes.
const PERCEPTRON: [(Window, usize); 3] = [(Window::Whole, 256), (Window::Whole, 256), (Window::Whole, 10)];
/// Two convolutions of 3 × 3 with stride 2, ten classes.
const CONVOLUTIONS: [(Window, usize); 3] = [(Window::Three, 32), (Window::Three, 64), (Window::Whole, 10)];

fn perceptron(dir: &Path) -> anyhow::Result<Comparison> {
    let (train, test) = (
        Dataset::optdigits(&dir.join("optdigits-train.csv.gz"))?,
        Dataset::optdigits(&dir.join("optdigits-test.csv.gz"))?,
    );
    compare(&train, &test, &PERCEPTRON, 30)
}

fn convolutions(dir: &Path) -> anyhow::Result<Comparison> {
    let all =
        Dataset::mnist(&dir.join("mnist-t10k-images-idx3-ubyte.gz"), &dir.join("mnist-t10k-labels-idx1-ubyte.gz"))?;
    let (train, test) = all.split(8_000);
    compare(&train, &test, &CONVOLUTIONS, 12)
}

fn main() -> anyhow::Result<()> {
    let dir = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("../shared/data/digits"), PathBuf::from);
    println!("{:<34} {:>8} {:>8} {:>8}  answers of the engine that differ", "", "float", "ternary", "engine");
    for (name, compare) in [
        ("perceptron, optical digits", perceptron as fn(&Path) -> anyhow::Result<Comparison>),
        ("convolutions, MNIST", convolutions),
    ] {
        let Comparison { float, ternary, engine, different } = compare(&dir)?;
        let percent = |share: f64| format!("{:.2} %", 100.0 * share);
        println!("{name:<34} {:>8} {:>8} {:>8}  {different}", percent(float), percent(ternary), percent(engine));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ternary_perceptron_is_within_one_percent_of_its_float_twin() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/digits");
        if !dir.exists() {
            eprintln!("SKIPPED: {} is absent", dir.display());
            return;
        }
        let Comparison { float, ternary, engine, different } = perceptron(&dir).unwrap();
        println!("float {float:.4}, ternary {ternary:.4}, engine {engine:.4}, {different} answers differ");
        assert!(float > 0.95 && ternary > float - 0.01, "{float} {ternary}");
        // an activation may round to a neighbouring code
        assert!(different <= 3 && (engine - ternary).abs() < 0.002, "{different}");
    }
}
