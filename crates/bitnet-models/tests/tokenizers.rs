//! Tokenizers against reference encodings (`shared/data/tokenizers`, see its README for the origin of every set).

use bitnet_formats::{Checkpoint, Source, gguf};
use bitnet_models::{Encoding, Tokenizer};
use std::fs;
use std::path::{Path, PathBuf};

/// No begin-of-sequence, special text is plain text: how the `.out` files were made.
const PLAIN: Encoding = Encoding { bos: Some(false), special: false };

/// A path in the shared data, or `None` with a loud note where a checkout has no shared data.
fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(path);
    if !path.exists() {
        eprintln!("SKIPPED: {} is absent", path.display());
        return None;
    }
    Some(path)
}

/// The 47 inputs of `inputs.inp`; the last is empty.
fn inputs() -> Option<Vec<String>> {
    let text = fs::read_to_string(shared("tokenizers/ggml-vocab/inputs.inp")?).unwrap();
    let inputs: Vec<String> = text.split("\n__ggml_vocab_test__\n").map(String::from).collect();
    assert_eq!(inputs.len(), 47);
    Some(inputs)
}

/// Many scripts, combining and decomposed characters, controls, odd spaces, text that looks like special tokens.
const SAMPLES: &str = include_str!("data/samples.txt");

fn samples() -> Vec<String> {
    let mut texts: Vec<String> = SAMPLES.split("\n====\n").map(String::from).collect();
    texts.extend(
        ["", " ", "  ", "\n", "\u{0}", "\u{7f}\u{80}", "<s></s><unk>", "<|eot_id|>", "<0x41>"].map(String::from),
    );
    texts.push("a".repeat(5000));
    texts.push(" \n\t".repeat(500));
    texts
}

/// Encodes the inputs and compares with an `.out` file; decodes, at once and streamed, and compares with the inputs;
/// stores the tokenizer in a GGUF file and compares the one opened from there.
fn check(tokenizer: &str, expected: &str) {
    let (Some(inputs), Some(path), Some(expected)) =
        (inputs(), shared(tokenizer), shared(&format!("tokenizers/ggml-vocab/{expected}")))
    else {
        return;
    };
    let tokenizer = Tokenizer::open(&path).unwrap();
    let name = path.display();
    let expected = fs::read_to_string(expected).unwrap();
    let lines: Vec<&str> = expected.split('\n').collect();
    assert_eq!(lines.len(), 47);
    for (input, expected) in inputs.iter().zip(lines) {
        let expected: Vec<u32> = expected.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(tokenizer.encode(input, PLAIN).unwrap(), expected, "{name}: {input:?}");
        assert_eq!(&tokenizer.decode(&expected, false), input, "{name}");
        assert_eq!(&streamed(&tokenizer, &expected), input, "{name}: streamed");
    }
    same_after_gguf(&tokenizer, inputs.into_iter().chain(samples()));
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.stream();
    let mut text: String = ids.iter().map(|&id| stream.push(id).to_owned()).collect();
    text.push_str(stream.finish());
    text
}

fn write_gguf(tokenizer: &Tokenizer, path: &Path) {
    gguf::write(path, &metadata_of(tokenizer), Vec::new(), &mut |_, _| {}, &mut |_| Ok(())).unwrap();
}

/// Writes the tokenizer into a GGUF file, opens it again and compares everything a caller can see.
fn same_after_gguf(tokenizer: &Tokenizer, texts: impl IntoIterator<Item = String>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.gguf");
    write_gguf(tokenizer, &path);
    let again = Tokenizer::from_checkpoint(&Checkpoint::open(&path).unwrap()).unwrap();
    assert_eq!(again.vocab_size(), tokenizer.vocab_size());
    assert_eq!((again.bos(), again.eos(), again.stop_ids()), (tokenizer.bos(), tokenizer.eos(), tokenizer.stop_ids()));
    assert!(again.notes().is_empty(), "{:?}", again.notes());
    for id in 0..tokenizer.vocab_size() as u32 {
        assert_eq!((again.bytes(id), again.text(id)), (tokenizer.bytes(id), tokenizer.text(id)));
    }
    for text in texts {
        for how in [PLAIN, Encoding { bos: None, special: true }, Encoding { bos: Some(true), special: false }] {
            let ids = tokenizer.encode(&text, how).unwrap();
            assert_eq!(again.encode(&text, how).unwrap(), ids, "{text:?} {how:?}");
            assert_eq!(again.decode(&ids, true), tokenizer.decode(&ids, true));
        }
    }
}

#[test]
fn gguf_falcon() {
    check("tokenizers/ggml-vocab/falcon.gguf", "falcon.out");
}

#[test]
fn gguf_gpt2() {
    check("tokenizers/ggml-vocab/gpt-2.gguf", "gpt-2.out");
}

#[test]
fn gguf_llama_spm() {
    check("tokenizers/ggml-vocab/llama-spm.gguf", "llama-spm.out");
}

#[test]
fn gguf_phi3() {
    check("tokenizers/ggml-vocab/phi-3.gguf", "phi-3.out");
}

#[test]
fn tiktoken_llama3() {
    check("tokenizers/llama3/tokenizer.model", "llama-bpe.out");
}

#[test]
fn tiktoken_qwen() {
    check("tokenizers/qwen/qwen.tiktoken", "qwen2.out");
}

#[test]
fn vocab_and_merges_gpt2() {
    check("tokenizers/gpt2", "gpt-2.out");
}

#[test]
fn sentence_piece_llama2() {
    check("tokenizers/llama2/tokenizer.model", "llama-spm.out");
}

#[test]
fn tokenizer_json_llama2() {
    check("tokenizers/llama2/tokenizer.json", "llama-spm.out");
}

#[test]
fn llama2c_llama2() {
    check("tokenizers/llama2/tokenizer.bin", "llama-spm.out");
}

/// 622,159 ids of 3,117 stories, encoded by someone else.
#[test]
fn gpt2_encodes_tinystories_as_published() {
    let (Some(path), Some(ids)) = (shared("tokenizers/gpt2"), shared("tokenizers/gpt2/tinystories-val.u16")) else {
        return;
    };
    let tokenizer = Tokenizer::open(&path).unwrap();
    let ids: Vec<u32> =
        fs::read(ids).unwrap().as_chunks().0.iter().map(|&id| u32::from(u16::from_le_bytes(id))).collect();
    assert_eq!(ids.len(), 622_159);
    for story in ids.split(|&id| id == 50256) {
        assert_eq!(tokenizer.encode(&tokenizer.decode(story, false), PLAIN).unwrap(), story);
    }
}

/// The merges that stand for Llama 3's ranks are as many as the official GGUF of BitNet 2B-4T has.
#[test]
fn llama3_ranks_make_the_published_number_of_merges() {
    let Some(path) = shared("tokenizers/llama3/tokenizer.model") else { return };
    let tokenizer = Tokenizer::open(&path).unwrap();
    assert_eq!(tokenizer.vocab_size(), 128_256);
    assert_eq!((tokenizer.bos(), tokenizer.stop_ids()), (Some(128_000), &[128_001, 128_009][..]));
    assert_eq!(tokenizer.id("<|start_header_id|>"), Some(128_006));
    assert_eq!(tokenizer.id("<|reserved_special_token_250|>"), Some(128_255));
    let metadata = tokenizer.gguf_metadata().unwrap();
    let merges = metadata.iter().find(|(key, _)| key == "tokenizer.ggml.merges").unwrap();
    let gguf::Value::Array(gguf::Array::String(merges)) = &merges.1 else { panic!("{merges:?}") };
    assert_eq!(merges.len(), 280_147);
}

/// Special text becomes special tokens only where asked for, and begin-of-sequence stands once.
#[test]
fn special_text_and_begin_of_sequence() {
    let Some(path) = shared("tokenizers/llama3/tokenizer.model") else { return };
    let t = Tokenizer::open(&path).unwrap();
    let encode = |text, bos, special| t.encode(text, Encoding { bos, special }).unwrap();
    assert_eq!(encode("<|begin_of_text|>Hi<|eot_id|>", None, true), [128_000, 13_347, 128_009]);
    assert_eq!(encode("Hi<|eot_id|>", None, true), [128_000, 13_347, 128_009]);
    assert_eq!(encode("Hi", Some(true), false), [128_000, 13_347]);
    let plain = encode("Hi<|eot_id|>", Some(false), false);
    assert!(plain.len() > 4 && plain.iter().all(|&id| id < 128_000), "{plain:?}");
    assert_eq!(t.decode(&plain, false), "Hi<|eot_id|>");
    assert_eq!(t.decode(&[128_000, 13_347, 128_009], false), "Hi");
    assert_eq!(t.decode(&[128_000, 13_347, 128_009], true), "<|begin_of_text|>Hi<|eot_id|>");
}

/// `greedy.json` holds prompts and their ids as transformers encodes them, with the leading begin-of-sequence.
#[test]
fn tiny_ternary_stories_as_transformers_encodes() {
    let Some(path) = shared("models/tiny-ternary-stories") else { return };
    let tokenizer = Tokenizer::open(&path).unwrap();
    let golden: serde_json::Value = serde_json::from_slice(&fs::read(path.join("greedy.json")).unwrap()).unwrap();
    let prompts = golden["prompts"].as_object().unwrap();
    assert!(prompts.len() > 1);
    for (text, expected) in prompts {
        let expected: Vec<u32> = serde_json::from_value(expected["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text, Encoding { bos: None, special: false }).unwrap(), expected);
    }
    assert_eq!((tokenizer.bos(), tokenizer.stop_ids()), (Some(0), &[0][..]));
    same_after_gguf(&tokenizer, inputs().into_iter().flatten().chain(samples()));
}

/// The shapes of `tokenizer.json` in the wild, made from a small one: the `tokenizers` crate runs the published
/// expressions with their look-ahead, the tokenizer opened from GGUF is all ours.
#[test]
fn tokenizer_json_of_other_families_converts() {
    let Some(path) = shared("models/tiny-ternary-stories/tokenizer.json") else { return };
    let original: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let qwen2 = llama3.replace(r"\p{N}{1,3}", r"\p{N}");
    let with = |regex: &str, normalizer: serde_json::Value| {
        let mut json = original.clone();
        json["normalizer"] = normalizer;
        json["pre_tokenizer"] = serde_json::json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]});
        json
    };
    let nfc = || serde_json::json!({"type": "NFC"});
    let open = |json: &serde_json::Value| {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("tokenizer.json"), json.to_string()).unwrap();
        Tokenizer::open(directory.path()).unwrap()
    };
    let gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    for json in [with(llama3, serde_json::Value::Null), with(&qwen2, nfc()), with(gpt2, nfc())] {
        same_after_gguf(&open(&json), inputs().into_iter().flatten().chain(samples()));
    }
    let refused = |json: serde_json::Value, message: &str| {
        let error = open(&json).gguf_metadata().unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    refused(with(r"\w+", serde_json::Value::Null), "pre_tokenizer");
    refused(with(llama3, nfc()), "NFC");
    refused(with(llama3, serde_json::json!({"type": "Lowercase"})), "normalizer");
}

/// Gemma's shape: spaces are replaced, none is put before the text.
#[test]
fn tokenizer_json_without_space_prefix_converts() {
    let Some(path) = shared("tokenizers/llama2/tokenizer.json") else { return };
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    json["normalizer"] = json["normalizer"]["normalizers"][1].take();
    json["decoder"]["decoders"].as_array_mut().unwrap().pop();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("tokenizer.json"), json.to_string()).unwrap();
    let tokenizer = Tokenizer::open(directory.path()).unwrap();
    assert_eq!(tokenizer.decode(&tokenizer.encode(" a", PLAIN).unwrap(), false), " a");
    same_after_gguf(&tokenizer, inputs().into_iter().flatten().chain(samples()));
    // As `add_tokens` of transformers adds it: found where the text with its spaces replaced has it.
    json["added_tokens"].as_array_mut().unwrap().push(serde_json::json!({
        "id": 32000, "content": "<tool>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": false
    }));
    fs::write(directory.path().join("tokenizer.json"), json.to_string()).unwrap();
    let error = Tokenizer::open(directory.path()).unwrap().gguf_metadata().unwrap_err().to_string();
    assert!(error.contains("\"<tool>\" that is looked for in normalised text"), "{error}");
}

#[test]
fn llama2c_stories() {
    let Some(path) = shared("models/stories260K/tok512.bin") else { return };
    let tokenizer = Tokenizer::open(&path).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.bos(), tokenizer.eos()), (512, Some(1), Some(2)));
    let text = fs::read_to_string(path.with_file_name("expected-greedy-200.txt")).unwrap();
    let ids = tokenizer.encode(&text, Encoding { bos: None, special: false }).unwrap();
    assert_eq!((ids[0], tokenizer.decode(&ids, false)), (1, text.clone()));
    // After a token that is not begin-of-sequence the space of the first word is part of the text.
    let mut stream = tokenizer.stream_after(Some(1));
    assert!(text.starts_with(stream.push(ids[1])));
    let mut stream = tokenizer.stream_after(Some(ids[1]));
    assert!(stream.push(ids[1]).starts_with(' '));
    same_after_gguf(&tokenizer, samples());
}

/// All sources decode back to the text they encoded, in one piece and streamed, token by token.
#[test]
fn round_trips() {
    for name in
        ["tokenizers/llama3/tokenizer.model", "tokenizers/qwen/qwen.tiktoken", "tokenizers/llama2/tokenizer.json"]
    {
        let Some(path) = shared(name) else { return };
        let tokenizer = Tokenizer::open(&path).unwrap();
        for text in samples() {
            let ids = tokenizer.encode(&text, PLAIN).unwrap();
            let decoded = tokenizer.decode(&ids, false);
            match name {
                n if n.contains("qwen") => {} // brings text to NFC first
                n if n.contains("llama2") => assert_eq!(decoded, text.replace('▁', " ")), // cannot tell them apart
                _ => assert_eq!(decoded, text),
            }
            assert_eq!(streamed(&tokenizer, &ids), decoded, "{name}");
            // Cut anywhere, the stream gives what a whole decoding of the same ids gives.
            for cut in 0..ids.len().min(40) {
                assert_eq!(streamed(&tokenizer, &ids[cut..]), tokenizer.decode(&ids[cut..], false));
                assert_eq!(streamed(&tokenizer, &ids[..cut]), tokenizer.decode(&ids[..cut], false));
            }
        }
    }
}

#[test]
fn damaged_and_foreign_files_are_refused() {
    let refused = |path: &str, message: &str| {
        let Some(path) = shared(path) else { return };
        let error = Tokenizer::open(&path).unwrap_err().to_string();
        assert!(error.contains(message), "{}: {error}", path.display());
    };
    refused("odd-files/bitnet-rs-corrupted-tokenizer.gguf", "vocab_size");
    refused("odd-files/bitnet-rs-corrupted-tokenizer.json", "EOF");
    refused("odd-files/bitnet-rs-llama3-128k.gguf", "tokenizer.ggml.tokens");
    refused("tokenizers/ggml-vocab/bert-bge.gguf", "`bert` is not supported");
    refused("models/tiny.safetensors", "not a tokenizer file");
    refused("digits", "none of tokenizer.json");
    assert!(Tokenizer::open(Path::new("no-such-file")).unwrap_err().to_string().contains("no-such-file"));
}

#[test]
fn vocab_json_and_what_it_leaves_out() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("vocab.json", r#"{"a": 0, "b": 1, "ab": 2}"#);
    write("merges.txt", "#version: 0.2\na b\n");
    write("added_tokens.json", r#"{"<end>": 3}"#);
    let how = Encoding { bos: None, special: true };
    let tokenizer = Tokenizer::open(directory.path()).unwrap();
    assert_eq!(tokenizer.encode("aba<end>", how).unwrap(), [2, 0, 3]);
    assert!(tokenizer.notes().len() == 1 && tokenizer.notes()[0].contains("took gpt-2"), "{:?}", tokenizer.notes());
    write("tokenizer_config.json", r#"{"tokenizer_class": "GPT2Tokenizer"}"#);
    assert!(Tokenizer::open(directory.path()).unwrap().notes().is_empty());
    write("added_tokens.json", r#"{"<end>": 4}"#);
    let error = Tokenizer::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("3 tokens") && error.contains("\"<end>\" has id 4"), "{error}");
}

fn metadata_of(tokenizer: &Tokenizer) -> gguf::Metadata {
    let mut metadata = gguf::Metadata::new();
    metadata.set("general.architecture", gguf::Value::String("bitnet-b1.58".into()));
    for (key, value) in tokenizer.gguf_metadata().unwrap() {
        metadata.set(key, value);
    }
    metadata
}

fn from_metadata(metadata: gguf::Metadata) -> Result<Tokenizer, String> {
    let (path, tensors) = (PathBuf::new(), Default::default());
    let checkpoint = Checkpoint { path, tensors, source: Source::Gguf(metadata) };
    Tokenizer::from_checkpoint(&checkpoint).map_err(|e| e.to_string())
}

/// The published 2B-4T file: no pre-tokenizer named, a placeholder for a chat template, no end-of-turn id.
#[test]
fn gaps_of_the_published_2b4t_file_are_filled_and_noted() {
    let (Some(path), Some(inputs)) = (shared("tokenizers/llama3/tokenizer.model"), inputs()) else { return };
    let reference = Tokenizer::open(&path).unwrap();
    let mut metadata = metadata_of(&reference);
    metadata.remove("tokenizer.ggml.pre");
    metadata.remove("tokenizer.ggml.token_type");
    let placeholder = "{% for m in messages %}Human: {{ m }}\n\nBITNETAssistant: {% endfor %}";
    metadata.set("tokenizer.chat_template", gguf::Value::String(placeholder.into()));
    let tokenizer = from_metadata(metadata).unwrap();
    assert_eq!(tokenizer.notes().len(), 2, "{:?}", tokenizer.notes());
    assert_eq!(tokenizer.chat_template().unwrap().source(), bitnet_models::catalogue::BITNET_2B4T_TEMPLATE);
    assert_eq!(tokenizer.stop_ids(), [128_001, 128_009]);
    for input in inputs.iter().chain(&samples()) {
        assert_eq!(tokenizer.encode(input, PLAIN).unwrap(), reference.encode(input, PLAIN).unwrap(), "{input:?}");
    }
}

#[test]
fn wrong_metadata_is_refused() {
    let Some(path) = shared("models/stories260K/tok512.bin") else { return };
    let good = metadata_of(&Tokenizer::open(&path).unwrap());
    let refused = |key: &str, value: Option<gguf::Value>, message: &str| {
        let mut metadata = good.clone();
        match value {
            Some(value) => metadata.set(format!("tokenizer.ggml.{key}"), value),
            None => drop(metadata.remove(&format!("tokenizer.ggml.{key}"))),
        }
        let error = from_metadata(metadata).unwrap_err();
        assert!(error.contains(message), "{key}: {error}");
    };
    let text = |text: &str| Some(gguf::Value::String(text.into()));
    refused("tokens", None, "--tokenizer");
    refused("model", text("t5"), "`t5` is not supported");
    refused("model", text("gpt2"), "tokenizer.ggml.merges");
    refused("scores", None, "tokenizer.ggml.scores");
    refused("scores", Some(gguf::Value::Array(gguf::Array::F32(vec![0.0; 511]))), "511 scores for 512 tokens");
    refused("scores", Some(gguf::Value::Array(gguf::Array::F32(vec![f32::NAN; 512]))), "not a number");
    refused("token_type", Some(gguf::Value::Array(gguf::Array::I32(vec![1; 513]))), "513 token types for 512 tokens");
    refused("token_type", Some(gguf::Value::Array(gguf::Array::I32(vec![7; 512]))), "type 7");
    refused("token_type", Some(gguf::Value::Array(gguf::Array::I32(vec![6; 512]))), "expected <0xNN>");
    refused("token_type", Some(gguf::Value::Array(gguf::Array::U8(vec![1; 512]))), "token_type");
    refused("bos_token_id", Some(gguf::Value::U32(512)), "bos_token_id is 512");
}

/// What `tokenizer_config.json`, `chat_template.jinja`, `generation_config.json` and `added_tokens.json` add.
#[test]
fn files_beside_the_tokenizer_count() {
    let Some(model) = shared("tokenizers/llama2/tokenizer.model") else { return };
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    fs::copy(model, directory.path().join("tokenizer.model")).unwrap();
    write(
        "tokenizer_config.json",
        r#"{"add_bos_token": false, "add_eos_token": true, "eos_token": {"content": "</line>"},
            "chat_template": [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ eos_token }}"}]}"#,
    );
    write("added_tokens.json", r#"{"</line>": 32001, "<pad>": 32000}"#);
    write("generation_config.json", r#"{"eos_token_id": [2, 13]}"#);
    let tokenizer = Tokenizer::open(directory.path()).unwrap();
    let follow = Encoding { bos: None, special: true };
    assert_eq!(tokenizer.vocab_size(), 32_002);
    assert_eq!(tokenizer.encode("Hello<pad>", follow).unwrap(), [15_043, 32_000, 32_001]);
    assert_eq!((tokenizer.eos(), tokenizer.stop_ids()), (Some(32_001), &[2, 13, 32_001][..]));
    assert_eq!(tokenizer.chat_template().unwrap().render(&[], true).unwrap(), "</line>");
    same_after_gguf(&tokenizer, samples());
    write("chat_template.jinja", "from the file");
    assert_eq!(Tokenizer::open(directory.path()).unwrap().chat_template().unwrap().source(), "from the file");
    write("tokenizer_config.json", r#"{"bos_token": "<nowhere>"}"#);
    assert!(Tokenizer::open(directory.path()).unwrap_err().to_string().contains("<nowhere>"));
}

/// Cut off or changed anywhere, a file gives a tokenizer or an error: no panic, no giant allocation.
#[test]
fn mutated_files_do_not_crash() {
    let Some(llama2) = shared("tokenizers/llama2/tokenizer.model") else { return };
    let whole = |path: &str| fs::read(shared(path).unwrap()).unwrap();
    let lines = |bytes: &[u8], n: usize| bytes.split_inclusive(|&b| b == b'\n').take(n).collect::<Vec<_>>().concat();
    let json: serde_json::Value = serde_json::from_slice(&whole("models/tiny-ternary-stories/tokenizer.json")).unwrap();
    let mut small = json.clone();
    // The first 300 tokens and the merges that make them.
    let vocabulary = small["model"]["vocab"].as_object_mut().unwrap();
    vocabulary.retain(|_, id| id.as_u64().unwrap() < 300);
    let known: Vec<String> = vocabulary.keys().cloned().collect();
    small["model"]["merges"].as_array_mut().unwrap().retain(|merge| {
        let pair: Vec<&str> = merge.as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
        [pair[0], pair[1], &pair.concat()].iter().all(|text| known.iter().any(|k| k == text))
    });
    let seeds = [
        whole("models/stories260K/tok512.bin"),
        fs::read(llama2).unwrap()[..6000].to_vec(),
        lines(&whole("tokenizers/qwen/qwen.tiktoken"), 300),
        small.to_string().into_bytes(),
    ];
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokenizer");
    let mut opened = 0;
    let mut random = 1u64;
    let mut next = move |below: usize| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) as usize % below
    };
    for seed in &seeds {
        for round in 0..300 {
            let mut bytes = seed.clone();
            match round % 3 {
                0 => bytes.truncate(next(seed.len())),
                1 => (0..1 + next(3)).for_each(|_| bytes[next(seed.len())] = next(256) as u8),
                _ => drop(
                    bytes.splice(next(seed.len() / 2)..seed.len() / 2 + next(9), std::iter::repeat_n(255, next(9))),
                ),
            }
            fs::write(&path, &bytes).unwrap();
            if let Ok(tokenizer) = Tokenizer::open(&path) {
                opened += 1;
                if let Ok(ids) = tokenizer.encode("Once upon <0x0A> é </s>", Encoding { bos: None, special: true }) {
                    tokenizer.decode(&ids, true);
                }
                let _ = tokenizer.gguf_metadata();
            }
        }
    }
    assert!(opened > 30, "{opened}: the mutations are too coarse to test anything");
}
