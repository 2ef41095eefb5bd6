//! Worked examples of the format description, and the lookup-table layouts against the order in which their writer
//! emits bytes.

mod support;

use bitnet_formats::{Encoding, I2sLayout, Scales, Ternary, TileParams};
use support::{pattern, refusal};

const I2S: Encoding = Encoding::I2S(I2sLayout::X86);

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
