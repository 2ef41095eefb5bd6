//! `tokenize`, `detokenize`, `explain-prompt`.

use crate::program::{Outcome, json, output, output_with, shared, text};

#[test]
fn text_comes_back_from_its_ids() {
    for sentence in ["Once upon a time, there was a dragon.", "naïve — 日本語 🦀\n\ttab", "", " leading and trailing "]
    {
        let ids = output_with(["tokenize", "--no-bos", "--quiet"], sentence).succeeds();
        assert_eq!(output_with(["detokenize", "--quiet"], &ids).succeeds(), sentence);
        let ids = output_with(["tokenize", "--no-bos", "--json", "--quiet"], sentence).succeeds();
        let back = output_with(["detokenize", "--json", "--quiet"], &ids).succeeds();
        assert_eq!(json(&back)["text"], sentence);
    }
}

#[test]
fn an_argument_and_a_pipe_mean_the_same() {
    let piped = output_with(["tokenize", "-"], "Once upon").succeeds();
    assert_eq!(output(["tokenize", "Once upon"]).succeeds(), piped);
    let ids: Vec<&str> = piped.split_whitespace().collect();
    let from_arguments = output(["detokenize"].iter().chain(&ids[1..])).succeeds();
    assert_eq!(from_arguments, "Once upon", "without the begin-of-sequence token");
}

#[test]
fn ids_are_those_of_llama_cpp() {
    let Some(inputs) = shared("data/tokenizers/ggml-vocab/inputs.inp") else { return };
    let inputs = std::fs::read_to_string(inputs).expect("readable");
    let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
    for (model, expected) in [
        ("ggml-vocab/gpt-2.gguf", "gpt-2.out"),
        ("ggml-vocab/llama-spm.gguf", "llama-spm.out"),
        ("llama2/tokenizer.model", "llama-spm.out"),
        ("qwen/qwen.tiktoken", "qwen2.out"),
    ] {
        let (Some(model), Some(expected)) =
            (shared(&format!("data/tokenizers/{model}")), shared(&format!("data/tokenizers/ggml-vocab/{expected}")))
        else {
            return;
        };
        let expected = std::fs::read_to_string(expected).expect("readable");
        for (input, line) in inputs.iter().zip(expected.lines()).filter(|(input, _)| !input.is_empty()).take(12) {
            let ids = output_with(["tokenize", "--no-bos", "--json", "--model", text(&model)], input).succeeds();
            let line: Vec<u32> = line.split_whitespace().map(|id| id.parse().expect("an id")).collect();
            assert_eq!(json(&ids)["ids"], serde_json::json!(line), "{}: {input:?}", model.display());
        }
    }
}

#[test]
fn ids_outside_the_vocabulary_are_refused() {
    let notes = output(["detokenize", "4000000000"]).fails(1);
    assert!(notes.contains("4000000000") && notes.contains("vocabulary"), "{notes}");
}

#[test]
fn files_that_hold_no_tokenizer_are_refused() {
    let Some(model) = shared("data/models/empty.gguf") else { return };
    let notes = output(["tokenize", "hi", "--model", text(&model)]).fails(1);
    assert!(notes.contains("tokenizer"), "{notes}");
}

#[test]
fn a_template_explains_itself_token_by_token() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let template = directory.path().join("plain.jinja");
    let source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";
    std::fs::write(&template, source).expect("writable");
    let args = ["explain-prompt", "Who are you?", "--system", "Be brief.", "--template", text(&template), "--json"];
    let report = json(&output(args).succeeds());
    assert_eq!(report["text"], "system: Be brief.\nuser: Who are you?\nassistant:");
    let pieces: String = report["tokens"].as_array().expect("tokens").iter().filter_map(|t| t.as_str()).collect();
    assert_eq!(pieces, report["text"].as_str().expect("text"));
    assert_eq!(report["ids"].as_array().map(Vec::len), report["tokens"].as_array().map(Vec::len));

    let args = ["explain-prompt", "a <|endoftext|> b", "--template", text(&template), "--json"];
    let spelled = json(&output(args).succeeds());
    let pieces: Vec<_> = spelled["tokens"].as_array().expect("tokens").iter().filter_map(|t| t.as_str()).collect();
    assert_eq!(pieces.concat(), "user: a <|endoftext|> b\nassistant:");
    assert!(!pieces.contains(&"<|endoftext|>"), "what a user types is plain text: {pieces:?}");

    let saved = directory.path().join("saved.json");
    std::fs::write(&saved, r#"[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]"#).expect("writable");
    let report = json(
        &output(["explain-prompt", "--messages", text(&saved), "--template", text(&template), "--json"]).succeeds(),
    );
    assert_eq!(report["text"], "user: a\nassistant: b\nassistant:");
}

#[test]
fn a_model_without_template_cannot_explain_a_turn() {
    let notes = output(["explain-prompt", "hi"]).fails(1);
    assert!(notes.contains("chat template") && notes.contains("--template"), "{notes}");
}
