//! Closed pipes, full disks and Ctrl-C.

use crate::program::{Outcome, bitnet, output};
use std::io::Read;
use std::process::Stdio;

#[test]
fn a_reader_that_has_seen_enough_ends_the_program_quietly() {
    for args in [
        &["run", "Once upon a time", "-n", "300", "--ignore-eos", "--slide", "1", "--quiet"][..],
        &["run", "Once upon a time", "-n", "200", "--ignore-eos", "--slide", "1", "--json", "--logprobs", "100", "-q"],
        &["completions", "zsh"],
        &["inspect", "--quiet"],
    ] {
        let mut child = bitnet(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut first = [0; 1];
        child.stdout.take().expect("piped").read_exact(&mut first).expect("one byte");
        // The pipe is closed now.
        let output = child.wait_with_output().expect("the program ends");
        assert_eq!(output.fails(0), "", "{args:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error() {
    let full = || std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    for args in [&["run", "Once", "-n", "4"][..], &["tokenize", "Once"], &["inspect"], &["man"]] {
        let output = bitnet(args).stdout(full()).output().expect("the program starts");
        let notes = output.fails(1);
        assert!(notes.contains("No space left"), "{args:?}: {notes}");
    }
}

/// Nobody reads the warnings: that is no reason to fail, still less to panic.
#[test]
#[cfg(target_os = "linux")]
fn a_full_standard_error_does_no_harm() {
    let args = ["run", "Once upon a time", "-n", "4", "--greedy", "--context", "4096"];
    let warned = output(args);
    assert!(warned.notes().contains("WARN") && warned.notes().contains("4096"), "{}", warned.notes());
    let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let unheard = bitnet(args).stderr(full).output().expect("the program starts");
    assert_eq!(unheard.succeeds(), warned.succeeds());
}

#[test]
#[cfg(unix)]
fn ctrl_c_stops_the_answer_and_keeps_what_was_said() {
    let mut child = bitnet(["run", "Once upon a time", "-n", "1000000", "--ignore-eos", "--slide", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdout = child.stdout.take().expect("piped");
    let mut first = [0; 1];
    stdout.read_exact(&mut first).expect("it has begun");
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("kill runs").success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("UTF-8 to the end");
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(130), "{}", output.notes());
    assert!(output.notes().contains("interrupted"), "{}", output.notes());
}

#[test]
fn log_and_results_do_not_mix() {
    let logged = bitnet(["tokenize", "Once", "--json"]).env("RUST_LOG", "trace").output().expect("the program starts");
    assert_eq!(logged.succeeds(), output(["tokenize", "Once", "--json"]).succeeds());
}
