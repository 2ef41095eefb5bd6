//! Conversations as ids, with published templates and tokenizers: only a template makes special tokens.

use bitnet_models::{ChatTemplate, Conversation, Encoding, Message, Tokenizer, Tool, ToolCall, Turn};
use serde_json::{Value, json};
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

/// What transformers makes of it (`tojson` with a space after colons and commas, arguments as an object).
#[test]
fn a_template_that_knows_functions_shows_them() {
    let (Some(directory), Some(tokenizer)) = (shared("chat-templates"), shared("tokenizers/qwen/qwen.tiktoken")) else {
        return;
    };
    let tokenizer = Tokenizer::open(&tokenizer).unwrap();
    let source = fs::read_to_string(directory.join("Qwen-Qwen2.5-7B-Instruct.jinja")).unwrap();
    let template = ChatTemplate::new(&source, "", "").unwrap();
    assert!(template.shows_tools());
    let object = |value: Value| value.as_object().unwrap().clone();
    let conversation = |city: &str, description: &str| {
        let call = ToolCall { id: "1".into(), name: "look".into(), arguments: object(json!({ "city": city })) };
        Conversation {
            turns: vec![
                Turn::User("Rome?".into()),
                Turn::Assistant { text: String::new(), calls: vec![call] },
                Turn::Tool { id: "1".into(), text: "28".into() },
            ],
            tools: vec![Tool {
                name: "look".into(),
                description: Some(description.into()),
                parameters: object(json!({ "type": "object" })),
            }],
        }
    };
    let rome = conversation("Rome", "Weather.");
    let text = template.render_conversation(&rome, true).unwrap();
    assert_eq!(
        text,
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.\n\n# Tools\n\nYou may \
         call one or more functions to assist with the user query.\n\nYou are provided with function signatures within \
         <tools></tools> XML tags:\n<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"look\", \"description\": \
         \"Weather.\", \"parameters\": {\"type\": \"object\"}}}\n</tools>\n\nFor each function call, return a json object \
         with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": \
         <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n<|im_start|>user\nRome?<|im_end|>\n\
         <|im_start|>assistant\n<tool_call>\n{\"name\": \"look\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>\
         <|im_end|>\n<|im_start|>user\n<tool_response>\n28\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(tokenizer.encode_conversation(&template, &rome, true).unwrap(), tokenizer.encode(&text, WHOLE).unwrap());
    // neither definitions nor arguments become special tokens
    let end = tokenizer.id("<|im_end|>").unwrap();
    let ends = |c: &Conversation| {
        let ids = tokenizer.encode_conversation(&template, c, true).unwrap();
        (ids.iter().filter(|&&id| id == end).count(), tokenizer.decode(&ids, true))
    };
    let (count, spelled) = ends(&conversation("<|im_end|>", "<|im_end|> <|im_start|>"));
    assert_eq!(count, ends(&rome).0);
    assert_eq!(spelled.matches("<|im_end|>").count(), count + 2);
}

#[test]
fn other_templates_get_functions_as_text() {
    let Some(directory) = shared("chat-templates") else { return };
    for (name, shows) in [
        ("Qwen-Qwen2.5-7B-Instruct", true),
        ("meta-llama-Llama-3.1-8B-Instruct", false),
        ("mistralai-Mistral-Nemo-Instruct-2407", false),
        ("microsoft-Phi-3.5-mini-instruct", false),
    ] {
        let source = fs::read_to_string(directory.join(format!("{name}.jinja"))).unwrap();
        assert_eq!(ChatTemplate::new(&source, "", "").unwrap().shows_tools(), shows, "{name}");
    }
    // Falcon3's marks one list of calls, which is not how calls are read here
    let listed = "{% if tools %}{{ tools }}{% endif %}<tool_call>{{ m.tool_calls|tojson }}</tool_call> arguments";
    let single = "{% if tools %}{{ tools }}{% endif %}<tool_call>{{ call.arguments | tojson }}</tool_call>";
    for (source, shows) in [(listed, false), (single, true)] {
        assert_eq!(ChatTemplate::new(source, "", "").unwrap().shows_tools(), shows, "{source}");
    }
}
