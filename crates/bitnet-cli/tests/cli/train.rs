//! `train`: from a recipe to a model that runs.

use crate::program::{Outcome, bitnet, json, output, text};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

const RECIPE: &str = r#"
[model]
family = "bitnet"
hidden = 32
ffn = 64
layers = 1
heads = 2
kv_heads = 1
head_dim = 16
context = 16
[tokenizer]
vocab = 270
[data]
train = [{ path = "text.txt" }]
validation = [{ path = "text.txt" }]
[optimizer]
steps = 6
batch = 2
peak_lr = 1e-3
second_lr = 5e-4
[run]
validate_every = 3
samples = ["One"]
"#;

fn recipe(directory: &Path, recipe: &str) -> std::path::PathBuf {
    std::fs::write(directory.join("text.txt"), "One two three four five six seven.\n".repeat(40)).expect("written");
    let path = directory.join("recipe.toml");
    std::fs::write(&path, recipe).expect("written");
    path
}

#[test]
fn a_recipe_becomes_a_model() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let recipe = recipe(directory.path(), RECIPE);
    let out = directory.path().join("out");
    let trained = output(["train", "--config", text(&recipe), "--output", text(&out), "--json"]);
    let events = trained.succeeds();
    let steps = events.lines().filter(|line| json(line)["event"] == "step").count();
    let best = events.lines().filter(|line| json(line)["event"] == "validation").count();
    assert_eq!((steps, best), (6, 2), "{events}");
    assert!(trained.notes().contains("bits per byte") && trained.notes().contains("One"), "{}", trained.notes());
    let model = out.join("model");
    assert!(!output(["run", "One", "--model", text(&model), "-n", "4", "--greedy"]).succeeds().is_empty());
    // a run is exported by its directory: the best model, or the last weights
    let (packed, file, last) =
        (directory.path().join("packed"), directory.path().join("model.gguf"), directory.path().join("last"));
    let export =
        |form: &str, to: &Path| output(["export", "--model", text(&out), "--output", text(to), "--type", form]);
    let ids = |model: &Path| output(["run", "One", "--model", text(model), "-n", "4", "--greedy"]).succeeds();
    for (form, to) in [("hf-packed", &packed), ("i2_s", &file)] {
        let exported = export(form, to);
        exported.succeeds();
        assert!(exported.notes().contains("same bits"), "{}", exported.notes());
        assert_eq!(ids(to), ids(&model), "{form}");
    }
    assert!(packed.join("tokenizer.json").exists());
    let last_weights = ["export", "--last", "--model", text(&out), "--output", text(&last), "--type", "hf"];
    output(last_weights).succeeds();
    assert!(export("hf", &last).fails(1).contains("there already"));
    assert!(
        output(["export", "--last", "--model", text(&model), "--output", "x", "--type", "hf"])
            .fails(1)
            .contains("checkpoint")
    );
    // a finished run is not written over, and has nothing to resume
    let again = output(["train", "--config", text(&recipe), "--output", text(&out)]).fails(1);
    assert!(again.contains("resume"), "{again}");
    output(["train", "--config", text(&recipe), "--output", text(&out), "--resume"]).succeeds();
}

#[test]
fn a_model_goes_on_with_conversations_and_teaches() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let recipe = recipe(directory.path(), RECIPE);
    let at = |name: &str| directory.path().join(name);
    output(["train", "--config", text(&recipe), "--output", text(&at("first"))]).succeeds();
    let model = at("first/model");
    std::fs::write(at("chat.jsonl"), "{\"question\": \"One two?\", \"answer\": \"Three.\"}\n".repeat(60))
        .expect("written");
    std::fs::write(at("chat.jinja"), "{% for m in messages %}{{ m.content }}\n{% endfor %}").expect("written");
    let chat = at("chat.jsonl");
    let go_on =
        ["finetune", "--model", text(&model), "--data", text(&chat), "--validation", text(&chat), "--steps", "4"];
    let out = at("chat");
    let refused = output(go_on.into_iter().chain(["--output", text(&out)])).fails(1);
    assert!(refused.contains("chat.jsonl") && refused.contains("chat template"), "{refused}");
    let template = at("chat.jinja");
    let with_template = ["--output", text(&out), "--chat-template", text(&template), "--json"];
    let events = output(go_on.into_iter().chain(with_template)).succeeds();
    assert_eq!(events.lines().filter(|line| json(line)["event"] == "step").count(), 4, "{events}");
    let chatted = output(["chat", "--model", text(&out.join("model")), "--max-tokens", "2"]);
    assert!(!chatted.notes().contains("panicked"), "{}", chatted.notes());

    let student = at("student");
    let taught = output(["distill", "--teacher", text(&model), "--config", text(&recipe), "--output", text(&student)]);
    taught.succeeds();
    assert!(
        !output(["run", "One", "--model", text(&student.join("model")), "-n", "4", "--greedy"]).succeeds().is_empty()
    );
    let nobody =
        output(["distill", "--teacher", "nobody", "--config", text(&recipe), "--output", text(&at("none"))]).fails(1);
    assert!(nobody.contains("nobody"), "{nobody}");
    let packed =
        output(["finetune", "--model", text(&recipe), "--data", "a", "--validation", "a", "--output", "b"]).fails(1);
    assert!(packed.contains("recipe.toml"), "{packed}");
}

#[test]
fn a_side_car_is_trained_and_runs_beside_its_model() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let recipe = recipe(directory.path(), RECIPE);
    let at = |name: &str| directory.path().join(name);
    output(["train", "--config", text(&recipe), "--output", text(&at("first"))]).succeeds();
    let (model, words, out) = (at("first/model"), at("text.txt"), at("lora"));
    let before = std::fs::read(model.join("model.safetensors")).expect("a model");
    let finetune = ["finetune", "--model", text(&model), "--data", text(&words), "--validation", text(&words)];
    let lora = ["--lora", "4", "--steps", "40", "--lr", "0.02", "--output", text(&out), "--json"];
    let events = output(finetune.into_iter().chain(lora)).succeeds();
    let bits: Vec<f64> = events.lines().map(json).filter_map(|event| event["bits_per_byte"].as_f64()).collect();
    assert!(bits[bits.len() - 1] < bits[0] - 0.1, "{bits:?}"); // the base has learned next to nothing, and its head stays
    assert_eq!(std::fs::read(model.join("model.safetensors")).expect("a model"), before, "the base stays as it was");
    let adapter = at("lora/adapter");
    let perplexity = |lora: &[&str]| {
        let args = ["perplexity", "--model", text(&model), "--file", text(&words), "--context", "16", "--json"];
        let report = json(&output(args.iter().chain(lora)).succeeds());
        report["bits_per_byte"].as_f64().expect("bits")
    };
    let (with, without) = (perplexity(&["--lora", text(&adapter)]), perplexity(&[]));
    assert!(with < without - 0.1, "{with} {without}");
    output(["run", "One", "--model", text(&model), "--lora", text(&adapter), "-n", "4"]).succeeds();
    // a receipt knows the side-car, and holds with no other
    let receipt = at("receipt.json");
    output(["verify", "--model", text(&model), "--lora", text(&adapter), "--receipt", text(&receipt)]).succeeds();
    let check = ["verify", "--check", text(&receipt)];
    output(check).succeeds();
    let settings = adapter.join("adapter_config.json");
    let as_trained = std::fs::read_to_string(&settings).expect("settings");
    std::fs::write(&settings, as_trained.clone() + " ").expect("writable");
    let refused = output(check).fails(1);
    assert!(refused.contains("side-car is another"), "{refused}");
    std::fs::write(&settings, as_trained).expect("writable");
    let none = at("none");
    for last in [&[][..], &["--last"]] {
        let export = ["export", "--model", text(&out), "--output", text(&none), "--type", "i2_s"];
        let refused = output(export.iter().chain(last)).fails(1);
        assert!(refused.contains("side-car") && refused.contains("--lora"), "{refused}");
    }
    let nothing = output(["run", "One", "--model", text(&model), "--lora", text(&model), "-n", "4"]).fails(1);
    assert!(nothing.contains("adapter_config.json"), "{nothing}");
    let both = output(finetune.into_iter().chain(["--lora", "4", "--ternary", "--output", "x"])).fails(2);
    assert!(both.contains("--ternary"), "{both}");
}

/// Losses of all steps, by the run's log.
fn losses(out: &Path) -> Vec<(u64, String)> {
    let log = std::fs::read_to_string(out.join("metrics.jsonl")).expect("a log");
    let steps = log.lines().map(json).filter(|event| event["event"] == "step");
    steps.map(|event| (event["step"].as_u64().expect("a step"), event["loss"].to_string())).collect()
}

#[test]
fn a_killed_run_goes_on_as_if_nothing_had_happened() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let long = RECIPE
        .replace("steps = 6", "steps = 300")
        .replace("validate_every = 3", "validate_every = 150\ncheckpoint_every = 7");
    let recipe = recipe(directory.path(), &long);
    let (whole, killed) = (directory.path().join("whole"), directory.path().join("killed"));
    output(["train", "--config", text(&recipe), "--output", text(&whole)]).succeeds();
    let mut command = bitnet(["train", "--config", text(&recipe), "--output", text(&killed)]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    while !killed.join("checkpoint.safetensors").exists() && child.try_wait().expect("a child").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("an end");
    output(["train", "--config", text(&recipe), "--output", text(&killed), "--resume"]).succeeds();
    let found = losses(&killed);
    assert_eq!(found.len(), 300);
    assert_eq!(found, losses(&whole));
}

/// Files may grow to 80 KB (160 KB where the shell counts otherwise): enough for a model of 72 KB, too little for a checkpoint of 215 KB. A
/// disk that is full fails in the same way.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_last_good_checkpoint() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let recipe = recipe(directory.path(), RECIPE);
    let out = directory.path().join("out");
    let limited = |arguments: &[&str]| {
        let script = "trap '' XFSZ; ulimit -f 160; exec \"$0\" \"$@\"";
        let shell = ["-c", script, env!("CARGO_BIN_EXE_bitnet")];
        std::process::Command::new("sh").args(shell).args(arguments).output().expect("a shell")
    };
    // nothing there yet: nothing half-written after it
    let arguments = ["train", "--config", text(&recipe), "--output", text(&out)];
    let full = limited(&arguments).fails(1);
    assert!(full.contains("checkpoint.safetensors") && full.contains("large"), "{full}");
    let left: Vec<_> = std::fs::read_dir(&out).expect("a directory").flatten().map(|f| f.file_name()).collect();
    assert!(!left.iter().any(|name| name == "checkpoint.safetensors"), "{left:?}");
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".tmp")), "{left:?}");
    // one from before stays
    std::fs::remove_dir_all(&out).expect("removed");
    let many = RECIPE
        .replace("steps = 6", "steps = 3000")
        .replace("validate_every = 3", "validate_every = 3000\ncheckpoint_every = 5");
    std::fs::write(&recipe, many).expect("written");
    let mut child = bitnet(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    while !out.join("checkpoint.safetensors").exists() && child.try_wait().expect("a child").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("an end");
    let good = std::fs::read(out.join("checkpoint.safetensors")).expect("a checkpoint");
    let full = limited(&[&arguments[..], &["--resume"]].concat()).fails(1);
    assert!(full.contains("checkpoint.safetensors"), "{full}");
    assert!(
        std::fs::read(out.join("checkpoint.safetensors")).expect("a checkpoint") == good,
        "the last good one stays"
    );
}

#[test]
fn a_dense_model_is_rounded_with_calibration_only() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let dense = RECIPE.replace("family = \"bitnet\"", "family = \"llama\"\nternary = false");
    let recipe = recipe(directory.path(), &dense);
    let at = |name: &str| directory.path().join(name);
    output(["train", "--config", text(&recipe), "--output", text(&at("dense"))]).succeeds();
    let (model, out, words) = (at("dense/model"), at("ternary"), at("text.txt"));
    let quantize = ["quantize", "--model", text(&model), "--output", text(&out), "--validation", text(&words)];
    let refused = output(quantize).fails(1);
    assert!(refused.contains("bits per byte") && refused.contains("--calibration"), "{refused}");
    assert!(!out.exists());
    let calibrated = ["--calibration", text(&words), "--windows", "4", "--json"];
    let report = json(&output(quantize.into_iter().chain(calibrated)).succeeds());
    assert!(report["calibrated"]["bits_per_byte"].as_f64().is_some_and(|bits| bits > 0.0), "{report}");
    let with_residual = at("residual");
    let arguments: Vec<&str> =
        quantize.iter().map(|a| if *a == text(&out) { text(&with_residual) } else { a }).collect();
    let residual = json(&output(arguments.into_iter().chain(calibrated).chain(["--residual", "4"])).succeeds());
    let bits = |report: &serde_json::Value| report["calibrated"]["bits_per_byte"].as_f64().expect("bits");
    assert!(bits(&residual) <= bits(&report) && residual["residual_rank"] == 4, "{residual} {report}");
    let adapter = with_residual.join("adapter");
    output(["run", "One", "--model", text(&with_residual), "--lora", text(&adapter), "-n", "2"]).succeeds();
    let file = at("model.gguf");
    output(["convert", "--input", text(&out), "--output", text(&file), "--type", "tq2_0"]).fails(1); // 32 columns: no block of 256
    output(["convert", "--input", text(&out), "--output", text(&file), "--type", "i2_s"]).succeeds();
}

#[test]
fn what_cannot_be_trained_is_said() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let refused = |text_of_recipe: &str| {
        let recipe = recipe(directory.path(), text_of_recipe);
        output(["train", "--config", text(&recipe), "--output", text(&directory.path().join("out"))]).fails(1)
    };
    assert!(refused(&RECIPE.replace("layers = 1", "layers = 1\ndepth = 2")).contains("depth"));
    assert!(refused(&RECIPE.replace("kv_heads = 1", "kv_heads = 3")).contains("kv_heads"));
    assert!(refused(&RECIPE.replace("text.txt", "nothing.txt")).contains("nothing.txt"));
    std::fs::write(directory.path().join("empty"), "").expect("written");
    assert!(refused(&RECIPE.replace("text.txt", "empty")).contains("no text"));
    std::fs::write(directory.path().join("binary"), [0xff, 0xfe, 0, 1]).expect("written");
    assert!(refused(&RECIPE.replace("text.txt", "binary")).contains("UTF-8"));
    assert!(!directory.path().join("out").join("checkpoint.safetensors").exists());
    let missing = output(["train", "--config", "no-such-recipe.toml"]).fails(1);
    assert!(missing.contains("no-such-recipe.toml"), "{missing}");
}
