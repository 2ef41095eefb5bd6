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

/// Where the two best tokens are 0.07 apart at least: order of sums, which decides an int8 code now and then, moves logits by less.
const EXPECTED: [(&str, [u32; 60]); 2] = [
    (
        "One day, a boy",
        [
            472, 389, 449, 268, 262, 629, 14, 331, 412, 259, 383, 581, 333, 259, 731, 320, 1540, 14, 389, 448, 268,
            1035, 262, 581, 12, 402, 282, 285, 436, 656, 14, 331, 549, 342, 396, 12, 677, 12, 268, 484, 408, 14, 677,
            337, 12, 329, 41, 561, 484, 334, 391, 199, 199, 833, 267, 677, 449, 268, 262, 629,
        ],
    ),
    (
        "The cat",
        [
            285, 401, 1236, 14, 331, 448, 268, 1194, 14, 746, 12, 282, 449, 268, 262, 1404, 268, 639, 570, 1006, 14,
            331, 412, 259, 383, 1900, 339, 262, 1271, 14, 331, 621, 308, 503, 309, 494, 268, 766, 14, 199, 199, 395,
            528, 617, 268, 766, 262, 1900, 14, 331, 285, 401, 417, 14, 331, 1220, 262, 1900, 267, 449,
        ],
    ),
];
