//! What all objects of an answer of OpenAI's completions repeat.

use crate::app::{App, now};
use crate::asked::Asked;
use crate::choices::Usage;
use crate::event_stream::data;
use crate::models::Lease;
use bitnet_inference::TokenEvent;
use serde_json::{Value, json};
use std::sync::Arc;

/// An answer's name and date.
pub(crate) struct Head {
    pub(crate) app: Arc<App>,
    pub(crate) model: Lease,
    id: String,
    object: &'static str,
    created: u64,
    /// Events end with the usage.
    include_usage: bool,
}

impl Head {
    /// Of a new answer; its name begins with `prefix`.
    pub(crate) fn new(asked: &Asked, prefix: &str, object: &'static str, include_usage: bool) -> Self {
        let (app, model) = (Arc::clone(&asked.app), asked.model.clone());
        Head { id: app.answer_id(prefix), app, model, object, created: now(), include_usage }
    }

    pub(crate) fn object(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model.name,
            "system_fingerprint": null,
            "choices": choices,
        })
    }

    /// The object of a whole answer.
    pub(crate) fn whole(&self, choices: Vec<Value>, usage: Usage) -> Value {
        let mut body = self.object(choices);
        body["usage"] = usage.json();
        body
    }

    /// An event with one choice.
    pub(crate) fn chunk(&self, choice: Value, out: &mut String) {
        let mut chunk = self.object(vec![choice]);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        data(out, &chunk);
    }

    /// The last events.
    pub(crate) fn end(&self, usage: Usage, out: &mut String) {
        if self.include_usage {
            data(out, &self.whole(Vec::new(), usage));
        }
        out.push_str("data: [DONE]\n\n");
    }

    /// The tokens to report with their log-probabilities.
    pub(crate) fn scored(&self, events: &[TokenEvent]) -> Vec<TokenEvent> {
        self.model.reported(events).filter(|event| event.logprob.is_some()).cloned().collect()
    }
}
