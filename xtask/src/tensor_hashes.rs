//! SHA-256 of dequantised tensors, for comparison with other readers.

use bitnet::Checkpoint;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Prints `{"name": {"type": …, "shape": […], "sha256": …}}`; the hash is over little-endian f32 in row-major order.
pub(crate) fn print(file: &Path) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(file)?;
    let mut tensors = serde_json::Map::new();
    for (name, tensor) in &checkpoint.tensors {
        let (rows, cols) = tensor.matrix();
        let mut hash = Sha256::new();
        for value in tensor.encoding.decode(&tensor.bytes, rows, cols)? {
            hash.update(value.to_le_bytes());
        }
        let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let entry = json!({"type": tensor.encoding.name(), "shape": tensor.shape, "sha256": hash});
        tensors.insert(name.clone(), entry);
    }
    println!("{}", serde_json::to_string_pretty(&tensors)?);
    Ok(())
}
