//! Runs that start from a model: going on, conversations, a teacher; and what cannot be started from.

use bitnet_formats::Checkpoint;
use bitnet_kernels::{Batch, Cpu, CpuOptions, KvFormat};
use bitnet_models::export::{Export, ExportOptions, Form};
use bitnet_models::{ChatTemplate, Encoding, LoadOptions, Message, Model, StateShape, Tokenizer};
use bitnet_train::{
    Event, Family, LoraRecipe, Method, ModelRecipe, QuantizeOptions, Quantizer, Recipe, TeacherRecipe, TokenizerRecipe,
    Trainer, export_last,
};
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

/// Logits of a model in the engine.
fn logits(dir: &Path, options: &LoadOptions, ids: &[u32]) -> Vec<f32> {
    let cpu = Cpu::new(CpuOptions { threads: Some(1), isa: None }).unwrap();
    let model = Model::load(&Checkpoint::open(dir).unwrap(), cpu, options).unwrap();
    let shape = StateShape { max_tokens: 24, max_logits: 24, kv_pages: 1, kv_format: KvFormat::F32 };
    let mut state = model.state(shape).unwrap();
    let mut batch = Batch::default();
    batch.push(0, ids, &[0], ids.len());
    model.forward(&mut state, &batch);
    let mut logits = vec![0.0; ids.len() * model.config().vocab];
    model.read_logits(&state, &mut logits);
    logits
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
fn a_side_car_learns_beside_weights_that_stay() {
    for family in ["bitnet", "llama"] {
        let dir = tempfile::tempdir().unwrap();
        let mut recipe = recipe(dir.path(), 30);
        recipe.model.family = if family == "llama" { Family::Llama } else { Family::Bitnet };
        let (_, base) = run(&recipe, &dir.path().join("base"));
        let model = dir.path().join("base/model");
        let mut next = recipe.clone();
        next.start = Some(model.clone());
        next.lora = Some(LoraRecipe { rank: 4, alpha: 8.0 });
        // the side-car starts as nothing
        let mut fresh = Trainer::new(&next, &dir.path().join("fresh"), false).unwrap();
        assert_eq!(fresh.validation().unwrap().bits_per_byte, base);
        next.optimizer.steps = 60;
        let out = dir.path().join("lora");
        let (losses, bits) = run(&next, &out);
        assert!(bits < 0.9 * base && losses[59] < losses[0], "{family}: {bits} {base} {losses:?}");
        // resumed in the middle it is the same run
        let parts = dir.path().join("parts");
        let mut steps = 0;
        Trainer::new(&next, &parts, false)
            .unwrap()
            .run(&mut |event| {
                steps += usize::from(matches!(event, Event::Step { .. }));
                steps < 25
            })
            .unwrap();
        let mut rest = Vec::new();
        let mut resumed = Trainer::new(&next, &parts, true).unwrap();
        resumed
            .run(&mut |event| {
                if let Event::Step { loss, .. } = event {
                    rest.push(*loss);
                }
                true
            })
            .unwrap();
        assert_eq!(rest, losses[25..]);
        // the engine computes what was trained
        let last = dir.path().join("last");
        resumed.export(&last).unwrap();
        let tokenizer = Tokenizer::open(&model).unwrap();
        let ids = tokenizer.encode("The cat sees a tree.\nA dog", Encoding { bos: None, special: false }).unwrap();
        let ids = &ids[..ids.len().min(24)];
        let trained = resumed.network().logits(ids).unwrap();
        let vocab = trained.len() / ids.len();
        let options = LoadOptions { lora: Some(last.clone()), ..LoadOptions::default() };
        let (engine, plain) = (logits(&model, &options, ids), logits(&model, &LoadOptions::default(), ids));
        let mut largest = 0f32;
        for (position, (a, b)) in trained.chunks(vocab).zip(engine.chunks(vocab)).enumerate() {
            let argmax = |x: &[f32]| (0..vocab).max_by(|&i, &j| x[i].total_cmp(&x[j])).unwrap();
            assert_eq!(argmax(a), argmax(b), "{family}: position {position}");
            largest = a.iter().zip(b).fold(largest, |m, (a, b)| m.max((a - b).abs()));
        }
        assert!(largest < 1e-3, "{family}: logits differ by {largest}");
        assert_ne!(engine, plain);
        println!("{family}: logits differ by at most {largest}");
        for (change, what) in [
            (&(|r: &mut Recipe| r.start = None) as &dyn Fn(&mut Recipe), "lora needs"),
            (&|r| r.optimizer.method = Method::Muon, "lora needs"),
            (&|r| r.lora = Some(LoraRecipe { rank: 0, alpha: 1.0 }), "lora.rank = 0"),
            (&|r| r.lora = Some(LoraRecipe { rank: 2, alpha: f64::NAN }), "lora.alpha = NaN"),
        ] {
            let mut wrong = next.clone();
            change(&mut wrong);
            let reason = refused(&wrong, &dir.path().join("none"));
            assert!(reason.contains(what), "{reason}");
        }
    }
}

#[test]
fn a_student_imitates_its_teacher() {
    let dir = tempfile::tempdir().unwrap();
    let (mut recipe, model, _) = model(dir.path());
    recipe.tokenizer.file = Some(model.join("tokenizer.json"));
    recipe.run.seed = 7;
    recipe.teacher = Some(TeacherRecipe { model: model.clone(), share: 1.0 });
    let (losses, bits) = run(&recipe, &dir.path().join("student"));
    // Less than 2.0 with products on the matrix unit (bf16), 2.11 without.
    assert!(losses[59] < 0.7 * losses[0] && bits < 2.4, "{losses:?} {bits}");
    recipe.teacher = Some(TeacherRecipe { model: model.clone(), share: 1.5 });
    assert!(refused(&recipe, &dir.path().join("none")).contains("teacher.share = 1.5"));
    recipe.teacher = Some(TeacherRecipe { model: dir.path().join("nobody"), share: 0.5 });
    assert!(refused(&recipe, &dir.path().join("none")).contains("nobody"));
}

/// A model's vocabulary and template, and nothing else of it (`tokenizer.file`).
#[test]
fn a_run_keeps_its_chat_template() {
    let dir = tempfile::tempdir().unwrap();
    let (mut recipe, model, _) = model(dir.path());
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::copy(model.join("tokenizer.json"), other.join("tokenizer.json")).unwrap();
    std::fs::write(other.join("chat_template.jinja"), TEMPLATE).unwrap();
    let chat = "{\"question\": \"What sees a tree.\", \"answer\": \"The cat\"}\n".repeat(40);
    std::fs::write(dir.path().join("chat.jsonl"), chat).unwrap();
    for source in recipe.data.train.iter_mut().chain(&mut recipe.data.validation) {
        source.path = dir.path().join("chat.jsonl");
    }
    recipe.tokenizer.file = Some(other.join("tokenizer.json"));
    let out = dir.path().join("run");
    let mut trainer = Trainer::new(&recipe, &out, false).unwrap();
    trainer.run(&mut |event| !matches!(event, Event::Step { step: 5, .. })).unwrap();
    drop(trainer);
    std::fs::remove_dir_all(&other).unwrap();
    let trainer = Trainer::new(&recipe, &out, true).unwrap();
    assert_eq!(trainer.steps(), 5);
    drop(trainer);
    export_last(&out, &dir.path().join("last")).unwrap();
    let tokenizer = Tokenizer::open(&dir.path().join("last")).unwrap();
    assert_eq!(tokenizer.chat_template().unwrap().source(), TEMPLATE);
    // changed in its place, the template of a recipe does not change for a run that has begun
    std::fs::write(dir.path().join("template.jinja"), TEMPLATE).unwrap();
    recipe.tokenizer = TokenizerRecipe { chat_template: Some(dir.path().join("template.jinja")), ..recipe.tokenizer };
    recipe.tokenizer.file = None;
    recipe.start = Some(model);
    let out = dir.path().join("second");
    let mut trainer = Trainer::new(&recipe, &out, false).unwrap();
    trainer.run(&mut |event| !matches!(event, Event::Step { step: 2, .. })).unwrap();
    drop(trainer);
    std::fs::write(dir.path().join("template.jinja"), "{{ messages }}").unwrap();
    drop(Trainer::new(&recipe, &out, true).unwrap());
    export_last(&out, &dir.path().join("last")).unwrap();
    let tokenizer = Tokenizer::open(&dir.path().join("last")).unwrap();
    assert_eq!(tokenizer.chat_template().unwrap().source(), TEMPLATE);
}

/// Settings of transformers for batches, and texts that spell special tokens.
#[test]
fn documents_are_learned_whole_and_as_text() {
    let dir = tempfile::tempdir().unwrap();
    let (mut recipe, model, _) = model(dir.path());
    let text = "A dog likes the sun. <|unused|>".repeat(50);
    std::fs::write(dir.path().join("text.txt"), &text).unwrap();
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(model.join("tokenizer.json")).unwrap()).unwrap();
    let tokens = |json: &serde_json::Value| {
        let path = dir.path().join("tokenizer.json");
        std::fs::write(&path, json.to_string()).unwrap();
        path
    };
    let added = json["added_tokens"].as_array_mut().unwrap();
    added.push(added[0].clone());
    (added[1]["id"], added[1]["content"]) = (280.into(), "<|unused|>".into());
    recipe.tokenizer.file = Some(tokens(&json));
    let plain = Trainer::new(&recipe, &dir.path().join("plain"), false).unwrap().training_text();
    assert_eq!(plain.1, text.len());
    let spelled = Tokenizer::open(recipe.tokenizer.file.as_ref().unwrap()).unwrap();
    let ids = spelled.encode(&text, Encoding { bos: None, special: false }).unwrap();
    assert!(!ids.contains(&280));
    assert_eq!(plain.0, 1 + ids.len() + 1, "the document between two ends");
    json["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = serde_json::json!({"strategy": {"Fixed": 9999}, "direction": "Right", "pad_to_multiple_of": null,
                                         "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"});
    recipe.tokenizer.file = Some(tokens(&json));
    let batched = Trainer::new(&recipe, &dir.path().join("batched"), false).unwrap().training_text();
    assert_eq!(batched, plain);
}

/// As many tokens, but other ones: what the teacher says would be learned about the wrong tokens.
#[test]
fn a_teacher_with_other_tokens_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut recipe, model, _) = model(dir.path());
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(model.join("tokenizer.json")).unwrap()).unwrap();
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    let (a, b) = (vocab["a"].clone(), vocab["b"].clone());
    (vocab["a"], vocab["b"]) = (b, a);
    let path = dir.path().join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    recipe.tokenizer.file = Some(path);
    recipe.teacher = Some(TeacherRecipe { model: model.clone(), share: 0.5 });
    let reason = refused(&recipe, &dir.path().join("none"));
    assert!(reason.contains("another vocabulary"), "{reason}");
    recipe.tokenizer.file = Some(model.join("tokenizer.json"));
    drop(Trainer::new(&recipe, &dir.path().join("same"), false).unwrap());
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

/// Trains a dense model of two blocks to be rounded: its recipe, how it is quantised, and its bits per byte.
fn dense_model(dir: &Path, ffn: usize) -> (Recipe, QuantizeOptions, f64) {
    let mut recipe = recipe(dir, 60);
    (recipe.model.family, recipe.model.ternary, recipe.model.layers) = (Family::Llama, false, 2);
    (recipe.model.ffn, recipe.optimizer.peak_lr) = (ffn, 3e-3);
    let (_, bits) = run(&recipe, &dir.join("dense"));
    let (model, validation) = (dir.join("dense/model"), recipe.data.validation.clone());
    (recipe, QuantizeOptions { model, validation, context: 24, seed: 1, residual: 0 }, bits)
}

#[test]
fn calibrated_rounding_costs_less_than_plain_rounding() {
    let dir = tempfile::tempdir().unwrap();
    let (recipe, options, bits) = dense_model(dir.path(), 48);
    let mut quantizer = Quantizer::new(options.clone()).unwrap();
    let dense = quantizer.measure().unwrap().bits_per_byte;
    assert!((dense - bits).abs() < 1e-9, "{dense} {bits}");
    let plain = quantizer.measure_uncalibrated().unwrap().bits_per_byte;
    assert_eq!(quantizer.measure().unwrap().bits_per_byte, dense, "measuring changes nothing");
    assert!(quantizer.calibrate(&recipe.data.train, 16, &mut |_, _| true).unwrap());
    let calibrated = quantizer.measure().unwrap().bits_per_byte;
    assert!(dense < calibrated && calibrated < plain, "{dense} {calibrated} {plain}");
    println!("dense {dense:.3}, calibrated {calibrated:.3}, plain {plain:.3}");
    // with a side-car for what is left, which the engine computes too
    let mut with_residual = Quantizer::new(QuantizeOptions { residual: 8, ..options.clone() }).unwrap();
    assert!(with_residual.calibrate(&recipe.data.train, 16, &mut |_, _| true).unwrap());
    let residual = with_residual.measure().unwrap().bits_per_byte;
    assert!(residual < calibrated, "{residual} {calibrated}");
    println!("with a residual of rank 8: {residual:.3}");
    let out = dir.path().join("residual");
    with_residual.export(&out).unwrap();
    let beside = LoadOptions { lora: Some(out.join("adapter")), ..LoadOptions::default() };
    let ids = [1, 20, 31, 7];
    let (plain, beside, dense_logits) = (
        logits(&out, &LoadOptions::default(), &ids),
        logits(&out, &beside, &ids),
        logits(&options.model, &LoadOptions::default(), &ids),
    );
    let far = |x: &[f32]| x.iter().zip(&dense_logits).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
    assert!(far(&beside) < far(&plain), "{} {}", far(&beside), far(&plain));
    assert!(Quantizer::new(QuantizeOptions { residual: 33, ..options.clone() }).is_err());
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

#[test]
fn what_rounding_hurts_most_stays_float_within_a_budget() {
    let dir = tempfile::tempdir().unwrap();
    let (recipe, options, _) = dense_model(dir.path(), 64); // rows of whole Q8_0 blocks
    let (texts, go_on) = (&recipe.data.train, &mut |_: usize, _: usize| true);
    // per block: q 32 x 32, k and v 16 x 32, o 32 x 32, gate and up 64 x 32, down 32 x 64
    let weights = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32);
    let mut ternary = Quantizer::new(options.clone()).unwrap();
    let refused = ternary.plan(texts, 16, weights / 4 - 1, go_on).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains(&(weights / 4).to_string()), "{refused}");
    assert!(ternary.plan(texts, 16, weights / 4, go_on).unwrap().iter().all(|unit| !unit.float));
    assert!(ternary.calibrate(texts, 16, go_on).unwrap());
    let all_ternary = ternary.measure().unwrap().bits_per_byte;

    let mut quantizer = Quantizer::new(options.clone()).unwrap();
    let dense = quantizer.measure().unwrap().bits_per_byte;
    let budget = weights / 2;
    let plan = quantizer.plan(texts, 16, budget, go_on).unwrap();
    assert_eq!(quantizer.measure().unwrap().bits_per_byte, dense, "planning changes nothing");
    let bytes: usize = plan.iter().map(|unit| if unit.float { unit.weights * 34 / 32 } else { unit.weights / 4 }).sum();
    assert_eq!((plan.len(), plan.iter().map(|unit| unit.weights as u64).sum()), (8, weights));
    assert!(bytes as u64 <= budget && bytes as u64 > weights / 4, "{bytes} of {budget}");
    assert!(quantizer.calibrate(texts, 16, go_on).unwrap());
    let mixed = quantizer.measure().unwrap().bits_per_byte;
    assert!(dense < mixed && mixed < all_ternary, "{dense} {mixed} {all_ternary}");
    println!("dense {dense:.3}, mixed {mixed:.3}, ternary {all_ternary:.3}");

    // the engine reads it so: from the directory, and from GGUF
    let (out, out_ternary) = (dir.path().join("mixed"), dir.path().join("ternary"));
    quantizer.export(&out).unwrap();
    ternary.export(&out_ternary).unwrap();
    let ids = [1, 20, 31, 7, 55, 90];
    let wanted = logits(&options.model, &LoadOptions::default(), &ids);
    let far = |x: &[f32]| x.iter().zip(&wanted).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
    let of_directory = logits(&out, &LoadOptions::default(), &ids);
    assert!(far(&of_directory) < far(&logits(&out_ternary, &LoadOptions::default(), &ids)));
    let gguf = dir.path().join("mixed.gguf");
    let checkpoint = Checkpoint::open(&out).unwrap();
    let (form, load) = (Form::Gguf(bitnet_formats::Encoding::F32), LoadOptions::default());
    let tokenizer = None;
    let export = Export::plan(&checkpoint, &ExportOptions { form, embedding: None, tokenizer, load: &load }).unwrap();
    let kept = export.tensors().iter().filter(|t| t.to == bitnet_formats::Encoding::Q8_0).count();
    assert_eq!(kept, plan.iter().filter(|unit| unit.float).map(|unit| unit.modules.len()).sum::<usize>());
    export.write(&gguf, &mut |_, _| true, &mut |_, _| Ok(())).unwrap();
    let of_gguf = logits(&gguf, &LoadOptions::default(), &ids);
    let difference = of_gguf.iter().zip(&of_directory).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(difference > 0.0 && difference < 0.1, "{difference}"); // Q8_0 of some projections
    // going on training it would ternarise what is to stay
    let reason = ModelRecipe::of(&out).unwrap_err().to_string();
    assert!(reason.contains("stay floats"), "{reason}");
}
