//! One open model, and what requests need of it.

use crate::api_error::ApiError;
use bitnet_inference::{InferenceError, Scheduler, TokenEvent};
use bitnet_models::{ChatTemplate, Conversation, Tokenizer};
use std::sync::Arc;

/// A model that answers.
pub(crate) struct Model {
    /// In requests and answers.
    pub(crate) name: String,
    pub(crate) scheduler: Scheduler,
    /// Instead of the model's own.
    pub(crate) template: Option<Arc<ChatTemplate>>,
}

impl Model {
    /// The tokenizer, for a request that needs one because of `field`.
    pub(crate) fn tokenizer(&self, field: &str) -> Result<&Tokenizer, ApiError> {
        let none = |error: InferenceError| ApiError::unsupported(field, error.to_string());
        self.scheduler.engine().require_tokenizer().map_err(none)
    }

    /// What the model reads of a conversation that came in `field`.
    pub(crate) fn conversation_ids(&self, conversation: &Conversation, field: &str) -> Result<Vec<u32>, ApiError> {
        let ids = self.tokenizer(field)?.encode_conversation(self.template(field)?, conversation, true);
        ids.map_err(|error| ApiError::model(&error, field))
    }

    /// The chat template, for a request that needs one because of `field`.
    pub(crate) fn template(&self, field: &str) -> Result<&ChatTemplate, ApiError> {
        let own = || self.scheduler.engine().tokenizer().and_then(Tokenizer::chat_template);
        self.template.as_deref().or_else(own).ok_or_else(|| {
            let message = "the model has no chat template: it was not trained to chat. Use /v1/completions, or start the \
                           server with --template FILE";
            ApiError::unsupported(field, message)
        })
    }

    /// The tokens to report: all but the one that ends the text.
    pub(crate) fn reported<'e>(&self, events: &'e [TokenEvent]) -> impl Iterator<Item = &'e TokenEvent> + use<'_, 'e> {
        let stops = self.scheduler.engine().tokenizer().map_or(&[][..], Tokenizer::stop_ids);
        events.iter().filter(move |event| !stops.contains(&event.id))
    }
}
