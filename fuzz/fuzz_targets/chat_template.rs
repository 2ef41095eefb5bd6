//! A chat template from anywhere: it may fail, but not panic, loop for ever or fill the memory.
#![no_main]

use bitnet_models::{ChatTemplate, Message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    let Ok(template) = ChatTemplate::new(source, "<s>", "</s>") else { return };
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    let messages = [message("system", "Be brief."), message("user", "{{ 1 }} héllo"), message("assistant", "Hi")];
    for generation_prompt in [false, true] {
        if let Ok(text) = template.render(&messages, generation_prompt) {
            assert!(text.len() <= 5 * (32 << 20)); // the budget of a rendering, all of it escapes
        }
    }
});
