//! Wrong usage is status 2, errors are status 1, both say what is wrong.

use crate::program::{Outcome, bitnet, json, output, output_with};

#[test]
fn wrong_usage_is_status_2_and_names_the_argument() {
    for (args, named) in [
        (&["run", "--top-k", "x", "hi"][..], "--top-k"),
        (&["run", "--threads", "0", "hi"], "--threads"),
        (&["run", "--greedy", "--temperature", "1", "hi"], "--temperature"),
        (&["run", "--logprobs", "3", "hi"], "--json"),
        (&["run", "--logit-bias", "13", "hi"], "--logit-bias"),
        (&["run", "--seed", "x", "hi"], "--seed"),
        (&["run", "--i2s-layout", "mips", "hi"], "--i2s-layout"),
        (&["run", "--no-such-option", "hi"], "--no-such-option"),
        (&["inspect", "--tile", "4x4"], "--tile"),
        (&["no-such-command"], "no-such-command"),
        (&["completions", "no-such-shell"], "no-such-shell"),
        (&["doctor", "--isa", "mmx"], "mmx"),
        (&["convert"], "--input"),
        (&["logits"], "--ids"),
        (&["perplexity"], "--file"),
        (&["detokenize", "1", "x"], "\"x\""),
        (&[], "Usage"),
    ] {
        let notes = output(args).fails(2);
        assert!(notes.contains(named), "{args:?}: {notes}");
    }
}

#[test]
fn options_out_of_range_are_wrong_usage_too() {
    let notes = output(["run", "--top-p", "7", "hi"]).fails(2);
    assert!(notes.contains("top_p") || notes.contains("top-p"), "{notes}");
    let notes = output(["run", "--temperature", "-1", "hi"]).fails(2);
    assert!(notes.contains("temperature") && notes.contains("-1 is not"), "{notes}");
    let notes = bitnet(["run", "hi"]).env("BITNET_ISA", "mmx").output().expect("the program starts").fails(2);
    assert!(notes.contains("mmx") && notes.contains("scalar"), "{notes}");
}

#[test]
fn a_missing_file_is_status_1_and_says_what_a_model_is() {
    for command in ["run", "inspect", "verify", "tokenize"] {
        let text = if command == "run" || command == "tokenize" { Some("hi") } else { None };
        let args = [command].into_iter().chain(text).chain(["--model", "/no/such/model.gguf"]);
        let notes = output(args).fails(1);
        assert!(notes.contains("error: ") && notes.contains("/no/such/model.gguf"), "{command}: {notes}");
        assert!(notes.contains("(os error "), "what the system says of it, {command}: {notes}");
    }
}

#[test]
fn help_version_completions_and_manual_are_results() {
    let help = output(["--help"]).succeeds();
    assert!(help.contains("Usage: bitnet"));
    for isa in bitnet::Isa::ALL {
        assert!(help.contains(isa.name()), "{isa} is not in {help}");
    }
    assert!(output(["run", "--help"]).succeeds().contains("--temperature"));
    assert_eq!(output(["--version"]).succeeds(), format!("bitnet {}\n", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(output(["completions", shell]).succeeds().contains("explain-prompt"), "{shell}");
    }
    assert!(output(["man"]).succeeds().starts_with(".ie"), "roff");
    let directory = tempfile::tempdir().expect("a temporary directory");
    output(["man", "--output", directory.path().to_str().expect("UTF-8")]).succeeds();
    assert!(directory.path().join("bitnet-run.1").exists());
}

#[test]
fn doctor_tells_machines_what_it_tells_people() {
    let report = json(&output(["doctor", "--no-bandwidth", "--json"]).succeeds());
    let text = output(["doctor", "--no-bandwidth"]).succeeds();
    let isa = report["isa"].as_str().expect("a tier");
    assert!(text.contains(&format!("instructions  {isa}")), "{text}");
    assert!(report["cores"].as_u64() > Some(0));
    let scalar = report["tiers"].as_array().expect("tiers").iter().find(|t| t["name"] == "scalar").expect("scalar");
    assert_eq!((&scalar["available"], &scalar["self_test"]), (&true.into(), &"passed".into()));
    let capped = json(&output(["doctor", "--no-bandwidth", "--json", "--isa", "scalar"]).succeeds());
    for tier in report["tiers"].as_array().expect("tiers") {
        let missing = tier["missing"].as_array().expect("names");
        assert_eq!(missing.is_empty(), tier["available"] == true, "{tier}");
    }
    assert!(report["float_operations_per_second"].as_f64() > Some(1e6), "{report}");
    assert_eq!((&capped["isa"], &capped["isa_reason"]), (&"scalar".into(), &"--isa asks for it".into()));
    assert!(report["threads_reason"].is_string() && report["hand_over_seconds"].as_f64() >= Some(0.0), "{report}");
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let mut command = crate::program::bitnet(["tokenize"]);
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), b"\xff\xfe").expect("writable");
    command.stdin(std::fs::File::open(file.path()).expect("readable"));
    let notes = command.output().expect("the program starts").fails(1);
    assert!(notes.contains("UTF-8"), "{notes}");
    let notes = output_with(["detokenize"], "[1, 2").fails(2);
    assert!(notes.contains("ids"), "{notes}");
}
