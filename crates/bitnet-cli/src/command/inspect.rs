//! `bitnet inspect`: what is in a model file and what running it will take.

use crate::console::Console;
use crate::model_args::{KvArgs, LoadArgs, ModelPath, positive};
use crate::numbers;
use bitnet::formats::gguf::{Array, Value};
use bitnet::formats::{Checkpoint, Source, Tensor};
use bitnet::kernels::Activation;
use bitnet::models::{Activations, Config, MemoryPlan, Pooling};
use bitnet::{EngineOptions, InferenceError};
use clap::Args;
use serde_json::json;
use std::io::{self, Write};

/// Show metadata, tensors, the network found, and the memory it needs
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    model: ModelPath,
    /// Plan memory for this context length [default: the model's, at most 4096]
    #[arg(long, short, value_name = "N", value_parser = positive)]
    context: Option<usize>,
    #[command(flatten)]
    kv: KvArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Longer arrays and strings of metadata are shortened.
const SHOWN_ITEMS: usize = 8;
const SHOWN_CHARS: usize = 100;

/// The network in the file and what an engine for it will take.
struct Network {
    config: Config,
    notes: Vec<String>,
    context: usize,
    plan: MemoryPlan,
}

pub(crate) fn run(args: &InspectArgs, console: &Console) -> anyhow::Result<()> {
    let checkpoint = args.model.checkpoint(&args.load, console)?;
    let tensors = in_reading_order(&checkpoint);
    let metadata = metadata(&checkpoint.source);
    let total: u64 = tensors.iter().map(|t| t.bytes.len() as u64).sum();
    let network = network(args, &checkpoint);
    let mut out = io::stdout().lock();
    if args.json {
        let (network, memory, notes, refusal) = match &network {
            Ok(n) => (config_json(&n.config), memory_json(n), n.notes.as_slice(), None),
            Err(error) => (json!(null), json!(null), &[][..], Some(error.to_string())),
        };
        let tensor = |t: &&Tensor| json!({ "name": t.name, "shape": t.shape, "encoding": t.encoding.name(), "bytes": t.bytes.len() });
        let report = json!({
            "model": args.model.name(),
            "container": container(&checkpoint.source),
            "network": network,
            "no_network": refusal,
            "memory": memory,
            "notes": notes,
            "metadata": metadata.into_iter().collect::<serde_json::Map<_, _>>(),
            "tensor_bytes": total,
            "tensors": tensors.iter().map(tensor).collect::<Vec<_>>(),
        });
        writeln!(out, "{report}")?;
        return Ok(out.flush()?);
    }
    writeln!(out, "{}: {}", args.model.name(), container(&checkpoint.source))?;
    match &network {
        Ok(network) => describe(network, &mut out)?,
        Err(error) => writeln!(out, "\nno network to run: {error}")?,
    }
    writeln!(out, "\nmetadata ({})", metadata.len())?;
    for (key, value) in &metadata {
        writeln!(out, "  {key} = {}", shorten(value))?;
    }
    writeln!(out, "\ntensors ({}, {})", tensors.len(), numbers::bytes(total))?;
    let width = tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
    for t in &tensors {
        let shape: Vec<String> = t.shape.iter().map(usize::to_string).collect();
        let size = numbers::bytes(t.bytes.len() as u64);
        writeln!(out, "  {:<width$}  {:>14}  {:<8} {size}", t.name, shape.join(" × "), t.encoding)?;
    }
    Ok(out.flush()?)
}

fn network(args: &InspectArgs, checkpoint: &Checkpoint) -> Result<Network, InferenceError> {
    let load = args.load.options();
    let (config, notes) = Config::read(checkpoint, &load)?;
    let options = EngineOptions { context: args.context, kv_format: args.kv.format, ..EngineOptions::default() };
    let (context, shape) = options.working_shape(config.context)?;
    let plan = MemoryPlan::of(checkpoint, &load, shape)?;
    Ok(Network { config, notes, context, plan })
}

fn config_json(c: &Config) -> serde_json::Value {
    json!({
        "architecture": c.architecture,
        "name": c.name,
        "hidden": c.hidden,
        "ffn": c.ffn,
        "layers": c.layers,
        "heads": c.heads,
        "kv_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "vocab": c.vocab,
        "context": c.context,
        "norm_eps": float(c.norm_eps),
        "rope_theta": float(c.rope_theta),
        "activation": activation(c),
        "activations": activations(c),
        "tied_head": c.tied_head,
        "pooling": c.pooling.map(pooling),
    })
}

fn memory_json(n: &Network) -> serde_json::Value {
    json!({
        "context": n.context,
        "mapped_weight_bytes": n.plan.mapped_weights,
        "owned_weight_bytes": n.plan.owned_weights,
        "kv_bytes": n.plan.kv,
        "activation_bytes": n.plan.activations,
        "total_bytes": n.plan.total(),
    })
}

fn describe(network: &Network, out: &mut impl Write) -> io::Result<()> {
    let Network { config: c, notes, context, plan } = network;
    let name = c.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    writeln!(out, "\nnetwork: {}{name}", c.architecture)?;
    writeln!(out, "  {} blocks, hidden {}, feed-forward {} ({})", c.layers, c.hidden, c.ffn, activation(c))?;
    writeln!(out, "  {} query heads, {} key/value heads, {} channels per head", c.heads, c.kv_heads, c.head_dim)?;
    let head = if c.tied_head { "the embedding is the output head" } else { "separate output head" };
    writeln!(out, "  vocabulary {}, trained context {}, {head}", c.vocab, c.context)?;
    writeln!(out, "  layers are fed with {} activations", activations(c))?;
    if let Some(p) = c.pooling {
        writeln!(out, "  embedding model, pooling: {}", pooling(p))?;
    }
    writeln!(out, "\nmemory for a context of {context}")?;
    for (what, bytes) in [
        ("weights in the map", plan.mapped_weights),
        ("weights converted at load", plan.owned_weights),
        ("keys and values", plan.kv),
        ("activations", plan.activations),
        ("sum", plan.total()),
    ] {
        writeln!(out, "  {what:<26} {:>9}", numbers::bytes(bytes))?;
    }
    if !notes.is_empty() {
        writeln!(out, "\nnotes")?;
        notes.iter().try_for_each(|note| writeln!(out, "  {note}"))?;
    }
    Ok(())
}

fn activation(c: &Config) -> &'static str {
    match c.activation {
        Activation::Relu2 => "relu2",
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu",
    }
}

fn activations(c: &Config) -> &'static str {
    match c.activations {
        Activations::Int8 => "int8",
        Activations::Float => "float",
    }
}

fn pooling(p: Pooling) -> &'static str {
    match p {
        Pooling::Last => "last token",
        Pooling::Mean => "mean",
    }
}

fn container(source: &Source) -> String {
    match source {
        Source::Gguf(metadata) => format!("GGUF version {}", metadata.version),
        Source::HuggingFace(_) => "Hugging Face directory".into(),
        Source::Llama2c(header) => format!("llama2.c version {}", header.version),
    }
}

/// Every key with its value as JSON; arrays that are long stand as their type and length.
fn metadata(source: &Source) -> Vec<(String, serde_json::Value)> {
    match source {
        Source::Gguf(metadata) => metadata.entries().iter().map(|(k, v)| (k.clone(), value(v))).collect(),
        Source::HuggingFace(hf) => match &hf.config {
            serde_json::Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            other => vec![("config.json".into(), other.clone())],
        },
        Source::Llama2c(h) => [
            ("dim", h.dim),
            ("hidden_dim", h.hidden_dim),
            ("n_layers", h.n_layers),
            ("n_heads", h.n_heads),
            ("n_kv_heads", h.n_kv_heads),
            ("vocab_size", h.vocab_size),
            ("seq_len", h.seq_len),
        ]
        .into_iter()
        .map(|(key, n)| (key.to_owned(), json!(n)))
        .chain([("shared_classifier".to_owned(), json!(h.shared_classifier))])
        .collect(),
    }
}

fn value(value: &Value) -> serde_json::Value {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::F32(v) => float(*v),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::Array(array) => match array {
            Array::U8(v) => list("u8", v.iter(), |v| json!(v)),
            Array::I8(v) => list("i8", v.iter(), |v| json!(v)),
            Array::U16(v) => list("u16", v.iter(), |v| json!(v)),
            Array::I16(v) => list("i16", v.iter(), |v| json!(v)),
            Array::U32(v) => list("u32", v.iter(), |v| json!(v)),
            Array::I32(v) => list("i32", v.iter(), |v| json!(v)),
            Array::F32(v) => list("f32", v.iter(), |v| float(*v)),
            Array::Bool(v) => list("bool", v.iter(), |v| json!(v)),
            Array::String(v) => list("string", v.iter(), |v| json!(v)),
            Array::U64(v) => list("u64", v.iter(), |v| json!(v)),
            Array::I64(v) => list("i64", v.iter(), |v| json!(v)),
            Array::F64(v) => list("f64", v.iter(), |v| json!(v)),
        },
    }
}

/// The shortest decimal that reads back as the same f32 (1e-5, not 0.000009999999747378752).
fn float(v: f32) -> serde_json::Value {
    json!(v.to_string().parse::<f64>().unwrap_or(f64::from(v)))
}

fn list<T>(
    kind: &str,
    items: impl ExactSizeIterator<Item = T>,
    each: impl Fn(T) -> serde_json::Value,
) -> serde_json::Value {
    if items.len() > SHOWN_ITEMS {
        json!({ "array_of": kind, "length": items.len() })
    } else {
        items.map(each).collect()
    }
}

/// One line for people.
fn shorten(value: &serde_json::Value) -> String {
    if let (Some(kind), Some(length)) = (value["array_of"].as_str(), value["length"].as_u64()) {
        return format!("[{length} × {kind}]");
    }
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}… ({} characters)", &text[..end], text.chars().count()),
        None => text,
    }
}

/// Names sorted with their numbers as numbers: `blk.2` before `blk.10`.
fn in_reading_order(checkpoint: &Checkpoint) -> Vec<&Tensor> {
    let mut tensors: Vec<&Tensor> = checkpoint.tensors.values().collect();
    tensors
        .sort_by_cached_key(|t| t.name.split('.').map(|p| (p.parse::<u64>().ok(), p.to_owned())).collect::<Vec<_>>());
    tensors
}
