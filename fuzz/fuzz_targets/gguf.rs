//! A GGUF file from anywhere: open it, ask every key for every type, decode every tensor, read the model's configuration
//! and its tokenizer.
#![no_main]

use bitnet_formats::{Checkpoint, Source};
use bitnet_models::{Config, Encoding, LoadOptions, Tokenizer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(checkpoint) = Checkpoint::from_gguf_bytes(bytes::Bytes::copy_from_slice(data)) else { return };
    let Source::Gguf(metadata) = &checkpoint.source else { unreachable!("read as GGUF") };
    for (key, _) in metadata.entries() {
        let _ = (metadata.u64(key), metadata.f32(key), metadata.bool(key), metadata.string(key));
        let _ = (metadata.f32s(key), metadata.i32s(key));
        if let Ok(Some(strings)) = metadata.strings(key) {
            assert_eq!(strings.iter().count(), strings.len());
        }
    }
    for tensor in checkpoint.tensors.values() {
        let (rows, cols) = tensor.matrix();
        assert_eq!(tensor.encoding.byte_len(rows, cols).ok(), Some(tensor.bytes.len()));
        if let Ok(values) = tensor.encoding.decode(&tensor.bytes, rows, cols) {
            assert_eq!(values.len(), tensor.len());
        }
        if tensor.encoding.is_ternary()
            && let Ok(ternary) = tensor.encoding.decode_ternary(&tensor.bytes, rows, cols, None)
        {
            assert!(ternary.codes.iter().all(|code| (-1..=1).contains(code)));
        }
    }
    let _ = Config::read(&checkpoint, &LoadOptions::default());
    if let Ok(tokenizer) = Tokenizer::from_checkpoint(&checkpoint)
        && let Ok(ids) = tokenizer.encode("ab <s>1\u{e9}", Encoding { bos: Some(true), special: true })
    {
        let mut stream = tokenizer.stream();
        for &id in &ids {
            stream.push(id);
        }
        stream.finish();
        tokenizer.decode(&ids, true);
    }
});
