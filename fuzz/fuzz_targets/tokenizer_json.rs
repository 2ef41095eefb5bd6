//! A `tokenizer.json` from anywhere: read it, and if it is a tokenizer, encode and decode a line with it.
#![no_main]

use bitnet_models::{Encoding, Tokenizer};
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::io::{Seek, Write};
use tempfile::NamedTempFile;

thread_local! {
    static FILE: RefCell<NamedTempFile> = RefCell::new(NamedTempFile::with_suffix(".json").expect("a temporary file"));
}

const TEXT: &str = "Hello, world! 1234 <|user|> don't\n\n  \u{1f600} ternär ಕನ್ನಡ";

// libFuzzer's own hook ends the process at every panic, also at those of the tokenizers library that `Tokenizer::open`
// catches and reports as errors. One that is not caught still ends it.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| ())), |data: &[u8]| {
    FILE.with_borrow_mut(|file| {
        file.rewind().and_then(|()| file.as_file().set_len(0)).and_then(|()| file.write_all(data)).expect("room");
        let Ok(tokenizer) = Tokenizer::open(file.path()) else { return };
        for special in [false, true] {
            let Ok(ids) = tokenizer.encode(TEXT, Encoding { bos: Some(special), special }) else { continue };
            let mut stream = tokenizer.stream();
            for &id in &ids {
                stream.push(id);
            }
            stream.finish();
            tokenizer.decode(&ids, special);
        }
    });
});
