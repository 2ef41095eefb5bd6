//! `train`: from a recipe to a model that runs.

use crate::program::{Outcome, json, output, text};
use std::path::Path;

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
    let file = directory.path().join("model.gguf");
    output(["convert", "--input", text(&model), "--output", text(&file), "--type", "i2_s"]).succeeds();
    // a finished run is not written over, and has nothing to resume
    let again = output(["train", "--config", text(&recipe), "--output", text(&out)]).fails(1);
    assert!(again.contains("resume"), "{again}");
    output(["train", "--config", text(&recipe), "--output", text(&out), "--resume"]).succeeds();
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
