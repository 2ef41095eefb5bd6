//! A damaged `tokenizer.json` is an error, also where the tokenizers library would panic.

use bitnet_models::{Encoding, Tokenizer};

const SMALL: &str = r#"{"version":"1.0","added_tokens":[],"normalizer":NORMALIZER,
    "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
    "post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},
    "model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}"#;

fn open(json: &str) -> Result<Tokenizer, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    std::fs::write(&path, json).unwrap();
    Tokenizer::open(&path).map_err(|e| e.to_string())
}

#[test]
fn cut_anywhere() {
    let json = SMALL.replace("NORMALIZER", "null");
    let tokenizer = open(&json).unwrap();
    assert_eq!(tokenizer.encode("aab", Encoding { bos: None, special: false }).unwrap(), [0, 2]);
    for len in (0..json.len()).filter(|&len| json.is_char_boundary(len)) {
        open(&json[..len]).map(drop).expect_err("must be refused");
    }
}

#[test]
fn what_the_library_panics_on() {
    // The character map of SentencePiece, cut off: the library unwraps it.
    let json = SMALL.replace("NORMALIZER", r#"{"type":"Precompiled","precompiled_charsmap":"AAAA"}"#);
    let message = open(&json).map(drop).unwrap_err();
    assert!(message.contains("tokenizer.json"), "{message}");
}
