//! The fingerprint is the same for every tier and thread count, and tells models apart.

mod tiny;

use bitnet_inference::EngineOptions;
use bitnet_kernels::Isa;
use tiny::{TINY, Tiny, Weights};

#[test]
fn one_model_one_fingerprint() {
    let of = |isa: Isa, threads, chunk, context| {
        let options = EngineOptions {
            context: Some(context),
            isa: Some(isa.to_string()),
            threads: Some(threads),
            chunk: Some(chunk),
            ..EngineOptions::default()
        };
        TINY.engine(options).fingerprint().expect("finite")
    };
    let expected = of(Isa::Scalar, 1, 128, 512);
    assert_eq!(expected.len(), 16);
    for isa in Isa::available() {
        for (threads, chunk, context) in [(1, 128, 512), (2, 5, 512), (3, 128, 8)] {
            assert_eq!(of(isa, threads, chunk, context), expected, "{isa}, {threads} threads, chunks of {chunk}");
        }
    }
    let zero = Tiny { weights: Weights::Zero, ..TINY }.engine(EngineOptions::default());
    assert_ne!(zero.fingerprint().expect("finite"), expected);
}
