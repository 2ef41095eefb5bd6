//! Encodings against other people's results (`shared/crossval`).

mod support;

use bitnet_formats::{Encoding, Scales, Ternary};
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};
use std::path::Path;
use support::{refusal, shared};

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Values of a plain tensor of a safetensors file.
fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let encoding = match tensor.dtype() {
        Dtype::F32 => Encoding::F32,
        Dtype::F64 => Encoding::F64,
        Dtype::F16 => Encoding::F16,
        Dtype::BF16 => Encoding::BF16,
        Dtype::I8 => Encoding::I8,
        other => panic!("{name}: {other:?}"),
    };
    encoding.decode(tensor.data(), 1, tensor.shape().iter().product()).unwrap()
}

fn codes(file: &SafeTensors, name: &str) -> Vec<i8> {
    file.tensor(name).unwrap().data().iter().map(|&b| b as i8).collect()
}

#[track_caller]
fn assert_same_bits(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert_eq!(a.to_bits(), b.to_bits(), "{what}: element {i}: {a} instead of {b}");
    }
}

#[test]
fn decodes_the_golden_blocks_to_the_bit() {
    let Some(dir) = shared("crossval") else { return };
    let bytes = read(&dir.join("encodings.safetensors"));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for encoding in ["Q8_0", "Q4_0", "Q4_K", "Q6_K", "TQ1_0", "TQ2_0", "F16", "BF16"] {
        let codec: Encoding = encoding.parse().unwrap();
        let expected = floats(&file, &format!("{encoding}.values"));
        let raw = file.tensor(&format!("{encoding}.bytes")).unwrap();
        let rows = raw.shape()[0];
        let found = codec.decode(raw.data(), rows, expected.len() / rows).unwrap();
        assert_same_bits(&found, &expected, encoding);
    }
}

#[test]
fn encodes_as_the_golden_writer() {
    let Some(dir) = shared("crossval") else { return };
    let bytes = read(&dir.join("encodings.safetensors"));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for encoding in ["Q8_0", "Q4_0", "F16", "BF16"] {
        let codec: Encoding = encoding.parse().unwrap();
        let input = floats(&file, &format!("{encoding}.from_float.input"));
        let expected = file.tensor(&format!("{encoding}.from_float.bytes")).unwrap();
        let rows = expected.shape()[0];
        assert_eq!(codec.encode(&input, rows, input.len() / rows).unwrap(), expected.data(), "{encoding}");
    }
    for encoding in ["TQ1_0", "TQ2_0"] {
        let codec: Encoding = encoding.parse().unwrap();
        let input = floats(&file, &format!("{encoding}.from_float.input"));
        let values = floats(&file, &format!("{encoding}.from_float.values"));
        let expected = file.tensor(&format!("{encoding}.from_float.bytes")).unwrap();
        let (row_values, row_bytes) = (512, expected.shape()[1]);
        let mut encoded = 0;
        for (row, (input, values)) in input.chunks(row_values).zip(values.chunks(row_values)).enumerate() {
            let bytes = &expected.data()[row * row_bytes..][..row_bytes];
            assert_same_bits(&codec.decode(bytes, 1, row_values).unwrap(), values, encoding);
            // The golden writer gives a block of zeros the scale 0, ours the scale of the tensor; and where it rounds
            // the scale to f16 we refuse. Values that went through it once have an exact scale.
            if values.chunks(256).all(|block| block.iter().any(|&v| v != 0.0)) {
                assert_eq!(codec.encode(values, 1, row_values).unwrap(), bytes, "{encoding} row {row}");
                encoded += 1;
                let inexact = input.iter().any(|v| half::f16::from_f32(*v).to_f32() != *v);
                assert_eq!(codec.encode(input, 1, row_values).is_err(), inexact, "{encoding} row {row}");
            }
        }
        assert!(encoded >= 4, "{encoding}: only {encoded} rows were encoded");
    }
}

#[test]
fn q6_k_keeps_values_within_its_precision() {
    // 6 bits per value: steps of max/32 of the sub-block, so at most a step wrong (the scale is itself rounded).
    let mut state = 1u32;
    let values: Vec<f32> = (0..8 * 256)
        .map(|i| {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) as f32 / 8388608.0 - 1.0 + if i % 97 == 0 { 1.5 } else { 0.0 }
        })
        .collect();
    let bytes = Encoding::Q6K.encode(&values, 8, 256).unwrap();
    let back = Encoding::Q6K.decode(&bytes, 8, 256).unwrap();
    let error: f64 = values.iter().zip(&back).map(|(a, b)| ((a - b) as f64).powi(2)).sum();
    let power: f64 = values.iter().map(|a| (*a as f64).powi(2)).sum();
    assert!((error / power).sqrt() < 0.02, "relative error {}", (error / power).sqrt());
    for (sub, back) in values.chunks(16).zip(back.chunks(16)) {
        let step = sub.iter().fold(0f32, |m, v| m.max(v.abs())) / 31.0;
        assert!(sub.iter().zip(back).all(|(a, b)| (a - b).abs() <= step), "{sub:?}\n{back:?}");
    }
    // What it holds exactly stays exact.
    assert_eq!(Encoding::Q6K.decode(&Encoding::Q6K.encode(&[0.0; 256], 1, 256).unwrap(), 1, 256).unwrap(), [0.0; 256]);
    let ramp: Vec<f32> = (0..256).map(|i| (i % 64) as f32 - 32.0).collect();
    let exact: Vec<f32> = (0..256).map(|i| if i % 16 == 0 { -32.0 } else { ramp[i] }).collect();
    assert_eq!(Encoding::Q6K.decode(&Encoding::Q6K.encode(&exact, 1, 256).unwrap(), 1, 256).unwrap(), exact);
    assert!(refusal(Encoding::Q6K.encode(&[f32::NAN; 256], 1, 256)).contains("row 0, column 0"));
    assert!(refusal(Encoding::Q4K.encode(&exact, 1, 256)).contains("Q6_K"));
}

#[test]
fn absmean_is_that_of_transformers() {
    let Some(dir) = shared("crossval") else { return };
    let bytes = read(&dir.join("quantize.safetensors"));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut cases = 0;
    for name in file.names() {
        let Some(case) = name.strip_prefix("weight.").and_then(|n| n.strip_suffix(".input")) else { continue };
        let of = |what: &str| format!("weight.{case}.{what}");
        let shape = file.tensor(name).unwrap().shape().to_vec();
        let weights = Ternary::absmean(&floats(&file, name), shape[0], shape[1]).unwrap();
        assert_eq!(weights.codes, codes(&file, &of("codes")), "{case}");
        let scale = weights.tensor_scale().unwrap() as f64;
        let inverse = floats(&file, &of("inverse_scale"))[0] as f64;
        assert!((scale * inverse - 1.0).abs() < 3e-7, "{case}: {scale} * {inverse}");
        let packed = Encoding::HfPacked.encode_ternary(&weights).unwrap();
        assert_eq!(packed, file.tensor(&of("packed")).unwrap().data(), "{case}");
        cases += 1;
    }
    assert_eq!(cases, 15);
    assert!(refusal(Ternary::absmean(&[1.0, f32::NAN], 1, 2)).contains("column 1"));
    assert!(refusal(Ternary::absmean(&[1.0, 2.0], 1, 3)).contains("2 weights"));
}

#[test]
fn packs_as_transformers() {
    let Some(dir) = shared("crossval") else { return };
    let bytes = read(&dir.join("quantize.safetensors"));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut cases = 0;
    for name in file.names() {
        let Some(case) = name.strip_prefix("pack.").and_then(|n| n.strip_suffix(".codes")) else { continue };
        let shape = file.tensor(name).unwrap().shape().to_vec();
        let (rows, cols) = (shape[0], shape[1]);
        let codes = codes(&file, name);
        let weights = Ternary { rows, cols, codes, scales: Scales::Tensor(0.5) };
        let packed = Encoding::HfPacked.encode_ternary(&weights).unwrap();
        assert_eq!(packed, file.tensor(&format!("pack.{case}.packed")).unwrap().data(), "{case}");
        assert_eq!(Encoding::HfPacked.decode_ternary(&packed, rows, cols, Some(0.5)).unwrap(), weights, "{case}");
        cases += 1;
    }
    assert_eq!(cases, 13);
}

#[test]
fn codes_of_the_golden_models_have_the_stated_hashes() {
    let Some(dir) = shared("crossval") else { return };
    let mut projections = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("golden.json").is_file() {
            continue;
        }
        let golden: serde_json::Value = serde_json::from_slice(&read(&folder.join("golden.json"))).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&read(&folder.join("config.json"))).unwrap();
        let inverse = config["quantization_config"]["linear_class"] != "autobitlinear";
        let bytes = read(&folder.join("model.safetensors"));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for (name, expected) in golden["ternary"].as_object().into_iter().flatten() {
            let stored = [name.clone(), name.trim_start_matches("model.").to_string()];
            let stored = stored.iter().find(|n| file.tensor(&format!("{n}.weight")).is_ok()).unwrap();
            let tensor = file.tensor(&format!("{stored}.weight")).unwrap();
            let (rows, cols) = (tensor.shape()[0], tensor.shape()[1]);
            let weights = if tensor.dtype() == Dtype::U8 {
                let scale = floats(&file, &format!("{stored}.weight_scale"))[0];
                let scale = if inverse { 1.0 / scale } else { scale };
                Encoding::HfPacked.decode_ternary(tensor.data(), rows * 4, cols, Some(scale)).unwrap()
            } else {
                Ternary::absmean(&floats(&file, &format!("{stored}.weight")), rows, cols).unwrap()
            };
            let bytes: Vec<u8> = weights.codes.iter().map(|&c| c as u8).collect();
            let hash: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hash, expected["sha256_of_int8_row_major"], "{} {name}", folder.display());
            let (found, scale) = (weights.tensor_scale().unwrap() as f64, expected["direct_scale"].as_f64().unwrap());
            assert!((found / scale - 1.0).abs() < 3e-7, "{name}: {found} instead of {scale}");
            projections += 1;
        }
    }
    assert!(projections >= 100, "only {projections} projections were checked");
}
