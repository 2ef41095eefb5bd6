//! Runs that start from a model: going on, conversations, a teacher; and what cannot be started from.

use bitnet_models::{ChatTemplate, Encoding, Message, Tokenizer};
use bitnet_train::{Event, Family, ModelRecipe, QuantizeOptions, Quantizer, Recipe, TeacherRecipe, Trainer};
use std::path::{Path, PathBuf};

const TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\n{% else %}A: {{ m.content }}{{ eos_token }}\n\
                        {% endif %}{% endfor %}{% if add_generation_prompt %}A: {% endif %}";

fn recipe(dir: &Path, steps: usize) -> Recipe {
    let text = "The cat sees a tree.\nA dog likes the sun.\nThe bird finds a ball.\n".repeat(60);
    std::fs::write(dir.join("text.txt"), text).unwrap();
    let path = dir.join("recipe.toml");
    let toml = format!(
        r#"
[model]
family = "bitnet"
hidden = 32
ffn = 48
layers = 1
heads = 2
kv_heads = 1
head_dim = 16
context = 24
[tokenizer]
vocab = 280
[data]
train = [{{ path = "text.txt" }}]
validation = [{{ path = "text.txt" }}]
[optimizer]
steps = {steps}
batch = 8
peak_lr = 1e-2
second_lr = 5e-3
[run]
validate_every = {steps}
"#
    );
    std::fs::write(&path, toml).unwrap();
    Recipe::read(&path).unwrap()
}

/// Losses of the steps, and the last validation in bits per byte.
fn run(recipe: &Recipe, dir: &Path) -> (Vec<f64>, f64) {
    let (mut losses, mut bits) = (Vec::new(), f64::NAN);
    let mut trainer = Trainer::new(recipe, dir, false).unwrap();
    trainer
        .run(&mut |event| {
            match *event {
                Event::Step { loss, .. } => losses.push(loss),
                Event::Validation { validation, .. } => bits = validation.bits_per_byte,
            }
            true
        })
        .unwrap();
    (losses, bits)
}

/// A small trained model.
fn model(dir: &Path) -> (Recipe, PathBuf, f64) {
    let recipe = recipe(dir, 60);
    let (_, bits) = run(&recipe, &dir.join("first"));
    (recipe, dir.join("first/model"), bits)
}

fn refused(recipe: &Recipe, dir: &Path) -> String {
    Trainer::new(recipe, dir, false).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn a_run_goes_on_from_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let (recipe, model, bits) = model(dir.path());
    assert_eq!(ModelRecipe::of(&model).unwrap(), recipe.model);
    let mut next = recipe.clone();
    next.start = Some(model.clone());
    let mut trainer = Trainer::new(&next, &dir.path().join("second"), false).unwrap();
    assert_eq!(trainer.validation().unwrap().bits_per_byte, bits, "the same weights and vocabulary");
    drop(trainer);
    next.optimizer.steps = 10;
    next.run.validate_every = 10;
    (next.optimizer.peak_lr, next.optimizer.second_lr) = (1e-3, 5e-4);
    let (losses, after) = run(&next, &dir.path().join("third"));
    assert!(losses[0] < 2.0, "{losses:?}");
    assert!(after < bits, "{after} {bits}");
    // with fading quantisation and without, from a float model
    let mut float = recipe.clone();
    float.model.family = Family::Llama;
    float.model.ternary = false;
    run(&float, &dir.path().join("float"));
    let float = dir.path().join("float/model");
    assert!(!ModelRecipe::of(&float).unwrap().ternary);
    next.start = Some(float.clone());
    next.model = ModelRecipe { ternary: true, ..ModelRecipe::of(&float).unwrap() };
    next.optimizer.quantization_warmup = 5;
    run(&next, &dir.path().join("ternarised"));
    assert!(ModelRecipe::of(&dir.path().join("ternarised/model")).unwrap().ternary);
}

#[test]
fn of_conversations_only_answers_are_learned() {
    let dir = tempfile::tempdir().unwrap();
    let (recipe, model, _) = model(dir.path());
    let chats = "{\"question\": \"What sees a tree.\", \"answer\": \"The cat\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"Who?\"}, \
                 {\"role\": \"assistant\", \"content\": \"A dog\"}]}\n"
        .repeat(40);
    std::fs::write(dir.path().join("chat.jsonl"), chats).unwrap();
    std::fs::write(dir.path().join("template.jinja"), TEMPLATE).unwrap();
    let mut next = recipe.clone();
    next.start = Some(model.clone());
    for source in next.data.train.iter_mut().chain(&mut next.data.validation) {
        source.path = dir.path().join("chat.jsonl");
    }
    assert!(refused(&next, &dir.path().join("none")).contains("no chat template"));
    next.tokenizer.chat_template = Some(dir.path().join("template.jinja"));
    let out = dir.path().join("chat");
    let (losses, bits) = run(&next, &out);
    // two answers, told by their questions: once learned nothing of them is left to guess, though questions stay as they were
    assert!(losses[59] < 0.1 && bits < 0.3, "{losses:?} {bits}");
    // the model carries its template
    let tokenizer = Tokenizer::open(&out.join("model")).unwrap();
    let template: &ChatTemplate = tokenizer.chat_template().unwrap();
    let asked = [Message { role: "user".into(), content: "Who?".into() }];
    assert_eq!(template.render(&asked, true).unwrap(), "Q: Who?\nA: ");
    // and answers
    let mut trainer = Trainer::new(&next, &out, true).unwrap();
    assert_eq!(trainer.steps(), 60);
    assert!(trainer.validation().unwrap().bits_per_byte < 0.3);
    let ids = tokenizer.encode("Q: Who?\nA: ", Encoding { bos: Some(true), special: false }).unwrap();
    let logits = trainer.network().logits(&ids).unwrap();
    let last = &logits[logits.len() - tokenizer.vocab_size()..];
    let best = (0..last.len()).max_by(|&i, &j| last[i].total_cmp(&last[j])).unwrap();
    assert!(tokenizer.decode(&[best as u32], false).starts_with('A'), "{}", tokenizer.decode(&[best as u32], false));
}

#[test]
fn a_student_imitates_its_teacher() {
    let dir = tempfile::tempdir().unwrap();
    let (mut recipe, model, _) = model(dir.path());
    recipe.tokenizer.file = Some(model.join("tokenizer.json"));
    recipe.run.seed = 7;
    recipe.teacher = Some(TeacherRecipe { model: model.clone(), share: 1.0 });
    let (losses, bits) = run(&recipe, &dir.path().join("student"));
    assert!(losses[59] < 0.7 * losses[0] && bits < 2.0, "{losses:?} {bits}");
    recipe.teacher = Some(TeacherRecipe { model: model.clone(), share: 1.5 });
    assert!(refused(&recipe, &dir.path().join("none")).contains("teacher.share = 1.5"));
    recipe.teacher = Some(TeacherRecipe { model: dir.path().join("nobody"), share: 0.5 });
    assert!(refused(&recipe, &dir.path().join("none")).contains("nobody"));
}

#[test]
fn what_cannot_be_started_from_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (mut recipe, model, _) = model(dir.path());
    recipe.start = Some(model.clone());
    recipe.model.hidden = 64;
    assert!(refused(&recipe, &dir.path().join("none")).contains("another network"));
    recipe.model.hidden = 32;
    recipe.model.context = 25;
    assert!(refused(&recipe, &dir.path().join("none")).contains("24 positions"));
    recipe.model.context = 24;
    let config = std::fs::read(model.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    config["rms_norm_eps"] = 1e-6.into();
    std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    let reason = refused(&recipe, &dir.path().join("none"));
    assert!(reason.contains("epsilon"), "{reason}");
    recipe.start = Some(dir.path().join("text.txt"));
    assert!(refused(&recipe, &dir.path().join("none")).contains("text.txt"));
}

#[test]
fn calibrated_rounding_costs_less_than_plain_rounding() {
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = recipe(dir.path(), 60);
    (recipe.model.family, recipe.model.ternary, recipe.model.layers) = (Family::Llama, false, 2);
    recipe.optimizer.peak_lr = 3e-3;
    let (_, bits) = run(&recipe, &dir.path().join("dense"));
    let options = QuantizeOptions {
        model: dir.path().join("dense/model"),
        validation: recipe.data.validation.clone(),
        context: 24,
        seed: 1,
    };
    let mut quantizer = Quantizer::new(options.clone()).unwrap();
    let dense = quantizer.measure().unwrap().bits_per_byte;
    assert!((dense - bits).abs() < 1e-9, "{dense} {bits}");
    let plain = quantizer.measure_uncalibrated().unwrap().bits_per_byte;
    assert_eq!(quantizer.measure().unwrap().bits_per_byte, dense, "measuring changes nothing");
    assert!(quantizer.calibrate(&recipe.data.train, 16, &mut |_, _| true).unwrap());
    let calibrated = quantizer.measure().unwrap().bits_per_byte;
    assert!(dense < calibrated && calibrated < plain, "{dense} {calibrated} {plain}");
    println!("dense {dense:.3}, calibrated {calibrated:.3}, plain {plain:.3}");
    // what is written is what was measured, and is not rounded again
    let out = dir.path().join("ternary");
    quantizer.export(&out).unwrap();
    assert!(ModelRecipe::of(&out).unwrap().ternary);
    let mut written = recipe.clone();
    written.start = Some(out.clone());
    written.model.ternary = true;
    let mut trainer = Trainer::new(&written, &dir.path().join("check"), false).unwrap();
    assert_eq!(trainer.validation().unwrap().bits_per_byte, calibrated);
    let again = QuantizeOptions { model: out, ..options };
    assert!(Quantizer::new(again).map(|_| ()).unwrap_err().to_string().contains("ternary already"));
}
