//! The embedded model, without any file: the ids that transformers 5.23 gives in float32 for the same weights
//! (`bitnet convert --type hf-packed`), and a place in memory that suits the kernels.

use bitnet::{Checkpoint, Engine, EngineOptions, GenerateRequest, Prompt, Sampling, default_model};

#[test]
fn begins_on_a_cache_line() {
    assert_eq!(default_model().as_ptr() as usize % 64, 0);
}

#[test]
fn greedy_ids_of_transformers() {
    let model = Checkpoint::from_gguf_bytes(default_model().into()).expect("a GGUF file");
    let engine = Engine::from_checkpoint(&model, EngineOptions::default()).expect("a model");
    for (prompt, expected) in EXPECTED {
        let request = GenerateRequest {
            prompt: Prompt::Text(prompt.into()),
            sampling: Sampling::greedy(),
            ..GenerateRequest::new("", 60)
        };
        let mut session = engine.session();
        let found: Vec<u32> = session.generate(&request).expect("valid").map(|e| e.expect("a token").id).collect();
        assert_eq!(found, expected, "{prompt:?}");
    }
}

const EXPECTED: [(&str, [u32; 60]); 2] = [
    (
        "Once upon a time",
        [
            12, 407, 285, 259, 399, 491, 472, 437, 14, 347, 565, 268, 359, 333, 323, 718, 14, 604, 353, 12, 355, 551,
            259, 383, 760, 320, 718, 14, 437, 448, 268, 359, 333, 262, 718, 14, 199, 199, 741, 652, 262, 718, 267, 617,
            268, 359, 14, 347, 603, 262, 718, 307, 262, 760, 267, 449, 268, 359, 14, 347,
        ],
    ),
    (
        "The little dog",
        [
            285, 401, 757, 14, 331, 448, 268, 359, 333, 342, 457, 14, 746, 12, 282, 626, 268, 262, 629, 14, 331, 412,
            259, 383, 581, 267, 448, 268, 1035, 308, 14, 331, 1583, 367, 262, 581, 267, 617, 268, 1035, 14, 331, 1583,
            367, 262, 581, 267, 617, 268, 1035, 14, 199, 199, 1143, 282, 1583, 2039, 12, 282, 412,
        ],
    ),
];
