//! The embedded model, without any file: the ids that transformers gives in float32 (`greedy.json` beside the master
//! weights), and a place in memory that suits the kernels.

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
            12, 418, 289, 259, 407, 511, 504, 471, 14, 359, 623, 269, 378, 857, 306, 262, 746, 14, 658, 368, 12, 351,
            429, 259, 398, 641, 338, 259, 398, 641, 14, 359, 480, 269, 1522, 310, 12, 400, 330, 435, 340, 12, 347,
            1029, 12, 322, 807, 463, 1522, 262, 641, 416, 199, 820, 289, 619, 14, 359, 466, 269,
        ],
    ),
    (
        "The little dog",
        [
            289, 1477, 579, 262, 2286, 529, 281, 429, 259, 398, 12, 872, 625, 14, 344, 480, 269, 378, 338, 310, 12,
            400, 281, 289, 452, 703, 14, 344, 817, 269, 919, 12, 400, 281, 469, 367, 14, 344, 817, 267, 817, 12, 400,
            281, 469, 367, 14, 199, 1050, 12, 259, 398, 513, 1048, 579, 267, 340, 12, 347, 1754,
        ],
    ),
];
