//! The files of `packaging/` name metrics and options; both must be the program's.

use crate::program::{Outcome, output};
use crate::serve::Served;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn files(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(directory).expect("packaging/") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push((path.clone(), fs::read_to_string(&path).expect("text"))),
        }
    }
}

/// Words that begin so, as far as `belongs` goes.
fn words<'t>(text: &'t str, begin: &str, belongs: impl Fn(char) -> bool) -> BTreeSet<&'t str> {
    let ends = |at: usize| text[at..].find(|c| !belongs(c)).map_or(text.len(), |length| at + length);
    let alone = |at: usize| !text[..at].ends_with(&belongs);
    text.match_indices(begin).filter(|(at, _)| alone(*at)).map(|(at, _)| &text[at..ends(at)]).collect()
}

#[test]
fn metrics_and_options_are_the_programs_own() {
    let mut all = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging"), &mut all);
    assert!(all.len() > 10, "{}", all.len());

    let served = Served::start(&[]);
    let metrics = served.metrics();
    let there = words(&metrics, "bitnet_", |c| c.is_ascii_alphanumeric() || c == '_');
    let mut named = 0;
    for (path, text) in &all {
        for name in words(text, "bitnet_", |c| c.is_ascii_alphanumeric() || c == '_') {
            named += 1;
            assert!(there.contains(name), "{}: {name} is no metric", path.display());
        }
    }
    assert!(named > 20, "{named}");

    let help = output(["serve", "--help"]).succeeds();
    let known = words(&help, "--", |c| c.is_ascii_alphanumeric() || c == '-');
    let mut asked = 0;
    for file in ["compose.yaml", "systemd/bitnet.service", "kubernetes/deployment.yaml"] {
        let (_, text) = all.iter().find(|(path, _)| path.ends_with(file)).expect("the file");
        // what comes before in comments are commands of others
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        for option in lines.flat_map(|line| words(line, "--", |c| c.is_ascii_alphanumeric() || c == '-')) {
            asked += 1;
            assert!(known.contains(option), "{file}: {option} is no option of bitnet serve");
        }
    }
    assert!(asked > 5, "{asked}");
}

#[test]
fn a_probe_says_whether_the_server_is_ready() {
    let served = Served::start(&[]);
    let port = served.address.rsplit_once(':').expect("a port").1.to_owned();
    assert_eq!(output(["health", "--port", &port]).succeeds(), "");
    drop(served);
    assert!(output(["health", "--port", &port]).fails(1).contains("no answer from 127.0.0.1"));
}
