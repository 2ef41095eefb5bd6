//! Golden data: where it lies and how it is read.

use serde_json::Value;
use std::path::{Path, PathBuf};

/// A path under the shared data, or `None` (said loudly) where it is absent.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    if full.exists() {
        return Some(full);
    }
    eprintln!("SKIPPED: {} does not exist", full.display());
    None
}

/// Every folder of the cross-validation data that holds a `golden.json`: a new folder is a new test.
pub(crate) fn folders() -> Vec<PathBuf> {
    let Some(root) = shared("crossval") else { return Vec::new() };
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("golden.json").exists())
        .collect();
    folders.sort();
    assert!(!folders.is_empty(), "shared/crossval holds no folder with a golden.json");
    folders
}

/// `golden.json` and `golden.safetensors` of a folder.
pub(crate) struct Golden {
    pub(crate) json: Value,
    bytes: Vec<u8>,
}

impl Golden {
    pub(crate) fn open(folder: &Path) -> Golden {
        let json = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
        Golden { json, bytes: std::fs::read(folder.join("golden.safetensors")).unwrap() }
    }

    pub(crate) fn tolerance(&self) -> f32 {
        self.json["tolerance"]["abs"].as_f64().unwrap() as f32
    }

    /// Names of the sequences: `seq0`, `seq1` …
    pub(crate) fn sequences(&self) -> Vec<String> {
        self.json["sequences"].as_object().unwrap().keys().cloned().collect()
    }

    pub(crate) fn floats(&self, key: &str) -> Option<Vec<f32>> {
        floats(&self.bytes, key)
    }

    pub(crate) fn ids(&self, key: &str) -> Vec<u32> {
        ids(&self.bytes, key)
    }
}

/// An f32 tensor of a safetensors file.
pub(crate) fn floats(file: &[u8], key: &str) -> Option<Vec<f32>> {
    let tensors = safetensors::SafeTensors::deserialize(file).unwrap();
    let tensor = tensors.tensor(key).ok()?;
    assert_eq!(tensor.dtype(), safetensors::Dtype::F32, "{key}");
    Some(tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
}

/// An i64 tensor of token ids.
pub(crate) fn ids(file: &[u8], key: &str) -> Vec<u32> {
    let tensors = safetensors::SafeTensors::deserialize(file).unwrap();
    let tensor = tensors.tensor(key).unwrap();
    assert_eq!(tensor.dtype(), safetensors::Dtype::I64, "{key}");
    tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect()
}

/// A JSON list of token ids.
pub(crate) fn json_ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The largest absolute difference; NaN counts as infinite.
pub(crate) fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |max, d| if d <= max { max } else { d.max(max) })
}

/// Index of the first largest value.
pub(crate) fn argmax(row: &[f32]) -> u32 {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as u32
}
