//! Output that makes no sense is reported with likely causes.

mod tiny;

use bitnet_inference::{EngineOptions, FinishReason, InferenceError, REPEAT_LIMIT};
use tiny::{BOS, TINY, Tiny, Weights, greedy};

#[test]
fn nan_weights_are_reported() {
    // either the loader sees the NaN, or the first logits that it reaches do
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = Tiny { weights: Weights::Nan, ..TINY }.write(folder.path());
    let engine = match bitnet_inference::Engine::open(path, EngineOptions::default()) {
        Err(error) => {
            assert!(error.to_string().contains("token_embd.weight"), "{error}");
            return;
        }
        Ok(engine) => engine,
    };
    let mut session = engine.session();
    let mut generation = session.generate(&greedy(&[BOS, 65], 5)).expect("valid");
    let Some(Err(InferenceError::Degenerate(message))) = generation.next() else { panic!("NaN was sampled") };
    assert!(message.contains("NaN") && message.contains("I2_S layout"), "{message}");
    assert!(generation.next().is_none(), "nothing follows an error");
    assert_eq!(generation.finish_reason(), None);
}

#[test]
fn endless_repetition_ends() {
    let engine = Tiny { weights: Weights::Zero, ..TINY }.engine(EngineOptions::default());
    let mut session = engine.session();
    let mut generation = session.generate(&greedy(&[BOS], 300)).expect("valid");
    let ids: Vec<u32> = generation.by_ref().map(|e| e.expect("a token").id).collect();
    assert_eq!(ids, [0; REPEAT_LIMIT], "equal logits: the lowest id");
    let reason = generation.finish_reason().expect("ended");
    assert_eq!(reason, FinishReason::Degenerate);
    assert!(reason.to_string().contains("Likely causes"));
}
