//! What the loader makes of published layouts, before any arithmetic: codes and scales against the golden data.

use super::*;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;

/// −1, 0 and +1 of a packed matrix, row-major, padding left out.
fn codes(weights: &TernaryWeights) -> Vec<u8> {
    let row_bytes = weights.cols.div_ceil(128) * 32;
    let code = |row: usize, col: usize| {
        let byte = weights.codes[row * row_bytes + col / 128 * 32 + col % 32];
        (byte >> (6 - 2 * (col % 128 / 32)) & 3).wrapping_sub(1)
    };
    (0..weights.rows * weights.cols).map(|i| code(i / weights.cols, i % weights.cols)).collect()
}

#[test]
fn codes_and_scales_of_every_folder() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/crossval");
    if !root.exists() {
        eprintln!("SKIPPED: {} does not exist", root.display());
        return;
    }
    let mut matrices = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let folder = entry.unwrap().path();
        let Ok(json) = std::fs::read(folder.join("golden.json")) else { continue };
        let golden: Value = serde_json::from_slice(&json).unwrap();
        let Some(ternary) = golden["ternary"].as_object() else { continue };
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let options = LoadOptions::default();
        let (mut config, notes) = Config::read(&checkpoint, &options).unwrap();
        // The hashes are of rows in the order of the file.
        config.rope_style = bitnet_kernels::RopeStyle::Neox;
        let mut loader = Loader::new(&checkpoint, &config, &options, notes);
        let mut found = 0;
        for layer in 0..config.layers {
            for projection in Projection::ALL {
                let Matrix::Ternary(weights) = loader.projection(layer, projection).unwrap() else {
                    panic!("{}: block {layer} {projection:?} is not ternary", folder.display());
                };
                let name = loader.inventory.name(Role::Block(layer, BlockRole::Weight(projection)));
                let module = name.trim_end_matches(".weight").trim_start_matches("model.");
                let golden = ternary.get(module).or(ternary.get(&format!("model.{module}"))).unwrap();
                let hash: String = Sha256::digest(codes(&weights)).iter().map(|b| format!("{b:02x}")).collect();
                assert_eq!(golden["sha256_of_int8_row_major"], hash.as_str(), "{}: {name}", folder.display());
                let want = golden["direct_scale"].as_f64().unwrap();
                let TernaryScales::Tensor(scale) = weights.scales else { panic!("{name}: one scale expected") };
                assert!((f64::from(scale) / want - 1.0).abs() <= 3e-7, "{name}: scale {scale}, expected {want}");
                found += 1;
            }
        }
        assert_eq!(found, ternary.len(), "{}", folder.display());
        matrices += found;
    }
    assert!(matrices > 0, "no code matrices among the golden data");
}

#[test]
fn trilm_floats_are_held_as_codes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/crossval/llama-trilm-f16");
    if !folder.exists() {
        eprintln!("SKIPPED: {} does not exist", folder.display());
        return;
    }
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let options = LoadOptions::default();
    let (config, notes) = Config::read(&checkpoint, &options).unwrap();
    let mut loader = Loader::new(&checkpoint, &config, &options, notes);
    for projection in Projection::ALL {
        let Matrix::Dense(weights) = loader.projection(0, projection).unwrap() else {
            panic!("{projection:?} would be fed with int8")
        };
        assert_eq!(weights.format, DenseFormat::Ternary, "{projection:?}");
    }
}
