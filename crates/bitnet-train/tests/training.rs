//! Whole runs on a small text: learning, exact resumption, and the engine as judge of what comes out.

use bitnet_formats::Checkpoint;
use bitnet_kernels::{Batch, Cpu, CpuOptions, KvFormat};
use bitnet_models::{Encoding, LoadOptions, Model, StateShape, Tokenizer};
use bitnet_train::{Event, Method, ModelRecipe, Recipe, TrainError, Trainer};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use std::path::Path;

/// Sentences with an order that can be learned.
fn text(sentences: usize) -> String {
    let (who, does, what) =
        (["The cat", "A dog", "The bird"], ["sees", "likes", "finds"], ["a tree.", "the sun.", "a ball."]);
    let mut out = String::new();
    for i in 0..sentences {
        out += &format!("{} {} {}\n", who[i % 3], does[i / 3 % 3], what[(i + i / 3) % 3]);
        if i % 7 == 6 {
            out += "<|endoftext|>\n";
        }
    }
    out
}

fn recipe(dir: &Path, family: &str, steps: usize) -> Recipe {
    std::fs::write(dir.join("train.txt"), text(600)).unwrap();
    std::fs::write(dir.join("valid.txt"), text(60)).unwrap();
    let path = dir.join("recipe.toml");
    let toml = format!(
        r#"
[model]
family = "{family}"
hidden = 32
ffn = 48
layers = 2
heads = 4
kv_heads = 2
head_dim = 8
context = 24
[tokenizer]
vocab = 280
[data]
train = [{{ path = "train.txt" }}]
validation = [{{ path = "valid.txt" }}]
[optimizer]
steps = {steps}
batch = 8
accumulate = 2
peak_lr = 1e-2
second_lr = 5e-3
warmup = 4
[run]
validate_every = 10
checkpoint_every = 7
"#
    );
    std::fs::write(&path, toml).unwrap();
    Recipe::read(&path).unwrap()
}

/// Losses of all steps, and bits per byte of all validations.
fn run(trainer: &mut Trainer, until: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut losses, mut bits) = (Vec::new(), Vec::new());
    let mut observe = |event: &Event| {
        match *event {
            Event::Step { step, loss, .. } => {
                losses.push(loss);
                return step < until;
            }
            Event::Validation { validation, .. } => bits.push(validation.bits_per_byte),
        }
        true
    };
    trainer.run(&mut observe).unwrap();
    (losses, bits)
}

/// Logits of an exported model in the engine.
fn engine_logits(dir: &Path, ids: &[u32]) -> Vec<f32> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let cpu = Cpu::new(CpuOptions { threads: Some(1), isa: None }).unwrap();
    let model = Model::load(&checkpoint, cpu, &LoadOptions::default()).unwrap();
    let mut state =
        model.state(StateShape { max_tokens: 24, max_logits: 24, kv_pages: 1, kv_format: KvFormat::F32 }).unwrap();
    let mut batch = Batch::default();
    batch.push(0, ids, &[0], ids.len());
    model.forward(&mut state, &batch);
    let mut logits = vec![0.0; ids.len() * model.config().vocab];
    model.read_logits(&state, &mut logits);
    logits
}

#[test]
fn a_model_learns_and_the_engine_computes_what_was_trained() {
    for (family, ternary) in [("bitnet", true), ("llama", true), ("bitnet", false)] {
        let dir = tempfile::tempdir().unwrap();
        let mut recipe = recipe(dir.path(), family, 120);
        recipe.model.ternary = ternary;
        let out = dir.path().join("run");
        let mut trainer = Trainer::new(&recipe, &out, false).unwrap();
        let (losses, bits) = run(&mut trainer, usize::MAX);
        // 280 tokens by chance are ln 280 = 5.63 nats; the text has three choices per sentence
        assert!((losses[0] - 5.63).abs() < 0.3, "{family}: first loss {}", losses[0]);
        assert!(losses[119] < 1.2, "{family}: last loss {}", losses[119]);
        assert_eq!(bits.len(), 12);
        assert!(bits[11] < 0.5 * bits[0], "{family}: {bits:?}");

        let last = dir.path().join("last");
        trainer.export(&last).unwrap();
        assert_eq!(ModelRecipe::of(&last).unwrap().ternary, ternary);
        let tokenizer = Tokenizer::open(&last).unwrap();
        let ids = tokenizer.encode("The cat sees a tree.\nA dog", Encoding { bos: None, special: false }).unwrap();
        let ids = &ids[..ids.len().min(24)];
        let trained = trainer.network().logits(ids).unwrap();
        let vocab = trained.len() / ids.len();
        let engine = engine_logits(&last, ids);
        let mut largest = 0f32;
        for (position, (a, b)) in trained.chunks(vocab).zip(engine.chunks(vocab)).enumerate() {
            let argmax = |x: &[f32]| (0..vocab).max_by(|&i, &j| x[i].total_cmp(&x[j])).unwrap();
            assert_eq!(argmax(a), argmax(b), "{family}: position {position}");
            largest = a.iter().zip(b).fold(largest, |m, (a, b)| m.max((a - b).abs()));
        }
        // float order alone is 3e-6; an activation that rounds to the neighbouring code would be seen. The float twin is trained in bf16
        assert!(largest < if ternary { 1e-3 } else { 0.1 }, "{family}, {ternary}: logits differ by {largest}");
        println!("{family}, ternary {ternary}: logits differ by at most {largest}");
    }
}

#[test]
fn a_resumed_run_is_the_same_run() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), "bitnet", 40);
    let whole = run(&mut Trainer::new(&recipe, &dir.path().join("whole"), false).unwrap(), usize::MAX);
    let parts = dir.path().join("parts");
    let mut losses = run(&mut Trainer::new(&recipe, &parts, false).unwrap(), 17).0;
    assert_eq!(losses.len(), 17);
    let mut trainer = Trainer::new(&recipe, &parts, true).unwrap();
    assert_eq!(trainer.steps(), 17);
    let rest = run(&mut trainer, usize::MAX);
    losses.extend(&rest.0);
    assert_eq!(losses, whole.0);
    assert_eq!(rest.1.last(), whole.1.last());
    // tokens were written once, and are written again for other texts
    let shard = parts.join("train.tokens");
    let written = std::fs::metadata(&shard).unwrap().modified().unwrap();
    drop(Trainer::new(&recipe, &parts, true).unwrap());
    assert_eq!(std::fs::metadata(&shard).unwrap().modified().unwrap(), written);
    std::fs::write(dir.path().join("train.txt"), text(601)).unwrap();
    drop(trainer); // Windows replaces no file that is mapped
    drop(Trainer::new(&recipe, &parts, true).unwrap());
    assert_ne!(std::fs::metadata(&shard).unwrap().modified().unwrap(), written);
    // the log has every step once
    let log = std::fs::read_to_string(parts.join("metrics.jsonl")).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains("\"step\",")).count(), 40, "{log}");
}

#[test]
fn a_run_that_died_goes_on_from_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = recipe(dir.path(), "bitnet", 20);
    (recipe.optimizer.method, recipe.optimizer.average) = (Method::Muon, 0.9);
    let whole = run(&mut Trainer::new(&recipe, &dir.path().join("whole"), false).unwrap(), usize::MAX);
    let killed = dir.path().join("killed");
    // a panic in the observer ends the run between two checkpoints, as SIGKILL would
    let mut trainer = Trainer::new(&recipe, &killed, false).unwrap();
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = trainer.run(&mut |event| match event {
            Event::Step { step: 12, .. } => panic!("killed"),
            _ => true,
        });
    }));
    assert!(died.is_err());
    drop(trainer);
    let mut trainer = Trainer::new(&recipe, &killed, true).unwrap();
    assert_eq!(trainer.steps(), 7, "the last checkpoint");
    assert_eq!(run(&mut trainer, usize::MAX).0, whole.0[7..]);
}

#[test]
fn a_run_that_gains_nothing_ends_early() {
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = recipe(dir.path(), "bitnet", 40);
    // nothing moves, so that only the first validation is better than what was before
    (recipe.optimizer.peak_lr, recipe.optimizer.second_lr) = (0.0, 0.0);
    (recipe.run.validate_every, recipe.run.patience) = (3, 2);
    let out = dir.path().join("run");
    let mut trainer = Trainer::new(&recipe, &out, false).unwrap();
    let mut best = Vec::new();
    let mut observe = |event: &Event| {
        if let Event::Validation { step, best: better, .. } = *event {
            best.push((step, better));
        }
        true
    };
    let outcome = trainer.run(&mut observe).unwrap();
    assert_eq!(best, [(3, true), (6, false), (9, false)]);
    assert_eq!((outcome.steps, outcome.interrupted, outcome.best.map(|best| best.1)), (9, false, Some(3)));
    // resumed, it has still ended
    let outcome = Trainer::new(&recipe, &out, true).unwrap().run(&mut |_| panic!("a step")).unwrap();
    assert_eq!((outcome.steps, outcome.interrupted), (9, false));
}

#[test]
fn what_cannot_go_on_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), "bitnet", 8);
    let out = dir.path().join("run");
    run(&mut Trainer::new(&recipe, &out, false).unwrap(), usize::MAX);
    let refused = |recipe: &Recipe, resume| Trainer::new(recipe, &out, resume).map(|_| ()).unwrap_err();
    assert!(refused(&recipe, false).to_string().contains("resume it"));
    let mut other = recipe.clone();
    other.model.hidden = 64;
    assert!(
        matches!(refused(&other, true), TrainError::Checkpoint { reason, .. } if reason.contains("another network"))
    );
    let mut other = recipe.clone();
    other.optimizer.peak_lr = 1.0;
    assert!(matches!(refused(&other, true), TrainError::Checkpoint { .. }));
    // a damaged checkpoint
    let path = out.join("checkpoint.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(refused(&recipe, true).to_string().contains("damaged"));
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = recipe(dir.path(), "llama", 60);
    recipe.model.ternary = false;
    let out = dir.path().join("run");
    run(&mut Trainer::new(&recipe, &out, false).unwrap(), 9);
    // finite weights whose products overflow
    let path = out.join("checkpoint.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let checkpoint = SafeTensors::deserialize(&bytes).unwrap();
    let huge: Vec<u8> = [3e38f32; 32 * 48].into_iter().flat_map(f32::to_le_bytes).collect();
    let name = "weight.model.layers.0.mlp.down_proj.weight";
    let tensors = checkpoint.tensors().into_iter().map(|(key, view)| {
        let view = if key == name { TensorView::new(view.dtype(), vec![32, 48], &huge).unwrap() } else { view };
        (key, view)
    });
    let changed = safetensors::serialize(tensors, header.metadata().clone()).unwrap();
    std::fs::write(&path, &changed).unwrap();

    let mut trainer = Trainer::new(&recipe, &out, true).unwrap();
    match trainer.run(&mut |_| true) {
        Err(error @ TrainError::Diverged { step: 10, .. }) => assert!(error.to_string().contains("step 10")),
        other => panic!("an infinite hidden state was survived: {other:?}"),
    }
    assert_eq!(std::fs::read(&path).unwrap(), changed, "the checkpoint stays as it was");
}
