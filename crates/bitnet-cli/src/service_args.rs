//! The model as many requests share it.

use crate::chat_prompt;
use crate::console::Console;
use crate::model_args::{DraftArgs, LoadArgs, ModelArgs, ModelPath, engine_of, found, positive};
use crate::numbers;
use anyhow::Context;
use bitnet::kernels::PAGE_LEN;
use bitnet::models::Config;
use bitnet::{ChatTemplate, Engine, EngineOptions, Tokenizer};
use bitnet_server::{NamedModel, Opened};
use clap::Args;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// A model for many requests at a time.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServiceArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pub(crate) draft: DraftArgs,
    /// Name of the model in requests and answers [default: its file name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Jinja chat template to use instead of the model's
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// Requests that are computed together
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive)]
    pub(crate) parallel: usize,
    /// Tokens of the KV cache that all requests share [default: twice the context]
    #[arg(long, value_name = "N", value_parser = positive)]
    kv_tokens: Option<usize>,
    /// Prompt tokens that are read between two tokens of an answer, at most; of one prompt never more than 64 [default: 256]
    #[arg(long, value_name = "N", value_parser = positive)]
    chunk: Option<usize>,
}

/// One more model, and what it is called.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Also {
    name: Option<String>,
    path: PathBuf,
}

/// What is known of a model that is not open.
struct Seen {
    bytes: u64,
    context: usize,
    chat: bool,
}

/// `NAME=PATH`, or a path.
impl FromStr for Also {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("", _) | (_, "")) => Err("expected NAME=PATH or a path".into()),
            Some((name, path)) if !Path::new(text).exists() => {
                Ok(Also { name: Some(name.to_owned()), path: found(path.into()) })
            }
            _ => Ok(Also { name: None, path: found(text.into()) }),
        }
    }
}

impl ServiceArgs {
    /// Loads the model.
    pub(crate) fn engine(&self, console: &Console) -> anyhow::Result<Engine> {
        let checkpoint = self.model.path.checkpoint(&self.model.load, console)?;
        let options = self.options(&Config::read(&checkpoint, &self.model.options().load)?.0)?;
        engine_of(&checkpoint, &self.model.path, options, console)
    }

    fn options(&self, config: &Config) -> anyhow::Result<EngineOptions> {
        let mut options = self.draft.beside(self.model.options());
        options.sequences = Some(self.parallel);
        options.chunk = self.chunk;
        let context = options.working_shape(config.context)?.0;
        let kv_tokens = self.kv_tokens.unwrap_or(context.saturating_mul(2));
        // one more, to copy a shared page to
        Ok(EngineOptions { kv_pages: Some(kv_tokens.div_ceil(PAGE_LEN).saturating_add(1)), ..options })
    }

    /// The same for another model. What is said about one file (tokenizer, side-car, draft, layout, template,
    /// name) is the first's.
    pub(crate) fn also(&self, Also { name, path }: &Also) -> Self {
        let mut other = self.clone();
        other.model.path = ModelPath { model: Some(path.clone()), tokenizer: None };
        other.model.lora = None;
        other.draft = DraftArgs::default();
        other.model.load = LoadArgs::default();
        (other.name, other.template) = (name.clone(), None);
        other
    }

    /// What the server has to know of a model that it opens later.
    pub(crate) fn named(self, console: &Console) -> anyhow::Result<NamedModel> {
        let seen = self.look(console).with_context(|| format!("cannot serve {}", self.model.path.name()))?;
        let Seen { bytes, context, chat } = seen;
        let (name, parallel) = (self.name(), self.parallel);
        // what there is to say about a model is said when it is opened
        let (again, to_check, to_open) = (self.clone(), console.clone(), console.clone());
        let check = move || {
            let now = again.look(&to_check)?.bytes;
            let (takes, took) = (numbers::bytes(now), numbers::bytes(bytes));
            anyhow::ensure!(now <= bytes, "it takes {takes} now, {took} when the server started: start it again");
            Ok(())
        };
        let open = move || {
            let engine = self.engine(&to_open)?;
            let template = self.template(&engine, &to_open)?;
            anyhow::Ok(Opened { engine: engine.into(), template: template.map(Arc::new) })
        };
        let check = Box::new(move || check().map_err(|error| format!("{error:#}").into()));
        let open = Box::new(move || open().map_err(|error| format!("{error:#}").into()));
        Ok(NamedModel { name, bytes, context, parallel, chat, check, open })
    }

    /// Reads everything of a model but its weights, which are counted.
    fn look(&self, console: &Console) -> anyhow::Result<Seen> {
        let checkpoint = self.model.path.checkpoint(&self.model.load, console)?;
        let config = Config::read(&checkpoint, &self.model.options().load)?.0;
        let options = self.options(&config)?;
        let (context, shape) = options.working_shape(config.context)?;
        let plan = options.plan(&checkpoint)?;
        let tokenizer = match &options.tokenizer {
            Some(path) => Some(Tokenizer::open(path)?),
            None => Tokenizer::from_checkpoint(&checkpoint).ok(), // without one it computes ids
        };
        let own = tokenizer.is_some_and(|tokenizer| tokenizer.chat_template().is_some());
        let chat = own || self.template.is_some() || self.model.path.model.is_none();
        let context = context.min((shape.kv_pages - 1).saturating_mul(PAGE_LEN));
        Ok(Seen { bytes: plan.total(), context, chat })
    }

    /// The file's name without its ending; directories are named whole (`bitnet-b1.58-2B-4T`), pulled models as they were
    /// pulled.
    pub(crate) fn name(&self) -> String {
        let of = |path: &Path| {
            #[cfg(feature = "pull")]
            if let Some(name) = bitnet_hub::Cache::name_of(path) {
                return name;
            }
            let file = path.extension().is_some_and(|ending| ending == "gguf" || ending == "bin");
            let name = if file { path.file_stem() } else { path.file_name() };
            name.unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
        };
        self.name.clone().or(self.model.path.model.as_deref().map(of)).unwrap_or_else(|| "stories".into())
    }

    /// The template given, the story model's, or `None` for the model's own.
    pub(crate) fn template(&self, engine: &Engine, console: &Console) -> anyhow::Result<Option<ChatTemplate>> {
        if let Some(path) = &self.template {
            return Ok(Some(chat_prompt::template_file(path, engine.require_tokenizer()?)?));
        }
        #[cfg(feature = "default-model")]
        if self.model.path.model.is_none() {
            console.note("the story model does not chat: it continues what the messages say");
            return Ok(Some(chat_prompt::template(bitnet::STORY_TEMPLATE, engine.require_tokenizer()?)?));
        }
        if engine.tokenizer().is_none_or(|tokenizer: &Tokenizer| tokenizer.chat_template().is_none()) {
            console.note("the model has no chat template: chat requests are refused; --template FILE gives one");
        }
        Ok(None)
    }
}
