//! Encodings against other people's results (`shared/crossval`), worked examples of the format description, and
//! properties that must hold for every ternary encoding.

use bitnet_formats::{Encoding, FormatError, I2sLayout, Scales, Ternary, TileParams};
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

const I2S: Encoding = Encoding::I2S(I2sLayout::X86);
const BLOCK_ENCODINGS: [Encoding; 5] =
    [Encoding::Tq1_0, Encoding::Tq2_0, Encoding::Q2_0, Encoding::Q2_0Legacy, Encoding::Pq2_0];

/// `shared/crossval` beside the checkout; the tests that need it say so when it is missing.
fn crossval() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/crossval");
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("SKIPPED: {} is absent", dir.display());
    None
}

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

#[track_caller]
fn refusal<T: std::fmt::Debug>(result: Result<T, FormatError>) -> String {
    result.expect_err("must be refused").to_string()
}

// ---- other people's results ----------------------------------------------------------------------------------------

#[test]
fn decodes_the_golden_blocks_to_the_bit() {
    let Some(dir) = crossval() else { return };
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
    let Some(dir) = crossval() else { return };
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
    let Some(dir) = crossval() else { return };
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
    let Some(dir) = crossval() else { return };
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
    let Some(dir) = crossval() else { return };
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

// ---- worked examples -----------------------------------------------------------------------------------------------

#[test]
fn i2_s_example() {
    let mut codes = vec![0i8; 128];
    codes[..3].copy_from_slice(&[1, -1, 1]);
    codes[32..35].copy_from_slice(&[-1, -1, 1]);
    codes[64..67].copy_from_slice(&[0, -1, 1]);
    codes[96..99].copy_from_slice(&[1, -1, 1]);
    let weights = Ternary { rows: 1, cols: 128, codes, scales: Scales::Tensor(0.75) };
    let mut expected = vec![0x86, 0x00, 0xaa, 0x55];
    expected.resize(32, 0x55);
    expected.extend([0x00, 0x00, 0x40, 0x3f]);
    expected.resize(64, 0);
    assert_eq!(I2S.encode_ternary(&weights).unwrap(), expected);
    assert_eq!(I2S.encode(&weights.to_f32(), 1, 128).unwrap(), expected);
    // Whatever a writer left in the last 28 bytes does not matter; the scale and the codes do.
    expected[36..].fill(0xff);
    assert_eq!(I2S.decode_ternary(&expected, 1, 128, None).unwrap(), weights);
    let mut damaged = expected.clone();
    damaged[5] |= 0b1100;
    assert!(refusal(I2S.decode_ternary(&damaged, 1, 128, None)).contains("row 0, column 69: code 3"));
    assert!(refusal(I2S.decode(&damaged, 2, 64)).contains("row 1, column 5"));
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        expected[32..36].copy_from_slice(&scale.to_le_bytes());
        assert!(refusal(I2S.decode(&expected, 1, 128)).contains("finite and above zero"), "{scale}");
    }
}

/// The input of formats.md §2.6.
fn tq_example() -> Vec<f32> {
    let mut x = vec![0f32; 256];
    x[..8].copy_from_slice(&[0.5, -0.5, 0.0, 0.5, 0.0, 0.0, -0.5, 0.5]);
    for (at, value) in [(32, 0.5), (64, -0.5), (96, 0.5), (128, -0.5), (160, -0.5), (240, 0.5), (244, -0.5)] {
        x[at] = value;
    }
    x
}

fn with(len: usize, fill: u8, bytes: &[(usize, u8)]) -> Vec<u8> {
    let mut all = vec![fill; len];
    bytes.iter().for_each(|&(at, byte)| all[at] = byte);
    all
}

#[test]
fn tq_examples() {
    let x = tq_example();
    let set = [
        (0, 0x8a),
        (1, 0x54),
        (2, 0x55),
        (3, 0x56),
        (6, 0x54),
        (7, 0x56),
        (32, 0x50),
        (48, 0x95),
        (52, 0x15),
        (64, 0x00),
        (65, 0x38),
    ];
    assert_eq!(Encoding::Tq2_0.encode(&x, 1, 256).unwrap(), with(66, 0x55, &set));
    let set = [
        (0, 0xea),
        (1, 0x2b),
        (2, 0x80),
        (3, 0xd5),
        (6, 0x2b),
        (7, 0xd5),
        (32, 0x2b),
        (48, 0xb8),
        (49, 0x7f),
        (50, 0x7f),
        (51, 0x7f),
        (52, 0x00),
        (53, 0x38),
    ];
    assert_eq!(Encoding::Tq1_0.encode(&x, 1, 256).unwrap(), with(54, 0x80, &set));
}

#[test]
fn pq2_0_and_q2_0_examples() {
    let mut x = vec![0f32; 128];
    x[..4].copy_from_slice(&[-0.5, 0.0, 0.5, 0.0]);
    let expected = with(34, 0x55, &[(0, 0x00), (1, 0x38), (2, 0x64)]);
    assert_eq!(Encoding::Pq2_0.encode(&x, 1, 128).unwrap(), expected);
    assert_eq!(Encoding::Q2_0Legacy.encode(&x, 1, 128).unwrap(), expected);
    assert_eq!(Encoding::Q2_0.encode(&x[..64], 1, 64).unwrap(), expected[..18]);
    // Code 3: +2 d for those who only want numbers, an error for those who want ternary weights.
    let mut three = expected.clone();
    three[4] = 0x57;
    assert_eq!(Encoding::Pq2_0.decode(&three, 1, 128).unwrap()[8], 1.0);
    assert!(refusal(Encoding::Pq2_0.decode_ternary(&three, 1, 128, None)).contains("column 8: code 3"));
}

#[test]
fn hf_packed_example() {
    let rows = [[1, -1], [0, 0], [-1, 1], [1, 1], [0, -1], [-1, 0], [1, 0], [0, 1]];
    let weights = Ternary { rows: 8, cols: 2, codes: rows.concat(), scales: Scales::Tensor(0.25) };
    let packed = Encoding::HfPacked.encode_ternary(&weights).unwrap();
    assert_eq!(packed, [146, 72, 73, 153]);
    assert_eq!(Encoding::HfPacked.decode_ternary(&packed, 8, 2, Some(0.25)).unwrap(), weights);
    assert!(refusal(Encoding::HfPacked.decode_ternary(&packed, 8, 2, None)).contains("was not given"));
    assert!(refusal(Encoding::HfPacked.decode_ternary(&packed, 8, 2, Some(0.0))).contains("above zero"));
    assert!(refusal(Encoding::HfPacked.decode_ternary(&[146, 72, 73, 0xff], 8, 2, Some(1.0))).contains("code 3"));
    assert!(refusal(Encoding::HfPacked.decode(&packed, 8, 2)).contains("decode_ternary"));
}

#[test]
fn absmean_example() {
    let weights = Ternary::absmean(&[0.8, -0.5, 1.2, -1.5, 0.4, -0.9, 1.3, -0.7, 0.2], 3, 3).unwrap();
    assert_eq!(weights.codes, [1, -1, 1, -1, 0, -1, 1, -1, 0]);
    assert!((weights.tensor_scale().unwrap() - 0.83333).abs() < 1e-5);
}

// ---- lookup-table layouts, against the order in which their writer emits bytes ---------------------------------------

/// A matrix in which every row and column differs from the others.
fn pattern(rows: usize, cols: usize) -> Ternary {
    let mut state = 7u32;
    let codes = (0..rows * cols).map(|_| {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        ((state >> 16) % 3) as i8 - 1
    });
    Ternary { rows, cols, codes: codes.collect(), scales: Scales::Tensor(0.0625) }
}

#[test]
fn tl1_follows_the_writers_loops() {
    for (rows, cols, bm_tile, bk_tile, bm) in [(256, 256, 128, 64, 64), (128, 192, 64, 96, 32), (64, 64, 64, 32, 64)] {
        let params = TileParams { bm_tile, bk_tile, bm };
        let (tile_rows, tile_cols, bm) = (bm_tile as usize, bk_tile as usize, bm as usize);
        let weights = pattern(rows, cols);
        let at = |m: usize, k: usize| weights.codes[m * cols + k];
        let pair = |m: usize, k: usize| (3 * at(m, k) + at(m, k + 1) + 4) as u8;
        let mut expected = Vec::new();
        for m0 in (0..rows).step_by(tile_rows) {
            for k0 in (0..cols).step_by(tile_cols) {
                for m1 in (m0..m0 + tile_rows).step_by(bm) {
                    for k1 in (k0..k0 + tile_cols).step_by(256 / bm) {
                        for m2 in (m1..m1 + bm).step_by(16) {
                            for k2 in (k1..k1 + 256 / bm).step_by(4) {
                                expected.extend((m2..m2 + 16).map(|m| pair(m, k2) << 4 | pair(m, k2 + 2)));
                            }
                        }
                    }
                }
            }
        }
        expected.extend(0.0625f32.to_le_bytes());
        expected.extend([0; 28]);
        let tl1 = Encoding::Tl1(params);
        assert_eq!(tl1.encode_ternary(&weights).unwrap(), expected, "{params:?}");
        assert_eq!(tl1.decode_ternary(&expected, rows, cols, None).unwrap(), weights, "{params:?}");
        let high = expected.iter().position(|&b| b >> 4 == 8).unwrap();
        expected[high] |= 0xf0;
        assert!(refusal(tl1.decode(&expected, rows, cols)).contains("above 8"));
    }
}

#[test]
fn tl2_follows_the_writers_loops() {
    for (rows, cols, bm_tile, bk_tile) in
        [(128, 512, 64, 96), (320, 640, 160, 192), (64, 384, 32, 96), (32, 480, 32, 48)]
    {
        let params = TileParams { bm_tile, bk_tile, bm: 32 };
        let (tile_rows, tile_cols) = (bm_tile as usize, bk_tile as usize);
        let weights = pattern(rows, cols);
        let at = |m: usize, k: usize| weights.codes[m * cols + k];
        let triple = |m: usize, k: usize| 9 * at(m, k) + 3 * at(m, k + 1) + at(m, k + 2);
        let pair = |m: usize, k: usize| (3 * at(m, k) + at(m, k + 1) + 4) as u8;
        let split = cols - cols % tile_cols;
        // Rows of a group of 32 in the order in which they are stored.
        let swizzled: Vec<usize> = [0, 2, 1, 3].iter().flat_map(|g| 8 * g..8 * g + 8).collect();
        let tiles = |k_from: usize, k_to: usize, k_tile: usize| {
            let mut tiles = Vec::new();
            for m0 in (0..rows).step_by(tile_rows) {
                for k0 in (k_from..k_to).step_by(k_tile) {
                    tiles.extend((m0..m0 + tile_rows).step_by(32).map(|m1| (m1, k0)));
                }
            }
            tiles
        };
        let mut expected = Vec::new();
        for (m, k0) in tiles(0, split, tile_cols) {
            for k in (k0..k0 + tile_cols).step_by(6) {
                let byte = |r: &usize| triple(m + r, k).unsigned_abs() << 4 | triple(m + r, k + 3).unsigned_abs();
                expected.extend(swizzled.iter().map(byte));
            }
        }
        for (m, k0) in tiles(0, split, tile_cols) {
            for k in (k0..k0 + tile_cols).step_by(24) {
                for r in 0..16 {
                    let signs = (0..8).flat_map(|t| [triple(m + r, k + 3 * t), triple(m + r + 16, k + 3 * t)]);
                    let word = signs.fold(0u16, |word, v| word << 1 | u16::from(v < 0));
                    expected.extend(word.to_le_bytes());
                }
            }
        }
        for (m, k0) in tiles(split, cols, 32) {
            for k in (k0..k0 + 32).step_by(4) {
                expected.extend(swizzled.iter().map(|r| pair(m + r, k) << 4 | pair(m + r, k + 2)));
            }
        }
        let body = (cols - 256) * rows / 3 * 5 / 8 + 256 * rows / 2 * 4 / 8;
        expected.resize(body.next_multiple_of(32), 0);
        expected.extend(0.0625f32.to_le_bytes());
        expected.extend([0; 28]);
        let tl2 = Encoding::Tl2(params);
        assert_eq!(tl2.encode_ternary(&weights).unwrap(), expected, "{params:?}");
        assert_eq!(tl2.decode_ternary(&expected, rows, cols, None).unwrap(), weights, "{params:?}");
        expected[0] |= 0x0f;
        assert!(refusal(tl2.decode(&expected, rows, cols)).contains("above 13"));
    }
}

#[test]
fn impossible_tiles_are_refused() {
    let tl1 = |bm_tile, bk_tile, bm| Encoding::Tl1(TileParams { bm_tile, bk_tile, bm }).byte_len(256, 512);
    assert_eq!(tl1(128, 64, 64).unwrap(), 256 * 512 / 4 + 32);
    for (params, why) in [
        ((128, 64, 16), "bm must be"),
        ((0, 64, 32), "BM must be"),
        ((96, 64, 64), "BM must be"),
        ((128, 6, 64), "BK must be"),
        ((96, 64, 32), "rows"),
        ((128, 96, 32), "columns"),
    ] {
        let message = refusal(tl1(params.0, params.1, params.2));
        assert!(message.contains(why) && message.contains("256 x 512"), "{message}");
    }
    let tl2 = |bm_tile, bk_tile, bm, cols| Encoding::Tl2(TileParams { bm_tile, bk_tile, bm }).byte_len(256, cols);
    assert!(tl2(128, 96, 32, 512).is_ok());
    for (params, why) in [
        ((128, 96, 64, 512), "bm must be 32"),
        ((100, 96, 32, 512), "BM must be"),
        ((96, 96, 32, 512), "rows"),
        ((128, 64, 32, 512), "BK must be"),
        ((128, 96, 32, 500), "multiple of 32"),
        ((128, 96, 32, 96), "256 columns"),
        ((128, 480, 32, 960 - 32), "in pairs"),
    ] {
        let message = refusal(tl2(params.0, params.1, params.2, params.3));
        assert!(message.contains(why), "{message}");
    }
}

// ---- scales --------------------------------------------------------------------------------------------------------

/// TQ2_0 blocks with these scales; a block that is not empty has code +1 in elements 0..32 and 128..160.
fn tq2_blocks(blocks: &[(f32, bool)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &(scale, empty) in blocks {
        bytes.extend([if empty { 0x55 } else { 0x56 }; 64]);
        bytes.extend(half::f16::from_f32(scale).to_le_bytes());
    }
    bytes
}

#[test]
fn blocks_without_weights_take_the_scale_of_the_others() {
    let decode =
        |blocks: &[(f32, bool)]| Encoding::Tq2_0.decode_ternary(&tq2_blocks(blocks), blocks.len() / 2, 512, None);
    let (full, empty) = (false, true);
    // One scale in all blocks that have weights: a tensor scale, whatever stands in the empty ones.
    let one = decode(&[(0.0, empty), (0.5, full), (3.0, empty), (0.5, full)]).unwrap();
    assert_eq!(one.scales, Scales::Tensor(0.5));
    // A block with scale 0 has no weights, even if its codes are not zero.
    let zero = decode(&[(0.0, full), (0.5, full)]).unwrap();
    assert_eq!((zero.scales.clone(), zero.codes[0], zero.codes[256]), (Scales::Tensor(0.5), 0, 1));
    // Only empty blocks: the first scale above zero is kept, so that the way back is the same.
    assert_eq!(decode(&[(0.0, empty), (0.75, empty)]).unwrap().scales, Scales::Tensor(0.75));
    assert_eq!(decode(&[(0.0, empty), (0.0, full)]).unwrap().scales, Scales::Tensor(1.0));
    // Several scales: one per block.
    let several = decode(&[(0.5, full), (0.25, full), (0.0, empty), (0.5, full)]).unwrap();
    assert_eq!(several.scales, Scales::Groups { len: 256, values: vec![0.5, 0.25, 0.5, 0.5] });
    assert_eq!(several.tensor_scale(), None);
    assert_eq!(several.to_f32()[256 + 31..256 + 33], [0.25, 0.0]);
    for bad in [-0.5, f32::NAN, f32::INFINITY] {
        assert!(refusal(decode(&[(0.5, full), (bad, full)])).contains("row 0, column 256"), "{bad}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_advice() {
    let inexact = Ternary { scales: Scales::Tensor(0.1), ..pattern(2, 256) };
    for encoding in BLOCK_ENCODINGS {
        let message = refusal(encoding.encode_ternary(&inexact));
        assert!(message.contains("cannot hold 0.1") && message.contains("choose I2_S"), "{message}");
        let message = refusal(encoding.encode_ternary(&pattern(2, 96)));
        assert!(message.contains("96 columns are not a multiple"), "{message}");
    }
    assert!(I2S.encode_ternary(&inexact).is_ok());
    let per_row = Ternary { scales: Scales::Groups { len: 256, values: vec![0.5, 0.25] }, ..pattern(2, 256) };
    for encoding in [I2S, Encoding::HfPacked] {
        assert!(refusal(encoding.encode_ternary(&per_row)).contains("choose TQ2_0"));
    }
    assert!(BLOCK_ENCODINGS.iter().all(|e| e.encode_ternary(&per_row).is_ok()));
    let values = (1..=8).map(|i| i as f32).collect();
    let of_64 = Ternary { scales: Scales::Groups { len: 64, values }, ..pattern(2, 256) };
    assert!(Encoding::Q2_0.encode_ternary(&of_64).is_ok());
    for encoding in [Encoding::Tq1_0, Encoding::Tq2_0, Encoding::Pq2_0] {
        assert!(refusal(encoding.encode_ternary(&of_64)).contains("scales 1 and 2 in one block"));
    }
    for broken in [
        Ternary { codes: vec![0; 511], ..pattern(2, 256) },
        Ternary { codes: vec![2; 512], ..pattern(2, 256) },
        Ternary { scales: Scales::Tensor(f32::NAN), ..pattern(2, 256) },
        Ternary { scales: Scales::Groups { len: 0, values: vec![] }, ..pattern(2, 256) },
        Ternary { scales: Scales::Groups { len: 128, values: vec![1.0; 3] }, ..pattern(2, 256) },
    ] {
        refusal(I2S.encode_ternary(&broken));
        refusal(Encoding::Q2_0.encode_ternary(&broken));
    }
    let master = [0.5, 0.0, -0.5, 0.25].repeat(64);
    let message = refusal(I2S.encode(&master, 1, 256));
    assert!(message.contains("value 0.25 at row 0, column 3") && message.contains("absmean"), "{message}");
}

#[test]
fn lengths_are_checked() {
    for (encoding, rows, cols, bytes) in [
        (Encoding::F32, 3, 5, 60),
        (Encoding::Q8_0, 2, 64, 136),
        (Encoding::Q4_0, 2, 64, 72),
        (Encoding::Q4K, 1, 512, 288),
        (Encoding::Q6K, 1, 512, 420),
        (I2S, 640, 2560, 409_632),
        (Encoding::Tq1_0, 2, 512, 216),
        (Encoding::Tq2_0, 2, 512, 264),
        (Encoding::Q2_0, 1, 192, 54),
        (Encoding::Pq2_0, 1, 256, 68),
        (Encoding::HfPacked, 5, 8, 16),
    ] {
        assert_eq!(encoding.byte_len(rows, cols).unwrap(), bytes, "{encoding}");
        refusal(encoding.byte_len(usize::MAX, cols));
        refusal(encoding.byte_len(usize::MAX / cols, 2 * cols));
        assert!(refusal(encoding.decode_or_ternary(&vec![0; bytes - 1], rows, cols)).contains("bytes"), "{encoding}");
    }
    assert!(refusal(I2S.byte_len(1, 192)).contains("blocks of 128"));
    assert!(refusal(Encoding::I2S(I2sLayout::Rows4).byte_len(6, 128)).contains("6 rows"));
    assert!(refusal(Encoding::Q8_0.byte_len(1, 33)).contains("blocks of 32"));
}

/// Decodes by whichever door the encoding has.
trait DecodeOrTernary {
    fn decode_or_ternary(self, bytes: &[u8], rows: usize, cols: usize) -> Result<Vec<f32>, FormatError>;
}

impl DecodeOrTernary for Encoding {
    fn decode_or_ternary(self, bytes: &[u8], rows: usize, cols: usize) -> Result<Vec<f32>, FormatError> {
        match self {
            Encoding::HfPacked => self.decode_ternary(bytes, rows, cols, Some(1.0)).map(|w| w.to_f32()),
            other => other.decode(bytes, rows, cols),
        }
    }
}

#[test]
fn names_parse_back() {
    for name in ["i2_s", "tq1_0", "TQ2_0", "q2_0", "pq2_0", "f16", "bf16", "f32", "q8_0", "q6_k", "q4_0", "i2_s-arm"] {
        let encoding: Encoding = name.parse().unwrap();
        assert!(encoding.to_string().eq_ignore_ascii_case(name), "{name} became {encoding}");
    }
    assert_eq!("I2_S".parse::<Encoding>().unwrap(), I2S);
    assert!(refusal("tl1".parse::<Encoding>()).contains("tile parameters"));
    assert!(refusal("q3_k".parse::<Encoding>()).contains("I2_S"));
}

#[test]
fn integers_keep_their_values_or_refuse() {
    for encoding in [Encoding::I8, Encoding::I16, Encoding::I32, Encoding::I64] {
        let values = [-128.0, -1.0, 0.0, 127.0];
        assert_eq!(encoding.decode(&encoding.encode(&values, 2, 2).unwrap(), 2, 2).unwrap(), values, "{encoding}");
        assert!(refusal(encoding.encode(&[1.0, 0.5], 1, 2)).contains("column 1"));
    }
    refusal(Encoding::I8.encode(&[128.0], 1, 1));
    refusal(Encoding::U8.encode(&[-1.0], 1, 1));
    refusal(Encoding::I32.encode(&[2147483648.0], 1, 1));
    refusal(Encoding::F16.encode(&[70000.0], 1, 1));
    assert_eq!(Encoding::U8.decode(&[255], 1, 1).unwrap(), [255.0]);
    assert_eq!(Encoding::F64.decode(&0.1f64.to_le_bytes(), 1, 1).unwrap(), [0.1]);
}

#[test]
fn detects_weights_that_are_ternary_already() {
    let tensor = pattern(4, 256);
    assert_eq!(Ternary::detect(&tensor.to_f32(), 4, 256).unwrap(), tensor);
    let rows = Ternary { scales: Scales::Groups { len: 256, values: vec![0.5, 0.25, 1.0, 0.5] }, ..pattern(4, 256) };
    assert_eq!(Ternary::detect(&rows.to_f32(), 4, 256).unwrap(), rows);
    for len in [128, 64] {
        let values: Vec<f32> = (0..4 * 256 / len).map(|i| 1.0 + (i % 5) as f32).collect();
        let groups = Ternary { scales: Scales::Groups { len, values }, ..pattern(4, 256) };
        assert_eq!(Ternary::detect(&groups.to_f32(), 4, 256).unwrap(), groups);
    }
    assert_eq!(Ternary::detect(&[0.0; 64], 1, 64).unwrap().codes, [0; 64]);
    let mut other = tensor.to_f32();
    other[700] = 0.03;
    assert_eq!(Ternary::detect(&other, 4, 256), None);
    other[700] = f32::NAN;
    assert_eq!(Ternary::detect(&other, 4, 256), None);
    // Of one value per row anything would be ternary.
    assert_eq!(Ternary::detect(&[0.1, 0.2, 0.3], 3, 1), None);
}

// ---- properties ----------------------------------------------------------------------------------------------------

/// Ternary matrices whose columns are a multiple of `block`, with a scale that f16 holds.
fn ternary(block: usize, row_step: usize) -> impl Strategy<Value = Ternary> {
    (0usize..4, 0usize..4, 1u16..0x7c00).prop_flat_map(move |(rows, blocks, scale)| {
        let (rows, cols) = (rows * row_step, blocks * block);
        prop::collection::vec(-1i8..=1, rows * cols).prop_map(move |codes| Ternary {
            rows,
            cols,
            codes,
            scales: Scales::Tensor(half::f16::from_bits(scale).to_f32()),
        })
    })
}

fn round_trips(encoding: Encoding, weights: &Ternary) {
    let bytes = encoding.encode_ternary(weights).unwrap();
    assert_eq!(bytes.len(), encoding.byte_len(weights.rows, weights.cols).unwrap());
    let scale = (encoding == Encoding::HfPacked).then(|| weights.tensor_scale().unwrap());
    let back = encoding.decode_ternary(&bytes, weights.rows, weights.cols, scale).unwrap();
    assert_eq!(back.codes, weights.codes, "{encoding}");
    if !weights.codes.is_empty() {
        assert_eq!(back.scales, weights.scales, "{encoding}");
        let values = encoding.decode_or_ternary(&bytes, weights.rows, weights.cols).unwrap();
        if encoding != Encoding::HfPacked {
            assert_eq!(values, weights.to_f32());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_ternary_encoding_round_trips(weights in ternary(256, 1)) {
        BLOCK_ENCODINGS.iter().chain(&[I2S, Encoding::I2S(I2sLayout::Arm), Encoding::HfPacked])
            .for_each(|&encoding| round_trips(encoding, &weights));
    }

    #[test]
    fn narrow_and_interleaved_matrices_round_trip(narrow in ternary(64, 2), odd in ternary(3, 4)) {
        round_trips(Encoding::Q2_0, &narrow);
        round_trips(I2S, &narrow);
        round_trips(Encoding::I2S(I2sLayout::Arm), &narrow);
        round_trips(Encoding::I2S(I2sLayout::Rows4), &odd);
        round_trips(Encoding::HfPacked, &odd);
    }

    #[test]
    fn the_lossless_chain_gives_the_same_bytes(weights in ternary(256, 1)) {
        let (rows, cols) = (weights.rows, weights.cols);
        prop_assume!(rows * cols > 0);
        let first = I2S.encode_ternary(&weights).unwrap();
        let mut bytes = first.clone();
        let (mut from, mut scale) = (I2S, None);
        for to in [Encoding::Tq2_0, Encoding::Tq1_0, Encoding::HfPacked, I2S] {
            let pivot = from.decode_ternary(&bytes, rows, cols, scale).unwrap();
            bytes = to.encode_ternary(&pivot).unwrap();
            scale = (to == Encoding::HfPacked).then(|| pivot.tensor_scale().unwrap());
            from = to;
        }
        prop_assert_eq!(bytes, first);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..700), cols in 0usize..600, rows in 0usize..9) {
        let tile = TileParams { bm_tile: 32, bk_tile: 96, bm: 32 };
        let all = BLOCK_ENCODINGS.iter().copied().chain([
            I2S, Encoding::I2S(I2sLayout::Arm), Encoding::I2S(I2sLayout::Rows4), Encoding::HfPacked,
            Encoding::Tl1(tile), Encoding::Tl2(tile), Encoding::Q8_0, Encoding::Q4_0, Encoding::Q4K, Encoding::Q6K,
            Encoding::F16, Encoding::I64,
        ]);
        for encoding in all {
            // The given bytes, cut or repeated to the right length, so that decoding itself is reached.
            let Ok(len) = encoding.byte_len(rows, cols) else { continue };
            let fitting: Vec<u8> = bytes.iter().copied().cycle().take(len).collect();
            let _ = encoding.decode(&fitting, rows, cols);
            let _ = encoding.decode_ternary(&fitting, rows, cols, None);
            let _ = encoding.decode_ternary(&fitting, rows, cols, Some(0.5));
        }
    }
}
