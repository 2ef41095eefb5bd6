//! Files written by llama.cpp, against values that PyPI `gguf` decoded (shared/crossval/gguf).

mod support;

use bitnet_formats::{Checkpoint, Encoding, safetensors};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use support::shared;

#[test]
fn every_tensor_of_every_golden_file() {
    let Some(root) = shared("crossval/gguf") else { return };
    let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(root.join("tensors.json")).unwrap()).unwrap();
    let files = golden["files"].as_object().unwrap();
    assert!(files.len() >= 6);
    for (file, expected) in files {
        let checkpoint = Checkpoint::open(&root.join(format!("{file}.gguf"))).unwrap();
        let rows = Bytes::from(std::fs::read(root.join(format!("{file}.rows.safetensors"))).unwrap());
        let rows = safetensors::parse(file, &rows).unwrap();
        let expected = expected["tensors"].as_object().unwrap();
        assert_eq!(checkpoint.tensors.len(), expected.len(), "{file}");
        for (name, tensor) in &checkpoint.tensors {
            let about = &expected[name];
            let shape: Vec<usize> =
                about["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
            assert_eq!((tensor.encoding, &tensor.shape), (encoding(about["type"].as_str().unwrap()), &shape));
            let (m, n) = tensor.matrix();
            let values = tensor.encoding.decode(&tensor.bytes, m, n).unwrap();
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            // The first and last rows show where a difference lies, the hash that there is none anywhere.
            let golden = &rows[name];
            let golden_rows = golden.matrix().0;
            let edge =
                if golden_rows == m { bytes.clone() } else { [&bytes[..16 * n], &bytes[(m - 4) * n * 4..]].concat() };
            assert_eq!(edge, golden.bytes, "{file} {name}");
            let hash: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hash, about["sha256_of_f32_row_major"].as_str().unwrap(), "{file} {name}");
        }
    }
}

fn encoding(name: &str) -> Encoding {
    match name {
        "F32" => Encoding::F32,
        "F16" => Encoding::F16,
        "Q4_0" => Encoding::Q4_0,
        "Q8_0" => Encoding::Q8_0,
        "Q4_K" => Encoding::Q4K,
        "Q6_K" => Encoding::Q6K,
        "TQ1_0" => Encoding::Tq1_0,
        "TQ2_0" => Encoding::Tq2_0,
        "Q2_0" => Encoding::Q2_0,
        other => panic!("unknown type {other}"),
    }
}
