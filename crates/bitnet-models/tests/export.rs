//! Export: the file that comes out computes the same bits as what went in.

use bitnet_formats::gguf::{self, Metadata, TensorSource, Value};
use bitnet_formats::{Checkpoint, Encoding, FormatError, I2sLayout, Scales, Source, Ternary};
use bitnet_kernels::{Batch, Cpu, CpuOptions, KvFormat, PAGE_LEN};
use bitnet_models::export::{Export, ExportOptions, Form, Likeness, Outcome, compare_logits};
use bitnet_models::names::{BlockRole, Naming, Projection, Role};
use bitnet_models::{LoadOptions, Model, ModelError, StateShape, Tokenizer};
use safetensors::{Dtype, tensor::TensorView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const I2S: Encoding = Encoding::I2S(I2sLayout::X86);

/// A folder of `shared` beside the checkout; the tests that need it say so when it is missing.
fn shared(path: &str) -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    if dir.exists() {
        return Some(dir);
    }
    eprintln!("SKIPPED: {} is absent", dir.display());
    None
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn cpu() -> Result<Cpu, ModelError> {
    Ok(Cpu::new(CpuOptions { threads: Some(2), isa: None }).expect("a CPU"))
}

fn options(form: Form, load: &LoadOptions) -> ExportOptions<'_> {
    ExportOptions { form, embedding: None, tokenizer: None, load }
}

/// Exports `input` and says whether that is exact, or gives the reasons why it is impossible.
fn export(input: &Checkpoint, encoding: Encoding, output: &Path) -> Result<bool, Vec<String>> {
    export_as(input, Form::Gguf(encoding), output)
}

fn export_as(input: &Checkpoint, form: Form, output: &Path) -> Result<bool, Vec<String>> {
    let load = LoadOptions::default();
    let plan = match Export::plan(input, &options(form, &load)) {
        Ok(plan) => plan,
        Err(error) if !matches!(form, Form::Gguf(_)) => return Err(vec![error.to_string()]),
        Err(error) => panic!("{}: {error}", input.path.display()),
    };
    let mut exact = None;
    let written = plan.write(output, &mut |_, _| true, &mut |_, all_exact| {
        exact = Some(all_exact);
        Ok(())
    });
    let tried: Vec<_> = plan.tensors().iter().filter(|t| t.to != Encoding::F32 || t.shape != [1]).collect();
    let reasons: Vec<String> = tried.iter().filter_map(|t| t.convert().err()).map(|e| e.to_string()).collect();
    if reasons.is_empty() {
        assert_eq!(written.unwrap().len(), plan.tensors().len());
        Ok(exact.expect("checked"))
    } else {
        let message = written.unwrap_err().to_string();
        assert!(message.contains("cannot be converted") && !output.exists(), "{message}");
        Err(reasons)
    }
}

fn likeness(input: &Checkpoint, output: &Path) -> Likeness {
    compare_logits(input, &LoadOptions::default(), &open(output), cpu)
        .unwrap_or_else(|e| panic!("{} -> {}: {e}", input.path.display(), output.display()))
}

fn assert_same_logits(input: &Checkpoint, output: &Path) {
    let likeness = likeness(input, output);
    assert!(likeness.identical, "{} -> {}: {likeness:?}", input.path.display(), output.display());
}

#[test]
fn every_golden_model_gives_the_same_logits_from_gguf() {
    let Some(dir) = shared("crossval") else { return };
    let out = tempfile::tempdir().unwrap();
    let (mut models, mut files) = (0, 0);
    for entry in std::fs::read_dir(dir).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("golden.json").is_file() {
            continue;
        }
        models += 1;
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let golden: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
        // TriLM's weights are ternary, but not listed with hashes.
        let ternary = golden["ternary"].as_object().is_some_and(|t| !t.is_empty()) || name.contains("trilm");
        let input = open(&folder);
        for encoding in [I2S, Encoding::Q2_0, Encoding::Tq1_0, Encoding::Tq2_0, Encoding::F32, Encoding::BF16] {
            let output = out.path().join(format!("{name}-{encoding}.gguf"));
            match export(&input, encoding, &output) {
                Ok(true) => {
                    assert_same_logits(&input, &output);
                    files += 1;
                }
                // f16 weights as BF16, because BF16 was asked for
                Ok(false) => {
                    let likeness = likeness(&input, &output);
                    assert!(encoding == Encoding::BF16 && likeness.cosine > 0.999, "{name}: {likeness:?}");
                }
                Err(reasons) => {
                    // F32 holds everything; I2_S all that is ternary and nothing else.
                    assert!(encoding != Encoding::F32 && !(ternary && encoding == I2S), "{name}: {reasons:?}");
                    let known = ["not ternary", "f16, which cannot hold", "not a multiple", "exactly"];
                    let unknown = reasons.iter().find(|r| !known.iter().any(|k| r.contains(k)));
                    assert_eq!(unknown, None, "{name} {encoding}");
                }
            }
            if encoding == I2S {
                assert_eq!(ternary, output.exists(), "{name}");
            }
        }
    }
    assert!(models >= 13 && files >= 29, "{models} models, {files} files");
}

#[test]
fn gguf_files_of_other_writers_can_be_recoded() {
    let Some(dir) = shared("crossval/gguf") else { return };
    let out = tempfile::tempdir().unwrap();
    for (name, encodings) in [
        ("bitnet-tq2_0", &[I2S, Encoding::Tq1_0, Encoding::Q2_0][..]),
        ("llama-tq2_0", &[I2S, Encoding::Tq1_0, Encoding::Tq2_0]),
        ("llama-tq1_0", &[I2S, Encoding::Tq2_0]),
        ("llama-q2_0-g64", &[I2S, Encoding::Pq2_0]),
        ("llama-q8_0", &[Encoding::F32, Encoding::Q8_0]),
        ("llama-q4_k_m", &[Encoding::F32]),
    ] {
        let input = open(&dir.join(format!("{name}.gguf")));
        for &encoding in encodings {
            let output = out.path().join(format!("{name}-{encoding}.gguf"));
            assert_eq!(export(&input, encoding, &output), Ok(true), "{name} {encoding}");
            assert_same_logits(&input, &output);
        }
    }
}

#[test]
fn llama2_c_files_keep_their_values() {
    let Some(dir) = shared("data/models/stories260K") else { return };
    let out = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "bin") || path.to_string_lossy().contains("tok") {
            continue;
        }
        let input = open(&path);
        let output = out.path().join("stories.gguf");
        assert_eq!(export(&input, Encoding::F32, &output), Ok(true));
        assert_same_logits(&input, &output);
        let reasons = export(&input, I2S, &out.path().join("refused.gguf")).unwrap_err();
        assert!(reasons[0].contains("not ternary") && reasons[0].contains("choose"), "{reasons:?}");
    }
}

#[test]
fn master_weights_and_tokenizer_become_one_file() {
    let Some(dir) = shared("data/models/tiny-ternary-stories") else { return };
    let out = tempfile::tempdir().unwrap();
    let output = out.path().join("stories.gguf");
    let input = open(&dir);
    assert_eq!(export(&input, I2S, &output), Ok(true));
    assert_same_logits(&input, &output);
    let how = bitnet_models::Encoding { bos: None, special: false };
    let text = "Once upon a time, there was a \u{201c}cat\u{201d} \u{1f431}.\n\nIt   had 12 toys.";
    let ids = |checkpoint: &Checkpoint| Tokenizer::from_checkpoint(checkpoint).unwrap().encode(text, how).unwrap();
    assert_eq!(ids(&open(&output)), ids(&input));
}

#[test]
fn the_embedded_model_survives_another_export() {
    let asset = open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/default.gguf"));
    let out = tempfile::tempdir().unwrap();
    let output = out.path().join("default.gguf");
    assert_eq!(export(&asset, I2S, &output), Ok(true));
    assert_same_logits(&asset, &output);
}

#[test]
fn a_nameless_model_takes_the_whole_name_of_its_directory() {
    let Some(dir) = shared("crossval/llama-dense") else { return };
    let out = tempfile::tempdir().unwrap();
    let copy = out.path().join("model-1.58bit");
    std::fs::create_dir(&copy).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(dir.join(file), copy.join(file)).unwrap();
    }
    let load = LoadOptions::default();
    let options = options(Form::Gguf(Encoding::F32), &load);
    let input = open(&copy);
    let plan = Export::plan(&input, &options).unwrap();
    assert_eq!(plan.metadata().unwrap().string("general.name").unwrap(), Some("model-1.58bit"));
}

#[test]
fn layouts_that_no_file_can_state_are_refused() {
    let out = tempfile::tempdir().unwrap();
    write_gguf(&network(), &out.path().join("first.gguf"));
    let first = open(&out.path().join("first.gguf"));
    let load = LoadOptions::default();
    for encoding in [Encoding::I2S(I2sLayout::Arm), Encoding::HfPacked, Encoding::I8, Encoding::Q4K] {
        let message = Export::plan(&first, &options(Form::Gguf(encoding), &load)).err().unwrap().to_string();
        assert!(message.contains("not written") && message.contains("choose I2_S"), "{message}");
    }
}

// ---- the lossless chain ----------------------------------------------------------------------------------------------

const HIDDEN: usize = 256;
const FFN: usize = 512;
const LAYERS: usize = 2;
const KV: usize = 128;
const VOCAB: usize = 96;

/// A small generator (constants of Knuth's MMIX).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }
    fn uniform(&mut self) -> f32 {
        self.next() as f32 / (1u32 << 30) as f32 - 1.0
    }
}

fn shape(projection: Projection) -> (usize, usize) {
    match projection {
        Projection::Query | Projection::Output => (HIDDEN, HIDDEN),
        Projection::Key | Projection::Value => (KV, HIDDEN),
        Projection::Gate | Projection::Up => (FFN, HIDDEN),
        Projection::Down => (HIDDEN, FFN),
    }
}

/// A random BitNet: dense tensors as f32, projections as codes with a scale that f16 holds.
struct Network {
    dense: Vec<(Role, Vec<usize>, Vec<f32>)>,
    ternary: Vec<(Role, Ternary)>,
}

fn network() -> Network {
    let mut random = Random(1);
    let mut values = |len: usize, middle: f32| (0..len).map(|_| middle + random.uniform() / 2.0).collect::<Vec<_>>();
    // Embeddings that f16 holds, so that the chain need not keep them in F32.
    let table = values(VOCAB * HIDDEN, 0.0).iter().map(|v| (v * 256.0).round() / 256.0).collect();
    let mut dense =
        vec![(Role::Embedding, vec![VOCAB, HIDDEN], table), (Role::FinalNorm, vec![HIDDEN], values(HIDDEN, 1.0))];
    for layer in 0..LAYERS {
        for (role, len) in [
            (BlockRole::AttentionNorm, HIDDEN),
            (BlockRole::AttentionSubNorm, HIDDEN),
            (BlockRole::FfnNorm, HIDDEN),
            (BlockRole::FfnSubNorm, FFN),
        ] {
            dense.push((Role::Block(layer, role), vec![len], values(len, 1.0)));
        }
    }
    let mut ternary = Vec::new();
    for layer in 0..LAYERS {
        for projection in Projection::ALL {
            let (rows, cols) = shape(projection);
            let codes = (0..rows * cols).map(|_| (random.next() % 3) as i8 - 1).collect();
            let scale = half::f16::from_f32(0.05 + random.uniform() / 100.0).to_f32();
            let weights = Ternary { rows, cols, codes, scales: Scales::Tensor(scale) };
            ternary.push((Role::Block(layer, BlockRole::Weight(projection)), weights));
        }
    }
    Network { dense, ternary }
}

fn write_gguf(network: &Network, path: &Path) {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String("bitnet-b1.58".into()));
    for (key, value) in [
        ("context_length", 64),
        ("embedding_length", HIDDEN),
        ("block_count", LAYERS),
        ("feed_forward_length", FFN),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
    ] {
        metadata.set(format!("bitnet-b1.58.{key}"), Value::U32(value as u32));
    }
    metadata.set("bitnet-b1.58.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    metadata.set("bitnet-b1.58.rope.freq_base", Value::F32(500000.0));
    let name = |role| Naming::Gguf.name(role).unwrap();
    let dense = network.dense.iter().map(|(role, shape, values)| {
        let encoding = if shape.len() == 2 { Encoding::F16 } else { Encoding::F32 };
        let (rows, cols) = (values.len() / shape[shape.len() - 1], shape[shape.len() - 1]);
        TensorSource {
            name: name(*role),
            shape: shape.clone(),
            encoding,
            bytes: Box::new(move || encoding.encode(values, rows, cols).map(Into::into)),
        }
    });
    let ternary = network.ternary.iter().map(|(role, weights)| TensorSource {
        name: name(*role),
        shape: vec![weights.rows, weights.cols],
        encoding: I2S,
        bytes: Box::new(move || I2S.encode_ternary(weights).map(Into::into)),
    });
    gguf::write(path, &metadata, dense.chain(ternary).collect(), &mut |_, _| {}, &mut |_| Ok(())).unwrap();
}

/// A Hugging Face directory in packed form, made from a GGUF file alone.
fn write_packed(gguf: &Checkpoint, dir: &Path) {
    let naming = Naming::HuggingFace { model_prefix: true, gemma: false };
    let mut tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (role, ..) in network().dense {
        let tensor = &gguf.tensors[&Naming::Gguf.name(role).unwrap()];
        let dtype = if tensor.encoding == Encoding::F16 { Dtype::F16 } else { Dtype::F32 };
        tensors.insert(naming.name(role).unwrap(), (dtype, tensor.shape.clone(), tensor.bytes.to_vec()));
    }
    for layer in 0..LAYERS {
        for projection in Projection::ALL {
            let (rows, cols) = shape(projection);
            let role = |of: fn(Projection) -> BlockRole| Role::Block(layer, of(projection));
            let tensor = &gguf.tensors[&Naming::Gguf.name(role(BlockRole::Weight)).unwrap()];
            let weights = tensor.encoding.decode_ternary(&tensor.bytes, rows, cols, None).unwrap();
            let packed = Encoding::HfPacked.encode_ternary(&weights).unwrap();
            let scale = weights.tensor_scale().unwrap().to_le_bytes().to_vec();
            tensors.insert(naming.name(role(BlockRole::Weight)).unwrap(), (Dtype::U8, vec![rows / 4, cols], packed));
            tensors.insert(naming.name(role(BlockRole::Scale)).unwrap(), (Dtype::F32, vec![1], scale));
        }
    }
    let views = tensors
        .iter()
        .map(|(n, (dtype, shape, bytes))| (n.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
    let config = serde_json::json!({
        "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "hidden_act": "relu2",
        "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": VOCAB, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "tie_word_embeddings": true,
        "quantization_config":
            {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn the_lossless_chain_keeps_bytes_and_logits() {
    let out = tempfile::tempdir().unwrap();
    let path = |name: &str| out.path().join(name);
    write_gguf(&network(), &path("first.gguf"));
    let first = open(&path("first.gguf"));

    assert_eq!(export(&first, Encoding::Tq2_0, &path("tq2.gguf")), Ok(true));
    assert_eq!(export(&open(&path("tq2.gguf")), Encoding::Tq1_0, &path("tq1.gguf")), Ok(true));
    let packed = path("packed");
    std::fs::create_dir(&packed).unwrap();
    write_packed(&open(&path("tq1.gguf")), &packed);
    assert_eq!(export(&open(&packed), I2S, &path("last.gguf")), Ok(true));

    for stage in ["tq2.gguf", "tq1.gguf", "packed", "last.gguf"] {
        assert_same_logits(&first, &path(stage));
    }
    // Each file is named as the readers of its encoding know it.
    for (stage, name) in [("tq2.gguf", "bitnet"), ("tq1.gguf", "bitnet"), ("last.gguf", "bitnet-b1.58")] {
        let Source::Gguf(metadata) = open(&path(stage)).source else { panic!("{stage} is no GGUF") };
        assert_eq!(metadata.string("general.architecture").unwrap(), Some(name), "{stage}");
        for arch in ["bitnet", "bitnet-b1.58"] {
            assert_eq!(metadata.get(&format!("{arch}.block_count")).is_some(), arch == name, "{stage}");
        }
    }
    let last = open(&path("last.gguf"));
    assert_eq!(first.tensors.len(), last.tensors.len());
    for (name, tensor) in &first.tensors {
        let found = &last.tensors[name];
        assert_eq!((found.encoding, &found.shape), (tensor.encoding, &tensor.shape), "{name}");
        assert!(found.bytes == tensor.bytes, "{name}: other bytes after the chain");
    }
}

#[test]
fn a_damaged_code_changes_the_logits() {
    // The comparison that the other tests rely on can fail.
    let out = tempfile::tempdir().unwrap();
    let mut network = network();
    write_gguf(&network, &out.path().join("a.gguf"));
    let (_, weights) = &mut network.ternary[3];
    weights.codes[..64].iter_mut().for_each(|code| *code = -*code);
    write_gguf(&network, &out.path().join("b.gguf"));
    let likeness = likeness(&open(&out.path().join("a.gguf")), &out.path().join("b.gguf"));
    assert!(!likeness.identical && likeness.largest_difference > 0.0 && likeness.cosine < 1.0, "{likeness:?}");
}

#[test]
fn chosen_embeddings_are_rounded_and_the_plan_says_so() {
    let out = tempfile::tempdir().unwrap();
    write_gguf(&network(), &out.path().join("first.gguf"));
    let first = open(&out.path().join("first.gguf"));
    let load = LoadOptions::default();
    let options = ExportOptions { embedding: Some(Encoding::Q8_0), ..options(Form::Gguf(I2S), &load) };
    let plan = Export::plan(&first, &options).unwrap();
    let table = plan.tensors().iter().find(|t| t.name == "token_embd.weight").unwrap();
    assert!(
        matches!(table.convert(), Ok(Outcome::Rounded { largest_error }) if largest_error > 0.0 && largest_error < 0.01)
    );
    let path = out.path().join("q8.gguf");
    let mut all_exact = None;
    let mut check = |_: &Path, exact| {
        all_exact = Some(exact);
        Ok(())
    };
    plan.write(&path, &mut |_, _| true, &mut check).unwrap();
    assert_eq!(all_exact, Some(false));
    let likeness = likeness(&first, &path);
    assert!(!likeness.identical && likeness.cosine > 0.99, "{likeness:?}");
}

#[test]
fn a_cancelled_export_leaves_the_old_file_and_nothing_else() {
    let out = tempfile::tempdir().unwrap();
    write_gguf(&network(), &out.path().join("first.gguf"));
    let first = open(&out.path().join("first.gguf"));
    let load = LoadOptions::default();
    let options = options(Form::Gguf(I2S), &load);
    let path = out.path().join("second.gguf");
    std::fs::write(&path, "GGUF, old").unwrap();
    let mut heard = 0;
    let mut progress = |_, _| {
        heard += 1;
        heard < 3
    };
    let cancelled = Export::plan(&first, &options).unwrap().write(&path, &mut progress, &mut |_, _| Ok(()));
    assert!(matches!(cancelled, Err(ModelError::Format(FormatError::Cancelled))), "{cancelled:?}");
    assert_eq!(heard, 3, "no tensor was made after the wish");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "GGUF, old");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 2);
}

// ---- Hugging Face directories -------------------------------------------------------------------------------------------

#[test]
fn every_golden_model_gives_the_same_logits_from_a_directory() {
    let Some(dir) = shared("crossval") else { return };
    let out = tempfile::tempdir().unwrap();
    let mut written = Vec::new();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("golden.json").is_file() {
            continue;
        }
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let input = open(&folder);
        for form in [Form::HfFloat, Form::HfPacked] {
            let output = out.path().join(format!("{name}-{form}"));
            match export_as(&input, form, &output) {
                Ok(exact) => {
                    assert!(exact, "{name} {form}");
                    assert_same_logits(&input, &output);
                    written.push(format!("{name} {form}"));
                }
                Err(reasons) => {
                    let known = [
                        "master weights are lost",
                        "not ternary",
                        "choose a GGUF form",
                        "choose hf",
                        "ternary weights without",
                    ];
                    let unknown = reasons.iter().find(|r| !known.iter().any(|k| r.contains(k)));
                    assert_eq!(unknown, None, "{name} {form}");
                    assert!(!output.exists());
                }
            }
        }
    }
    let one = |wanted: &str| assert!(written.iter().any(|name| name == wanted), "{wanted} is not among {written:?}");
    one("bitnet-2b4t-online hf");
    one("bitnet-2b4t-online hf-packed");
    one("bitnet-2b4t-packed hf-packed");
    one("llama-falcon3-packed hf-packed");
    one("llama-dense hf");
    one("qwen3-ternary-online hf-packed");
}

/// Rows of LLaMA's queries and keys lie in another order in GGUF: it is undone on the way back, to the byte.
#[test]
fn from_gguf_back_to_a_directory() {
    let Some(dir) = shared("crossval") else { return };
    let out = tempfile::tempdir().unwrap();
    let path = |name: &str| out.path().join(name);
    for (name, form, gguf) in
        [("llama-falcon3-packed", Form::HfPacked, I2S), ("llama-dense", Form::HfFloat, Encoding::F32)]
    {
        let input = open(&dir.join(name));
        assert_eq!(export(&input, gguf, &path(&format!("{name}.gguf"))), Ok(true));
        assert_eq!(export_as(&open(&path(&format!("{name}.gguf"))), form, &path(name)), Ok(true));
        let back = open(&path(name));
        assert_same_logits(&input, &path(name));
        let query = "model.layers.0.self_attn.q_proj.weight";
        let values = |c: &Checkpoint| match form {
            Form::HfPacked => c.tensors[query].bytes.to_vec(),
            _ => {
                let tensor = &c.tensors[query];
                let (rows, cols) = tensor.matrix();
                let values = tensor.encoding.decode(&tensor.bytes, rows, cols).unwrap();
                values.into_iter().flat_map(f32::to_le_bytes).collect()
            }
        };
        assert!(values(&input) == values(&back), "{name}: {query}");
    }
}

#[test]
fn a_directory_is_not_written_over() {
    let out = tempfile::tempdir().unwrap();
    write_gguf(&network(), &out.path().join("first.gguf"));
    let first = open(&out.path().join("first.gguf"));
    let load = LoadOptions::default();
    let plan = Export::plan(&first, &options(Form::HfPacked, &load)).unwrap();
    assert!(plan.notes().iter().any(|note| note.contains("no tokenizer")));
    let path = out.path().join("packed");
    let refused = plan.write(&path, &mut |_, _| true, &mut |_, _| Err(FormatError::Cancelled));
    assert!(matches!(refused, Err(ModelError::Format(FormatError::Cancelled))) && !path.exists());
    plan.write(&path, &mut |_, _| true, &mut |_, _| Ok(())).unwrap();
    assert_same_logits(&first, &path);
    let again = plan.write(&path, &mut |_, _| true, &mut |_, _| Ok(())).unwrap_err().to_string();
    assert!(again.contains("there already"), "{again}");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 2);
    let q8 = ExportOptions { embedding: Some(Encoding::Q8_0), ..options(Form::HfPacked, &load) };
    assert!(Export::plan(&first, &q8).err().unwrap().to_string().contains("Q8_0"));
    // codes are no master weights
    let float = Export::plan(&first, &options(Form::HfFloat, &load)).err().unwrap().to_string();
    assert!(float.contains("hf-packed"), "{float}");
}

/// A small model that `bitnet train` made, its most likely tokens by transformers (crossval/exported.py) from the directory as it is and
/// from packed codes: ours from every form are the same at every position.
#[test]
fn a_trained_model_gives_the_tokens_of_transformers_in_every_form() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crossval/trained");
    let expected: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap();
    let ids = |value: &serde_json::Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let out = tempfile::tempdir().unwrap();
    let input = open(&dir);
    let mut positions = 0;
    for form in [Form::HfFloat, Form::HfPacked, Form::Gguf(I2S), Form::Gguf(Encoding::F32)] {
        let output = out.path().join(form.to_string());
        assert_eq!(export_as(&input, form, &output), Ok(true));
        let theirs = if form == Form::HfPacked { &expected["hf-packed"] } else { &expected["hf"] };
        let model = Model::load(&open(&output), cpu().unwrap(), &LoadOptions::default()).unwrap();
        let shape =
            StateShape { max_tokens: 64, max_logits: 64, kv_pages: 64 / PAGE_LEN + 1, kv_format: KvFormat::F32 };
        let mut state = model.state(shape).unwrap();
        let pages: Vec<u32> = (0..shape.kv_pages as u32).collect();
        for (sequence, theirs) in expected["ids"].as_array().unwrap().iter().zip(theirs.as_array().unwrap()) {
            let sequence = ids(sequence);
            let mut batch = Batch::default();
            batch.push(0, &sequence, &pages, sequence.len());
            model.forward(&mut state, &batch);
            let mut logits = vec![0.0; sequence.len() * model.config().vocab];
            model.read_logits(&state, &mut logits);
            let best = |row: &[f32]| (0..row.len()).max_by(|&i, &j| row[i].total_cmp(&row[j])).unwrap() as u32;
            let ours: Vec<u32> = logits.chunks(model.config().vocab).map(best).collect();
            assert_eq!(ours, ids(theirs), "{form}");
            positions += ours.len();
        }
    }
    assert!(positions >= 4 * 4 * 60, "{positions}");
}
