//! A safetensors file from anywhere. The first bytes are the length of the header; the fuzzer need not guess it.
#![no_main]

use bitnet_formats::safetensors::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = parse("fuzz", &bytes::Bytes::copy_from_slice(data));
    // The same bytes as a header up to the last brace, and as data behind it.
    let len = data.iter().rposition(|&b| b == b'}').map_or(0, |at| at + 1) as u64;
    let file = [&len.to_le_bytes()[..], data].concat();
    if let Ok(tensors) = parse("fuzz", &bytes::Bytes::from(file)) {
        let held: usize = tensors.values().map(|tensor| tensor.bytes.len()).sum();
        assert_eq!(held, data.len() - len as usize);
    }
});
