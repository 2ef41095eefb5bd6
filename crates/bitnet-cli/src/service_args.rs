//! The model as many requests share it.

use crate::chat_prompt;
use crate::console::Console;
use crate::model_args::{ModelArgs, engine_of, positive};
use bitnet::kernels::PAGE_LEN;
use bitnet::models::Config;
use bitnet::{ChatTemplate, Engine, EngineOptions, Tokenizer};
use clap::Args;
use std::path::{Path, PathBuf};

/// A model for many requests at a time.
#[derive(Args, Debug)]
pub(crate) struct ServiceArgs {
    #[command(flatten)]
    model: ModelArgs,
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
    /// Prompt tokens that are read between two tokens of an answer, at most [default: 256]
    #[arg(long, value_name = "N", value_parser = positive)]
    chunk: Option<usize>,
}

impl ServiceArgs {
    /// Loads the model.
    pub(crate) fn engine(&self, console: &Console) -> anyhow::Result<Engine> {
        let checkpoint = self.model.path.checkpoint(&self.model.load, console)?;
        let mut options = self.model.options();
        options.sequences = Some(self.parallel);
        options.chunk = self.chunk;
        let context = options.working_shape(Config::read(&checkpoint, &options.load)?.0.context)?.0;
        let kv_tokens = self.kv_tokens.unwrap_or(context.saturating_mul(2));
        // one more, to copy a shared page to
        let options = EngineOptions { kv_pages: Some(kv_tokens.div_ceil(PAGE_LEN).saturating_add(1)), ..options };
        engine_of(&checkpoint, &self.model.path, options, console)
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
