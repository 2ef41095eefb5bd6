//! Configuration of llama2.c checkpoints: plain LLaMA with interleaved rotary pairs.

use super::{Activations, Config, ProjectionForm, RopeScaling};
use bitnet_formats::llama2c::Header;
use bitnet_kernels::{Activation, RopeStyle};
use std::collections::BTreeSet;

pub(super) fn read(header: &Header) -> Config {
    let head_dim = header.dim.checked_div(header.n_heads).unwrap_or(0);
    Config {
        architecture: "llama2.c".into(),
        name: None,
        hidden: header.dim,
        ffn: header.hidden_dim,
        layers: header.n_layers,
        heads: header.n_heads,
        kv_heads: header.n_kv_heads,
        head_dim,
        vocab: header.vocab_size,
        context: header.seq_len,
        // run.c: constants of the program, not of the file
        norm_eps: 1e-5,
        rope_theta: 10000.0,
        rope_dim: head_dim,
        rope_scaling: RopeScaling::None,
        rope_style: RopeStyle::Interleaved,
        sliding: None,
        activation: Activation::Silu,
        activations: Activations::Float,
        projections: ProjectionForm::AsStored,
        float_projections: BTreeSet::new(),
        sub_norms: false,
        qk_norms: false,
        post_norms: false,
        in_norm_eps: None,
        offset_norms: false,
        embed_scale: 1.0,
        attention_scale: 1.0 / (head_dim as f32).sqrt(),
        tied_head: header.shared_classifier,
        pooling: None,
    }
}
