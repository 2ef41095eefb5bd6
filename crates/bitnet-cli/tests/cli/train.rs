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
    std::fs::write(directory.path().join("binary"), [0xff, 0xfe, 0, 1]).expect("written");
    assert!(refused(&RECIPE.replace("text.txt", "binary")).contains("UTF-8"));
    assert!(!directory.path().join("out").join("checkpoint.safetensors").exists());
    let missing = output(["train", "--config", "no-such-recipe.toml"]).fails(1);
    assert!(missing.contains("no-such-recipe.toml"), "{missing}");
}
