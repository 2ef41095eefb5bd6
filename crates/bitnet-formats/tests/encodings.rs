//! Scales, refusals, and properties that must hold for every ternary encoding.

mod support;

use bitnet_formats::{Encoding, FormatError, I2sLayout, Scales, Ternary, TileParams};
use proptest::prelude::*;
use support::{pattern, refusal};

const I2S: Encoding = Encoding::I2S(I2sLayout::X86);
const BLOCK_ENCODINGS: [Encoding; 5] =
    [Encoding::Tq1_0, Encoding::Tq2_0, Encoding::Q2_0, Encoding::Q2_0Legacy, Encoding::Pq2_0];

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
