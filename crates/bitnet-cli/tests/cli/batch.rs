//! `bitnet batch`: the same answers as one by one, nothing lost, nothing asked twice.

use crate::program::{Outcome, json, output, output_with, text};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// A file in a directory that goes when it is dropped.
fn file(name: &str, content: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(name);
    fs::write(&path, content).expect("written");
    (directory, path)
}

/// Results by id; every line is whole and no id comes twice.
fn results(text: &str) -> BTreeMap<String, Value> {
    let results: BTreeMap<String, Value> = text
        .lines()
        .map(json)
        .map(|result| (result.get("custom_id").unwrap_or(&result["id"]).to_string(), result))
        .collect();
    assert_eq!(results.len(), text.lines().count(), "an id came twice");
    results
}

/// What `bitnet run` says.
fn alone(prompt: &str) -> String {
    let answer = output(["run", prompt, "-n", "12", "--greedy", "--quiet", "--json"]).succeeds();
    json(&answer)["text"].as_str().expect("a text").to_owned()
}

#[test]
fn lines_of_every_form_are_answered_as_alone() {
    let lines = [
        json!({"prompt": "Once upon a time"}),
        json!({"id": "cat", "prompt": "The cat", "max_tokens": 3}),
        json!({"id": "talk", "messages": [{"role": "user", "content": "The dog"}]}),
        json!({"custom_id": "theirs", "method": "POST", "url": "/v1/completions", "body": {"prompt": "A boy", "n": 2}}),
        json!({"custom_id": "nowhere", "method": "POST", "url": "/v1/images", "body": {}}),
        json!({"id": "hot", "prompt": "a", "temperature": 9}),
        json!("no object"),
        json!({"id": "cat", "prompt": "again"}),
    ];
    let (_directory, path) = file("lines.jsonl", &lines.map(|line| format!("{line}\n")).concat());
    let run = output(["batch", text(&path), "-n", "12", "--temperature", "0"]);
    assert_eq!(run.status.code(), Some(1), "some lines are wrong");
    let notes = run.notes();
    assert!(notes.contains("[4 answered, 3 failed;") && notes.contains("line 8: another line has the id"), "{notes}");
    assert!(notes.contains("4 lines failed"), "{notes}");
    let got = results(std::str::from_utf8(&run.stdout).expect("UTF-8"));
    assert_eq!(got.len(), 7);
    assert_eq!(got["1"]["text"], json!(alone("Once upon a time")));
    assert_eq!(got["1"]["usage"]["completion_tokens"], 12);
    assert!(alone("The cat").starts_with(got["\"cat\""]["text"].as_str().expect("text")));
    assert_eq!(
        (&got["\"cat\""]["finish_reason"], &got["\"cat\""]["usage"]["completion_tokens"]),
        (&json!("length"), &json!(3))
    );
    assert_eq!(got["\"talk\""]["text"], json!(alone("The dog")));
    let theirs = &got["\"theirs\""];
    assert_eq!((&theirs["response"]["status_code"], &theirs["error"]), (&json!(200), &Value::Null));
    assert_eq!(theirs["response"]["body"]["choices"][1]["text"], json!(alone("A boy")));
    assert_eq!(got["\"nowhere\""]["response"]["status_code"], 404);
    assert_eq!(got["\"hot\""]["error"]["param"], "temperature");
    assert!(got["7"]["error"]["message"].as_str().expect("a message").contains("no JSON object"));
}

#[test]
fn tables_and_texts() {
    let (_directory, path) = file("table.csv", "id,prompt\na,\"Once\nupon\"\n,The cat\n");
    let got = results(&output(["batch", text(&path), "-n", "12", "--temp", "0"]).succeeds());
    assert_eq!(got["\"a\""]["text"], json!(alone("Once\nupon")));
    assert_eq!(got["2"]["text"], json!(alone("The cat")));
    let args =
        ["batch", "-", "--format", "txt", "--set", "max_tokens=2", "--chat", "--seed", "3", "--set", "logprobs=true"];
    let got = results(&output_with(args, "One\n\nTwo\n").succeeds());
    assert_eq!(got.len(), 2);
    assert_eq!(got["1"]["logprobs"]["content"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_run_goes_on_where_another_ended() {
    let prompts: Vec<String> = (0..9).map(|n| format!("There were {n} birds")).collect();
    let (directory, path) = file("prompts.txt", &prompts.join("\n"));
    let out = directory.path().join("out.jsonl");
    let args = ["batch", text(&path), "-o", text(&out), "-n", "8", "--temp", "0"];
    assert_eq!(output(args).succeeds(), "");
    let whole = fs::read_to_string(&out).expect("results");
    // as after a crash: some lines, and a piece of one
    let cut = whole.match_indices('\n').nth(3).expect("lines").0 + 10;
    fs::write(&out, &whole[..cut]).expect("written");
    let run = output(args);
    run.succeeds();
    assert!(run.notes().contains("[5 answered, 4 were there before;"), "{}", run.notes());
    let again = fs::read_to_string(&out).expect("results");
    assert!(again.starts_with(&whole[..cut - 9]));
    assert_eq!(results(&again), results(&whole));
    assert!(output(args).notes().contains("[0 answered, 9 were there before;"));
}

#[test]
#[cfg(unix)]
fn ctrl_c_leaves_whole_lines_and_the_rest_can_follow() {
    let prompts: Vec<String> = (0..24).map(|n| format!("Number {n} was")).collect();
    let (directory, path) = file("prompts.txt", &prompts.join("\n"));
    let out = directory.path().join("out.jsonl");
    let args = ["batch", text(&path), "-o", text(&out), "-n", "24", "--threads", "1", "--set", "ignore_eos=true"];
    let mut child = crate::program::bitnet(args).stderr(std::process::Stdio::piped()).spawn().expect("it starts");
    let lines = |path: &PathBuf| fs::read_to_string(path).map_or(0, |text| text.lines().count());
    while lines(&out) == 0 {
        assert!(child.try_wait().expect("a state").is_none(), "it ended before it was interrupted");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("kill runs").success());
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(130), "{}", ended.notes());
    assert!(ended.notes().contains("goes on from here"), "{}", ended.notes());
    let first = fs::read_to_string(&out).expect("results");
    assert!(first.ends_with('\n') && lines(&out) < 24);
    output(args).succeeds();
    let all = fs::read_to_string(&out).expect("results");
    assert!(all.starts_with(&first), "what was written stays");
    assert_eq!(results(&all).len(), 24);
}

#[test]
fn what_cannot_begin_says_why() {
    assert!(output(["batch", "prompts.doc"]).fails(2).contains("--format"));
    assert!(output(["batch", "nowhere.txt"]).fails(1).contains("nowhere.txt"));
    let (_directory, path) = file("table.csv", "question\nwhy\n");
    assert!(output(["batch", text(&path)]).fails(1).contains("no column is named prompt"));
    let (_directory, letter) = file("letter.txt", "Dear reader\n");
    assert!(output(["batch", text(&letter), "-o", text(&letter)]).fails(1).contains("no result of a batch"));
    assert_eq!(fs::read_to_string(&letter).expect("a file"), "Dear reader\n");
}

/// Results go to a pipe or a device as they are ready: there is nothing in it to go on from.
#[cfg(unix)]
#[test]
fn pipes_and_devices_take_results() {
    let (_directory, path) = file("one.txt", "Once upon a time\n");
    let ask = |to: &str| output(["batch", text(&path), "-n", "12", "--temperature", "0", "--output", to]);
    for to in ["-", "/dev/stdout"] {
        let got = results(&ask(to).succeeds());
        assert_eq!(got["1"]["text"], json!(alone("Once upon a time")), "{to}");
    }
    assert!(ask("/dev/null").status.success());
    assert!(!std::path::Path::new("-").exists());
    if cfg!(target_os = "linux") {
        let run = ask("/dev/full");
        assert!(run.status.code() == Some(1) && run.notes().contains("No space left"), "{}", run.notes());
    }
}
