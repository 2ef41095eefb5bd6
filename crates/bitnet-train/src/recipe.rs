//! A training run as a TOML file. Everything that decides the result stands in it.

use crate::TrainError;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A whole training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// A Hugging Face directory whose weights and vocabulary the run starts from; without it weights start at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// Trains a side-car of low rank beside the weights of `start`, which stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraRecipe>,
    /// The network.
    pub model: ModelRecipe,
    /// The text.
    pub data: DataRecipe,
    /// The vocabulary.
    #[serde(default)]
    pub tokenizer: TokenizerRecipe,
    /// How weights move.
    pub optimizer: OptimizerRecipe,
    /// How the run is watched.
    #[serde(default)]
    pub run: RunRecipe,
    /// A model that is imitated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherRecipe>,
}

/// LoRA (Hu et al. 2021): `y += B · (A · x) · alpha / rank` beside every projection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraRecipe {
    /// Rows of `A`, columns of `B`.
    pub rank: usize,
    /// Of the scaling.
    pub alpha: f64,
}

/// A teacher: the targets of training are then `(1 − share) · onehot + share · its probabilities` (Hinton et al. 2015).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherRecipe {
    /// A Hugging Face directory with the same vocabulary.
    pub model: PathBuf,
    /// 0 to 1.
    #[serde(default = "half")]
    pub share: f32,
}

/// Shape family of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// BitNet b1.58 2B-4T: relu² gate, a norm inside attention output and feed-forward.
    Bitnet,
    /// LLaMA: silu gate, two norms per block.
    Llama,
}

/// The network's shape. The output head is the embedding table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecipe {
    /// Shape family.
    pub family: Family,
    /// Ternary weights and int8 activations; `false` trains the float twin.
    #[serde(default = "yes")]
    pub ternary: bool,
    /// Channels.
    pub hidden: usize,
    /// Channels of the feed-forward part.
    pub ffn: usize,
    /// Decoder blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Channels per head.
    pub head_dim: usize,
    /// Positions.
    pub context: usize,
    /// Base of the rotary embedding.
    #[serde(default = "rope_theta")]
    pub rope_theta: f32,
}

/// Where the text comes from. Relative paths start at the recipe's directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// What is learned.
    pub train: Vec<Source>,
    /// What is only measured. Its bits per byte choose the best checkpoint.
    pub validation: Vec<Source>,
}

/// A text file: plain, or JSON lines; either may be compressed (`.gz`). In plain text a line `<|endoftext|>` ends a document.
/// A line of JSON has a field `text`, or is a conversation: `messages` (`role`, `content`), or `question` and `answer`, or
/// `instruction`, `input` (may be missing) and `output`. Of a conversation only what the assistant says is learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// How often it is read in each epoch.
    #[serde(default = "once")]
    pub repeat: usize,
}

/// The vocabulary: a file, or a byte-level BPE trained on the training text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerRecipe {
    /// A `tokenizer.json` with the special token `<|endoftext|>`.
    pub file: Option<PathBuf>,
    /// Entries to train when no file is given, special token and bytes included.
    pub vocab: usize,
    /// A Jinja template for conversations, if the model to start from has none or another one is wanted.
    pub chat_template: Option<PathBuf>,
}

impl Default for TokenizerRecipe {
    fn default() -> Self {
        TokenizerRecipe { file: None, vocab: 4096, chat_template: None }
    }
}

/// What moves the projections. Embedding and norms are always moved by AdamW.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// AdamW (Loshchilov and Hutter 2019).
    #[default]
    Adamw,
    /// Muon (Jordan et al. 2024), with updates of AdamW's size: the same rates serve.
    Muon,
}

/// AdamW or Muon in two stages (the BitNet training tips): in the first half the rate falls from `peak_lr`, in the second it
/// starts again at `second_lr` and falls to zero, without weight decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerRecipe {
    /// What moves the projections.
    #[serde(default)]
    pub method: Method,
    /// Optimiser steps of the whole run.
    pub steps: usize,
    /// Sequences per step.
    pub batch: usize,
    /// Parts that a step's sequences are computed in, to save memory.
    #[serde(default = "once")]
    pub accumulate: usize,
    /// Largest learning rate.
    pub peak_lr: f64,
    /// Learning rate at the start of the second stage.
    pub second_lr: f64,
    /// Steps over which the rate rises from zero.
    #[serde(default)]
    pub warmup: usize,
    /// Weight decay of matrices in the first stage.
    #[serde(default = "weight_decay")]
    pub weight_decay: f64,
    /// Decay of the gradient's mean.
    #[serde(default = "beta1")]
    pub beta1: f64,
    /// Decay of the gradient's mean square.
    #[serde(default = "beta2")]
    pub beta2: f64,
    /// The gradient's norm is cut to this.
    #[serde(default = "clip")]
    pub clip: f64,
    /// Steps over which quantisation fades in; 0 quantises from the first step on (right when weights start at random).
    #[serde(default)]
    pub quantization_warmup: usize,
    /// Decay per step of a running mean of the weights, which is then what is measured and exported; 0 = none.
    #[serde(default)]
    pub average: f64,
}

/// Seed, and how the run is watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunRecipe {
    /// Decides first weights and the order of the data.
    pub seed: u64,
    /// Steps between validations; also after the last step.
    pub validate_every: usize,
    /// Steps between checkpoints; also after the last step.
    pub checkpoint_every: usize,
    /// Ends the run when so many validations in a row brought nothing better; 0 = never.
    pub patience: usize,
    /// Beginnings of texts that `bitnet train` continues and shows whenever there is a better model.
    pub samples: Vec<String>,
}

impl Default for RunRecipe {
    fn default() -> Self {
        RunRecipe { seed: 42, validate_every: 250, checkpoint_every: 250, patience: 0, samples: Vec::new() }
    }
}

fn yes() -> bool {
    true
}
fn once() -> usize {
    1
}
fn half() -> f32 {
    0.5
}
fn rope_theta() -> f32 {
    10_000.0
}
fn weight_decay() -> f64 {
    0.1
}
fn beta1() -> f64 {
    0.9
}
fn beta2() -> f64 {
    0.95
}
fn clip() -> f64 {
    1.0
}

/// Sizes above this are taken for a slip of the pen.
const MAX_SIZE: usize = 1 << 20;

impl Recipe {
    /// Reads and checks a recipe; its relative paths become relative to where the recipe lies.
    ///
    /// # Errors
    /// Unreadable file, no TOML, unknown or missing keys, impossible values.
    pub fn read(path: &Path) -> Result<Recipe, TrainError> {
        let text = std::fs::read_to_string(path).map_err(TrainError::file(path))?;
        let mut recipe: Recipe =
            toml::from_str(&text).map_err(|e| TrainError::Recipe(format!("{}: {e}", path.display())))?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let sources = recipe.data.train.iter_mut().chain(&mut recipe.data.validation).map(|source| &mut source.path);
        let tokenizer = recipe.tokenizer.file.iter_mut().chain(&mut recipe.tokenizer.chat_template);
        let models = recipe.start.iter_mut().chain(recipe.teacher.as_mut().map(|teacher| &mut teacher.model));
        for path in sources.chain(tokenizer).chain(models) {
            *path = dir.join(&path);
        }
        recipe.check()?;
        Ok(recipe)
    }

    /// Refuses what cannot be trained.
    ///
    /// # Errors
    /// [`TrainError::Recipe`] that names the key.
    pub fn check(&self) -> Result<(), TrainError> {
        let refuse = |reason: String| Err(TrainError::Recipe(reason));
        let m = &self.model;
        for (key, size) in [
            ("model.hidden", m.hidden),
            ("model.ffn", m.ffn),
            ("model.layers", m.layers),
            ("model.heads", m.heads),
            ("model.kv_heads", m.kv_heads),
            ("model.head_dim", m.head_dim),
            ("model.context", m.context),
            ("optimizer.batch", self.optimizer.batch),
            ("optimizer.accumulate", self.optimizer.accumulate),
            ("run.validate_every", self.run.validate_every),
            ("run.checkpoint_every", self.run.checkpoint_every),
        ] {
            if size == 0 || size > MAX_SIZE {
                return refuse(format!("{key} = {size}; expected 1 to {MAX_SIZE}"));
            }
        }
        if self.optimizer.steps == 0 {
            return refuse("optimizer.steps = 0; expected at least 1".into());
        }
        if !m.heads.is_multiple_of(m.kv_heads) {
            return refuse(format!("model.heads = {} is not a multiple of model.kv_heads = {}", m.heads, m.kv_heads));
        }
        if !m.head_dim.is_multiple_of(2) {
            return refuse(format!("model.head_dim = {} is odd; rotary pairs need an even one", m.head_dim));
        }
        if m.context < 2 {
            return refuse("model.context = 1 leaves nothing to predict; expected at least 2".into());
        }
        if !self.optimizer.batch.is_multiple_of(self.optimizer.accumulate) {
            return refuse(format!(
                "optimizer.batch = {} cannot be cut into optimizer.accumulate = {} equal parts",
                self.optimizer.batch, self.optimizer.accumulate
            ));
        }
        let o = &self.optimizer;
        for (key, value, least, most) in [
            ("model.rope_theta", f64::from(m.rope_theta), 1.0, 1e12),
            ("optimizer.peak_lr", o.peak_lr, 0.0, 10.0),
            ("optimizer.second_lr", o.second_lr, 0.0, 10.0),
            ("optimizer.weight_decay", o.weight_decay, 0.0, 10.0),
            ("optimizer.beta1", o.beta1, 0.0, 0.999_999),
            ("optimizer.beta2", o.beta2, 0.0, 0.999_999),
            ("optimizer.clip", o.clip, 1e-6, 1e6),
            ("optimizer.average", o.average, 0.0, 0.999_999),
        ] {
            if !(least..=most).contains(&value) {
                return refuse(format!("{key} = {value}; expected {least} to {most}"));
            }
        }
        if let Some(share) =
            self.teacher.as_ref().map(|teacher| teacher.share).filter(|share| !(0.0..=1.0).contains(share))
        {
            return refuse(format!("teacher.share = {share}; expected 0 to 1"));
        }
        if let Some(LoraRecipe { rank, alpha }) = self.lora {
            let widest = m.hidden.max(m.ffn);
            if rank == 0 || rank > widest {
                return refuse(format!("lora.rank = {rank}; expected 1 to the network's width {widest}"));
            }
            if !(alpha > 0.0 && alpha <= 1e6) {
                return refuse(format!("lora.alpha = {alpha}; expected above 0, to 1e6"));
            }
            if self.start.is_none() || o.method != Method::Adamw || o.quantization_warmup > 0 {
                return refuse("lora needs a model in start that stays as it is, and method = \"adamw\"".into());
            }
        }
        if self.start.is_some() && self.tokenizer.file.is_some() {
            return refuse("tokenizer.file is given, but the vocabulary is that of the model in start".into());
        }
        if self.start.is_none() && self.tokenizer.file.is_none() && !(257..=MAX_SIZE).contains(&self.tokenizer.vocab) {
            let vocab = self.tokenizer.vocab;
            return refuse(format!("tokenizer.vocab = {vocab}; 256 bytes and the end of text need at least 257"));
        }
        for (key, sources) in [("data.train", &self.data.train), ("data.validation", &self.data.validation)] {
            if sources.is_empty() {
                return refuse(format!("{key} is empty"));
            }
            if let Some(source) = sources.iter().find(|source| source.repeat == 0 || source.repeat > MAX_SIZE) {
                return refuse(format!("{key}: repeat = {} of {}", source.repeat, source.path.display()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) const SMALL: &str = r#"
[model]
family = "bitnet"
hidden = 32
ffn = 64
layers = 2
heads = 4
kv_heads = 2
head_dim = 8
context = 16
[data]
train = [{ path = "a.txt" }, { path = "b.txt", repeat = 3 }]
validation = [{ path = "c.txt" }]
[optimizer]
steps = 10
batch = 4
peak_lr = 1e-3
second_lr = 5e-4
"#;

    #[test]
    fn defaults_are_those_of_the_paper() {
        let recipe: Recipe = toml::from_str(SMALL).unwrap();
        recipe.check().unwrap();
        let o = &recipe.optimizer;
        assert_eq!((o.beta1, o.beta2, o.weight_decay), (0.9, 0.95, 0.1));
        assert!(recipe.model.ternary);
        assert_eq!(recipe.data.train[1].repeat, 3);
    }

    #[test]
    fn paths_start_at_the_recipe() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recipe.toml");
        std::fs::write(&path, SMALL).unwrap();
        assert_eq!(Recipe::read(&path).unwrap().data.validation[0].path, dir.path().join("c.txt"));
    }

    #[test]
    fn what_cannot_be_trained_is_refused_by_key() {
        let refused = |from: &str, to: &str| {
            assert!(SMALL.contains(from));
            let text = SMALL.replace(from, to);
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("recipe.toml");
            std::fs::write(&path, text).unwrap();
            Recipe::read(&path).unwrap_err().to_string()
        };
        assert!(refused("hidden = 32", "hidden = 32\nhiden = 1").contains("hiden"));
        assert!(refused("hidden = 32\n", "").contains("hidden"));
        assert!(refused("kv_heads = 2", "kv_heads = 3").contains("kv_heads = 3"));
        assert!(refused("head_dim = 8", "head_dim = 7").contains("head_dim = 7"));
        assert!(refused("layers = 2", "layers = 0").contains("model.layers = 0"));
        assert!(refused("peak_lr = 1e-3", "peak_lr = nan").contains("peak_lr"));
        assert!(
            refused("train = [{ path = \"a.txt\" }, { path = \"b.txt\", repeat = 3 }]", "train = []")
                .contains("data.train")
        );
        assert!(refused("family = \"bitnet\"", "family = \"gpt\"").contains("gpt"));
    }
}
