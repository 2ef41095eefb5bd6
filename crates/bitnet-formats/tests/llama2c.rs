//! llama2.c checkpoints.

mod support;

use bitnet_formats::{Checkpoint, Encoding, Source};
use support::shared;

#[test]
fn both_versions_of_stories260k_hold_the_same_tensors() {
    let Some(v0) = shared("data/models/stories260K/stories260K.bin") else { return };
    let Some(v1) = shared("data/models/stories260K/stories260K-v1.bin") else { return };
    let (v0, v1) = (Checkpoint::open(&v0).unwrap(), Checkpoint::open(&v1).unwrap());
    for (checkpoint, version) in [(&v0, 0), (&v1, 1)] {
        let Source::Llama2c(header) = &checkpoint.source else { panic!("not llama2.c") };
        let sizes = (header.dim, header.hidden_dim, header.n_layers, header.n_heads, header.n_kv_heads);
        assert_eq!((header.version, sizes), (version, (64, 172, 5, 8, 4)));
        assert_eq!((header.vocab_size, header.seq_len, header.shared_classifier), (512, 512, true));
    }
    assert_eq!(v0.tensors.len(), 5 * 9 + 2);
    assert_eq!(v0.tensors["model.layers.4.self_attn.k_proj.weight"].shape, [32, 64]);
    assert_eq!(v0.tensors["model.layers.0.mlp.down_proj.weight"].shape, [64, 172]);
    assert!(v0.tensors.keys().eq(v1.tensors.keys()));
    for (name, tensor) in &v0.tensors {
        let other = &v1.tensors[name];
        assert_eq!((tensor.encoding, &tensor.shape), (Encoding::F32, &other.shape), "{name}");
        assert_eq!(tensor.bytes, other.bytes, "{name}");
    }
}
