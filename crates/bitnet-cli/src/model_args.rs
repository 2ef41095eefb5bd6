//! Which model, and how it is read and run.

use crate::console::Console;
use crate::perf_track;
use anyhow::Context;
use bitnet::formats::{I2sLayout, OpenOptions, TileParams};
use bitnet::kernels::{Activation, Isa};
use bitnet::models::Activations;
use bitnet::{Checkpoint, Engine, EngineOptions, KvFormat, LoadOptions, Tokenizer};
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// The model and its tokenizer.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelPath {
    /// GGUF file, Hugging Face directory, llama2.c .bin, or name of a pulled model [default: the embedded story model]
    #[arg(long, short, value_name = "PATH", value_parser = pulled(), help_heading = "Model")]
    pub(crate) model: Option<PathBuf>,
    /// Another tokenizer: tokenizer.json, SentencePiece or tiktoken file, llama2.c tok*.bin, GGUF or directory
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub(crate) tokenizer: Option<PathBuf>,
}

/// Overrides of how weights are read; the defaults follow the file.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Reading the weights (only when the file is wrong about itself)")]
pub(crate) struct LoadArgs {
    /// Layout of I2_S tensors
    #[arg(long, value_name = "LAYOUT")]
    i2s_layout: Option<LayoutArg>,
    /// What ternary layers are fed with
    #[arg(long, value_name = "KIND")]
    activations: Option<ActivationsArg>,
    /// Non-linearity of the feed-forward gate
    #[arg(long, value_name = "NAME")]
    activation: Option<ActivationArg>,
    /// Direction of Hugging Face weight scales: code × scale or code / scale
    #[arg(long, value_name = "DIRECTION")]
    scale: Option<ScaleArg>,
    /// Tile parameters of TL1 and TL2 tensors of M × K weights, which the file does not hold (repeatable)
    #[arg(long, value_name = "MxK=BM,BK,bm", value_parser = tile)]
    tile: Vec<((usize, usize), TileParams)>,
}

/// How the past is kept.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct KvArgs {
    /// What keys and values are cached as: f32, f16 (half the memory) or int8 (about a quarter) [default: f32]
    #[arg(long = "kv", value_name = "FORMAT", default_value_t, hide_default_value = true, help_heading = "Model")]
    pub(crate) format: KvFormat,
}

/// A model that guesses for another.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct DraftArgs {
    /// Smaller model with the same vocabulary that guesses ahead what the model then checks: the same text, sooner where
    /// it guesses well
    #[arg(long, value_name = "PATH", value_parser = pulled(), help_heading = "Model")]
    pub(crate) draft: Option<PathBuf>,
    /// Tokens that it guesses at a time, 1 to 8 [default: as many as pay]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Model")]
    draft_tokens: Option<usize>,
}

impl DraftArgs {
    /// The options with this draft model.
    pub(crate) fn beside(&self, options: EngineOptions) -> EngineOptions {
        EngineOptions { draft: self.draft.clone(), draft_tokens: self.draft_tokens, ..options }
    }
}

/// A model's files, and how they are read.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelFiles {
    #[command(flatten)]
    pub(crate) path: ModelPath,
    /// LoRA side-car to compute beside the weights: a directory with adapter_model.safetensors and adapter_config.json
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub(crate) lora: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// How much is computed at a time, and with what.
#[derive(Args, Clone, Debug)]
pub(crate) struct ComputeArgs {
    /// Context length in tokens [default: the model's, at most 4096]
    #[arg(long, short, value_name = "N", value_parser = positive, help_heading = "Model")]
    pub(crate) context: Option<usize>,
    /// Threads [default: RAYON_NUM_THREADS, or one per core]
    #[arg(long, short, value_name = "N", value_parser = positive, help_heading = "Model")]
    pub(crate) threads: Option<usize>,
    /// Use at most this instruction set (see `bitnet doctor`) [default: BITNET_ISA, or the best]
    #[arg(long, value_name = "TIER", help_heading = "Model")]
    pub(crate) isa: Option<Isa>,
    #[command(flatten)]
    pub(crate) kv: KvArgs,
}

/// Everything needed to run a model.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelArgs {
    #[command(flatten)]
    pub(crate) files: ModelFiles,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LayoutArg {
    /// 128-element blocks, as published
    X86,
    /// 64-element blocks of ARM builds
    Arm,
    /// Four rows interleaved
    Rows4,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ActivationsArg {
    /// Per-token int8, as BitNet models are trained
    Int8,
    /// Floats
    Float,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ActivationArg {
    Relu2,
    Silu,
    Gelu,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum ScaleArg {
    /// weight = code × scale
    Direct,
    /// weight = code / scale
    Inverse,
}

fn pulled() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().map(found)
}

/// Takes the name of a pulled model for its path. What lies in the way of a path is the path; the network is not asked.
pub(crate) fn found(path: PathBuf) -> PathBuf {
    #[cfg(feature = "pull")]
    if !path.exists()
        && let Some(Ok(location)) = path.to_str().map(str::parse::<bitnet_hub::Location>)
        && let Some(found) = bitnet_hub::Cache::from_env().ok().and_then(|cache| cache.find(&location))
    {
        return found;
    }
    path
}

/// A whole number above zero.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(error) => Err(format!("{error}")),
    }
}

/// `1536x4096=256,128,32`.
fn tile(text: &str) -> Result<((usize, usize), TileParams), String> {
    let wrong = || "expected MxK=BM,BK,bm, for example 1536x4096=256,128,32".to_owned();
    let (shape, params) = text.split_once('=').ok_or_else(wrong)?;
    let (m, k) = shape.split_once('x').ok_or_else(wrong)?;
    let shape = (m.parse().map_err(|_| wrong())?, k.parse().map_err(|_| wrong())?);
    let params: Vec<u32> = params.split(',').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
    let [bm_tile, bk_tile, bm] = params[..] else { return Err(wrong()) };
    Ok((shape, TileParams { bm_tile, bk_tile, bm }))
}

impl LoadArgs {
    /// For opening the file.
    fn open_options(&self) -> OpenOptions {
        OpenOptions {
            i2s_layout: self.options().i2s_layout.unwrap_or_default(),
            tile_params: self.tile.iter().copied().collect(),
        }
    }

    /// The options given, as they stand on a command line.
    pub(crate) fn given(&self) -> Vec<String> {
        let name = |value: Option<clap::builder::PossibleValue>| value.map(|v| v.get_name().to_owned());
        let named = [
            ("--i2s-layout", self.i2s_layout.and_then(|v| name(v.to_possible_value()))),
            ("--activations", self.activations.and_then(|v| name(v.to_possible_value()))),
            ("--activation", self.activation.and_then(|v| name(v.to_possible_value()))),
            ("--scale", self.scale.and_then(|v| name(v.to_possible_value()))),
        ];
        let tile =
            |((m, k), p): &((usize, usize), TileParams)| format!("--tile {m}x{k}={},{},{}", p.bm_tile, p.bk_tile, p.bm);
        let named = named.into_iter().filter_map(|(option, value)| value.map(|value| format!("{option} {value}")));
        named.chain(self.tile.iter().map(tile)).collect()
    }

    /// For reading the weights.
    pub(crate) fn options(&self) -> LoadOptions {
        LoadOptions {
            i2s_layout: self.i2s_layout.map(|l| match l {
                LayoutArg::X86 => I2sLayout::X86,
                LayoutArg::Arm => I2sLayout::Arm,
                LayoutArg::Rows4 => I2sLayout::Rows4,
            }),
            activations: self.activations.map(|a| match a {
                ActivationsArg::Int8 => Activations::Int8,
                ActivationsArg::Float => Activations::Float,
            }),
            activation: self.activation.map(|a| match a {
                ActivationArg::Relu2 => Activation::Relu2,
                ActivationArg::Silu => Activation::Silu,
                ActivationArg::Gelu => Activation::GeluTanh,
            }),
            inverse_scale: self.scale.map(|s| s == ScaleArg::Inverse),
            ..LoadOptions::default()
        }
    }
}

impl ModelPath {
    /// What to call the model in messages.
    pub(crate) fn name(&self) -> String {
        match &self.model {
            Some(path) => path.display().to_string(),
            None => "the embedded story model".into(),
        }
    }

    /// Opens the model file.
    pub(crate) fn checkpoint(&self, load: &LoadArgs, console: &Console) -> anyhow::Result<Checkpoint> {
        match &self.model {
            Some(path) => Ok(Checkpoint::open_with(path, &load.open_options())?),
            None => default_checkpoint(console),
        }
    }

    /// The tokenizer alone: weights are not read.
    pub(crate) fn tokenizer(&self, console: &Console) -> anyhow::Result<Tokenizer> {
        let tokenizer = match (&self.tokenizer, &self.model) {
            (Some(path), _) => Tokenizer::open(path)?,
            (None, Some(path)) => match Checkpoint::open(path) {
                Ok(model) => Tokenizer::from_checkpoint(&model)?,
                Err(_) => Tokenizer::open(path)?, // a tokenizer file, or a directory without weights
            },
            (None, None) => Tokenizer::from_checkpoint(&default_checkpoint(console)?)?,
        };
        tokenizer.notes().iter().for_each(|note| console.note(note));
        Ok(tokenizer)
    }
}

impl ModelFiles {
    /// For reading the weights.
    pub(crate) fn load_options(&self) -> LoadOptions {
        LoadOptions { lora: self.lora.clone(), ..self.load.options() }
    }

    /// Opens the model file.
    pub(crate) fn checkpoint(&self, console: &Console) -> anyhow::Result<Checkpoint> {
        self.path.checkpoint(&self.load, console)
    }
}

impl ComputeArgs {
    /// The options of an engine for these files.
    pub(crate) fn options(&self, files: &ModelFiles) -> EngineOptions {
        EngineOptions {
            context: self.context,
            kv_format: self.kv.format,
            threads: self.threads,
            isa: self.isa.map(|isa| isa.to_string()),
            tokenizer: files.path.tokenizer.clone(),
            load: files.load_options(),
            ..EngineOptions::default()
        }
    }
}

impl ModelArgs {
    pub(crate) fn options(&self) -> EngineOptions {
        self.compute.options(&self.files)
    }

    /// Loads the model.
    pub(crate) fn engine(&self, console: &Console) -> anyhow::Result<Engine> {
        load_engine(&self.files.path, &self.files.load, self.options(), console)
    }

    /// Loads the model and its draft model.
    pub(crate) fn engine_with(&self, draft: &DraftArgs, console: &Console) -> anyhow::Result<Engine> {
        load_engine(&self.files.path, &self.files.load, draft.beside(self.options()), console)
    }
}

/// Loads a model and passes on what it has to say about its file.
pub(crate) fn load_engine(
    path: &ModelPath,
    load: &LoadArgs,
    options: EngineOptions,
    console: &Console,
) -> anyhow::Result<Engine> {
    engine_of(&path.checkpoint(load, console)?, path, options, console)
}

/// As [`load_engine`], from an opened file.
pub(crate) fn engine_of(
    checkpoint: &Checkpoint,
    path: &ModelPath,
    options: EngineOptions,
    console: &Console,
) -> anyhow::Result<Engine> {
    let engine =
        Engine::from_checkpoint(checkpoint, options).with_context(|| format!("cannot load {}", path.name()))?;
    let tokenizer = engine.tokenizer().map_or(&[][..], Tokenizer::notes);
    engine.tracker().into_iter().for_each(|tracker| perf_track::keep(tracker, engine.load_time()));
    engine.model().notes().iter().chain(tokenizer).for_each(|note| console.note(note));
    let draft = engine.draft().map_or(&[][..], |draft| draft.model().notes());
    draft.iter().for_each(|note| console.note(format!("draft model: {note}")));
    Ok(engine)
}

/// The model inside this program, for when none is given.
#[cfg(feature = "default-model")]
fn default_checkpoint(console: &Console) -> anyhow::Result<Checkpoint> {
    console.note(
        "no --model given: the embedded story model answers (7.35 million parameters); --model PATH runs another",
    );
    Checkpoint::from_gguf_bytes(bitnet::default_model().into()).context("the embedded model")
}

/// Built without a model inside.
#[cfg(not(feature = "default-model"))]
fn default_checkpoint(_: &Console) -> anyhow::Result<Checkpoint> {
    anyhow::bail!("no model: give one with --model PATH (this program was built without the embedded one)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_parse() {
        let params = TileParams { bm_tile: 256, bk_tile: 128, bm: 32 };
        assert_eq!(tile("1536x4096=256,128,32"), Ok(((1536, 4096), params)));
        for wrong in ["1536x4096", "1536=1,2,3", "1x2=1,2", "1x2=1,2,3,4", "ax2=1,2,3"] {
            assert!(tile(wrong).is_err(), "{wrong}");
        }
        assert!(positive("0").is_err() && positive("x").is_err() && positive("-1").is_err());
    }
}
