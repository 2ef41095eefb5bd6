//! `chat` from a pipe: answers on standard output, everything else on standard error.

use crate::program::{Outcome, json, output_with, text};
use std::path::PathBuf;
use tempfile::TempDir;

/// A template for the embedded model, which has none.
fn template() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let template = directory.path().join("plain.jinja");
    let source = "{% for m in messages %}{{ m.content }} {% endfor %}";
    std::fs::write(&template, source).expect("writable");
    (directory, template)
}

fn chat<'a>(template: &'a std::path::Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["chat", "--template", text(template), "-n", "8", "--greedy"][..], more].concat()
}

#[test]
fn a_conversation_is_saved_loaded_and_goes_on_as_if_never_left() {
    let (directory, template) = template();
    let file = directory.path().join("talk.json");
    let file = text(&file);
    let args = chat(&template, &[]);
    let whole = output_with(&args, "Once upon a time\nThe cat\nThe dog\n").succeeds();
    assert_eq!(whole.lines().count(), whole.trim_end().lines().count());

    let first = output_with(&args, &format!("Once upon a time\nThe cat\n/save {file}\n/exit\nnever said\n")).succeeds();
    assert!(whole.starts_with(&first), "{whole:?} {first:?}");
    let messages = json(&std::fs::read_to_string(file).expect("saved"));
    let roles: Vec<_> = messages.as_array().expect("a list").iter().map(|m| m["role"].clone()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    assert_eq!(messages[2]["content"], "The cat");

    let second = output_with(&args, &format!("/load {file}\nThe dog\n")).succeeds();
    assert_eq!(first + &second, whole);
}

#[test]
fn the_past_is_not_read_again() {
    let (_directory, template) = template();
    let notes = output_with(chat(&template, &[]), "Once upon a time\nThe cat\n/stats\n").notes();
    assert!(notes.contains(" cached, in "), "{notes}");
    let notes = output_with(chat(&template, &[]), "Once upon a time\n/clear\nThe cat\n/stats\n").notes();
    assert!(notes.contains("2 messages"), "{notes}");
}

#[test]
fn commands_speak_on_standard_error() {
    let (_directory, template) = template();
    let talk = output_with(chat(&template, &[]), "/help\n/system\n/system Be brief.\n/system\n/stats\n\n/exit\n");
    assert_eq!(talk.succeeds(), "");
    let notes = talk.notes();
    for expected in ["/save FILE", "(nothing)", "Be brief.", "no answer yet"] {
        assert!(notes.contains(expected), "{expected}: {notes}");
    }
}

#[test]
fn mistakes_of_a_script_end_it() {
    let (_directory, template) = template();
    for (input, said) in [
        ("/dance\n", "/dance"),
        ("/save\n", "file name"),
        ("/load /no/such/file\n", "/no/such/file"),
        ("/save /no/such/directory/file\n", "/no/such/directory/file"),
    ] {
        let notes = output_with(chat(&template, &[]), input).fails(1);
        assert!(notes.contains(said), "{input}: {notes}");
    }
    let notes = output_with(["chat"], "hello\n").fails(1);
    assert!(notes.contains("chat template") && notes.contains("--template"), "{notes}");
    let notes = output_with(["chat", "--template", "/no/such/template"], "hello\n").fails(1);
    assert!(notes.contains("/no/such/template"), "{notes}");
}
