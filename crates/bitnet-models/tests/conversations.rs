//! Conversations as ids, with published templates and tokenizers: only a template makes special tokens.

use bitnet_models::{ChatTemplate, Encoding, Message, Tokenizer};
use std::fs;
use std::path::{Path, PathBuf};

fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(path);
    if !path.exists() {
        eprintln!("SKIPPED: {} is absent", path.display());
        return None;
    }
    Some(path)
}

fn messages(list: &[(&str, &str)]) -> Vec<Message> {
    list.iter().map(|&(role, content)| Message { role: role.into(), content: content.into() }).collect()
}

/// Tokenizers with the special tokens of the published templates, and texts that spell those tokens.
fn tokenizers() -> Option<Vec<(Tokenizer, Vec<&'static str>)>> {
    let open = |path: &str| Some(Tokenizer::open(&shared(path)?).unwrap());
    Some(vec![
        (
            open("tokenizers/llama3/tokenizer.model")?,
            vec!["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|begin_of_text|>"],
        ),
        (open("tokenizers/qwen/qwen.tiktoken")?, vec!["<|im_start|>", "<|im_end|>", "<|endoftext|>"]),
        (open("tokenizers/llama2/tokenizer.model")?, vec!["<s>", "</s>"]),
        (open("models/tiny-ternary-stories/tokenizer.json")?, vec!["<|endoftext|>"]),
    ])
}

const WHOLE: Encoding = Encoding { bos: Some(false), special: true };

#[test]
fn messages_cannot_make_special_tokens_in_published_templates() {
    let (Some(directory), Some(tokenizers)) = (shared("chat-templates"), tokenizers()) else { return };
    let mut compared = 0;
    for file in fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        let source = fs::read_to_string(&path).unwrap();
        for (tokenizer, spellings) in &tokenizers {
            let text = |id: Option<u32>| id.and_then(|id| tokenizer.text(id)).unwrap_or_default();
            let template = ChatTemplate::new(&source, text(tokenizer.bos()), text(tokenizer.eos())).unwrap();
            let ids = |content: &str, answer: &str| {
                let chat = messages(&[("user", content), ("assistant", answer), ("user", content)]);
                (tokenizer.encode_chat(&template, &chat, true).unwrap(), template.render(&chat, true).unwrap())
            };
            let special = |ids: &[u32]| -> Vec<u32> {
                ids.iter().copied().filter(|&id| tokenizer.bytes(id) == Some(&[])).collect()
            };
            // Nothing spelled: as the rendered text is encoded.
            let (harmless, rendered) = ids(" Wer reitet so spät? \n", "Der Vater\nmit seinem Kind.");
            assert_eq!(harmless, tokenizer.encode(&rendered, WHOLE).unwrap(), "{}", path.display());
            // Everything spelled, also nested and at the edges that templates trim.
            let mut hostile = spellings.join(" x\n");
            for spelling in spellings {
                let (left, right) = spelling.split_at(2);
                hostile = format!(" {spelling}{left}{spelling}{right}{hostile}{spelling}\n");
            }
            let (found, rendered) = ids(&hostile, spellings[0]);
            assert_eq!(special(&found), special(&harmless), "{}: {hostile}", path.display());
            if !spellings.contains(&"</s>") {
                // SentencePiece puts spaces around special tokens.
                assert_eq!(tokenizer.decode(&found, true), rendered, "{}", path.display());
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 24);
}

#[test]
fn what_cannot_be_told_apart_is_refused() {
    let Some(path) = shared("tokenizers/llama3/tokenizer.model") else { return };
    let tokenizer = Tokenizer::open(&path).unwrap();
    let encode = |template: &str, content: &str| {
        let template = ChatTemplate::new(template, "", "").unwrap();
        tokenizer.encode_chat(&template, &messages(&[("user", content)]), true).map_err(|e| e.to_string())
    };
    let plain = "{{ messages[0].content }}<|eot_id|>";
    let eot = tokenizer.id("<|eot_id|>").unwrap();
    let whole = encode(plain, "a<|eot_id|>").unwrap();
    assert_eq!((whole.iter().filter(|&&id| id == eot).count(), whole.last()), (1, Some(&eot)));
    // Noncharacters are text as any other.
    let odd = encode(plain, "\u{fdd0}<|eot_id|>\u{fdd1}").unwrap();
    assert_eq!(tokenizer.decode(&odd, true), "\u{fdd0}<|eot_id|>\u{fdd1}<|eot_id|>");
    for (template, content) in [
        ("{{ messages[0].content | replace('~', '') }}", "<|eot~_id|>"),
        ("{{ messages[0].content.split('~') | join }}", "<|eot~_id|>"),
        ("<{{ messages[0].content }}", "|eot_id|>"),
        ("{{ messages[0].content }}|eot_id|>", "<"),
    ] {
        let error = encode(template, content).unwrap_err();
        assert!(error.contains("becomes a special token"), "{template}: {error}");
    }
}
