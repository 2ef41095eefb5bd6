//! The model as many requests share it.

use crate::chat_prompt;
use crate::console::Console;
use crate::model_args::{ComputeArgs, engine_of, positive};
use crate::numbers;
use crate::served_model::ServedModel;
use anyhow::Context;
use bitnet::kernels::PAGE_LEN;
use bitnet::models::Config;
use bitnet::{ChatTemplate, Engine, EngineOptions, Tokenizer};
use bitnet_server::{NamedModel, Opened};
use clap::Args;
use std::sync::Arc;

/// A model for many requests at a time.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServiceArgs {
    #[command(flatten)]
    pub(crate) served: ServedModel,
    #[command(flatten)]
    compute: ComputeArgs,
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

/// What is known of a model that is not open.
struct Seen {
    bytes: u64,
    context: usize,
    chat: bool,
}

impl ServiceArgs {
    /// Loads the model.
    pub(crate) fn engine(&self, console: &Console) -> anyhow::Result<Engine> {
        let files = &self.served.files;
        let checkpoint = files.checkpoint(console)?;
        let options = self.options(&Config::read(&checkpoint, &files.load_options())?.0)?;
        engine_of(&checkpoint, &files.path, options, console)
    }

    fn options(&self, config: &Config) -> anyhow::Result<EngineOptions> {
        let mut options = self.served.draft.beside(self.compute.options(&self.served.files));
        options.sequences = Some(self.parallel);
        options.chunk = self.chunk;
        let context = options.working_shape(config.context)?.0;
        let kv_tokens = self.kv_tokens.unwrap_or(context.saturating_mul(2));
        // one more, to copy a shared page to
        Ok(EngineOptions { kv_pages: Some(kv_tokens.div_ceil(PAGE_LEN).saturating_add(1)), ..options })
    }

    /// The same for another model.
    pub(crate) fn also(&self, other: &ServedModel) -> Self {
        ServiceArgs { served: other.clone(), ..self.clone() }
    }

    /// What the server has to know of a model that it opens later.
    pub(crate) fn named(self, console: &Console) -> anyhow::Result<NamedModel> {
        let seen = self.look(console).with_context(|| format!("cannot serve {}", self.served.files.path.name()))?;
        let Seen { bytes, context, chat } = seen;
        let (name, parallel) = (self.served.name(), self.parallel);
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
        let ServedModel { files, template, .. } = &self.served;
        let checkpoint = files.checkpoint(console)?;
        let config = Config::read(&checkpoint, &files.load_options())?.0;
        let options = self.options(&config)?;
        let (context, shape) = options.working_shape(config.context)?;
        let plan = options.plan(&checkpoint)?;
        let tokenizer = match &options.tokenizer {
            Some(path) => Some(Tokenizer::open(path)?),
            None => Tokenizer::from_checkpoint(&checkpoint).ok(), // without one it computes ids
        };
        let own = tokenizer.is_some_and(|tokenizer| tokenizer.chat_template().is_some());
        let chat = own || template.is_some() || files.path.model.is_none();
        let context = context.min((shape.kv_pages - 1).saturating_mul(PAGE_LEN));
        Ok(Seen { bytes: plan.total(), context, chat })
    }

    /// The template given, the story model's, or `None` for the model's own.
    pub(crate) fn template(&self, engine: &Engine, console: &Console) -> anyhow::Result<Option<ChatTemplate>> {
        if let Some(path) = &self.served.template {
            return Ok(Some(chat_prompt::template_file(path, engine.require_tokenizer()?)?));
        }
        #[cfg(feature = "default-model")]
        if self.served.files.path.model.is_none() {
            console.note("the story model does not chat: it continues what the messages say");
            return Ok(Some(chat_prompt::template(bitnet::STORY_TEMPLATE, engine.require_tokenizer()?)?));
        }
        if engine.tokenizer().is_none_or(|tokenizer: &Tokenizer| tokenizer.chat_template().is_none()) {
            console.note("the model has no chat template: chat requests are refused; --template FILE gives one");
        }
        Ok(None)
    }
}
