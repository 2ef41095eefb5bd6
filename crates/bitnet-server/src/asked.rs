//! What all generating routes begin with: who asks, when, for which model; and the way into the queue.

use crate::api_error::ApiError;
use crate::app::App;
use crate::choices::Choices;
use crate::fields::Fields;
use crate::model::Model;
use crate::models::Lease;
use crate::observe::RequestId;
use crate::parameters::Parameters;
use axum::extract::{FromRequest, Request};
use bitnet_inference::{GenerateRequest, Prompt};
use bitnet_models::Conversation;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::time::Instant;

/// A request for answers.
pub(crate) struct Asked {
    pub(crate) app: Arc<App>,
    pub(crate) model: Lease,
    pub(crate) id: RequestId,
    pub(crate) arrival: Instant,
    /// All but `model`.
    pub(crate) fields: Fields,
}

impl FromRequest<Arc<App>> for Asked {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let id = request.extensions().get::<RequestId>().cloned().unwrap_or_else(RequestId::new);
        let mut fields = Fields::from_request(request, app).await?;
        let arrival = Instant::now();
        let model = app.model(fields.string("model")?.as_deref(), arrival).await?;
        Ok(Asked { app: Arc::clone(app), model, id, arrival, fields })
    }
}

/// The fields at fault when the engine refuses a prompt or a grammar.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) prompt: &'static str,
    pub(crate) grammar: &'static str,
}

impl Asked {
    /// Puts what `requests` makes, `per_prompt` requests in a row for each prompt, into the scheduler's queue.
    pub(crate) async fn submit(
        &self,
        per_prompt: usize,
        source: Source,
        requests: impl FnOnce(&Model) -> Result<Vec<GenerateRequest>, ApiError> + Send + 'static,
    ) -> Result<Choices, ApiError> {
        let queue = self.app.options.queue;
        let submit = move |model: &Model| {
            let requests = requests(model)?;
            if requests.len() > queue {
                // Busy would mean that trying again may help.
                let message =
                    format!("{} answers at once: the queue takes at most {queue} (`--queue`)", requests.len());
                return Err(ApiError::invalid(if per_prompt > queue { "n" } else { source.prompt }, message));
            }
            let submitted = requests.into_iter().map(|request| model.scheduler.submit(request));
            submitted.collect::<Result<Vec<_>, _>>().map_err(|error| ApiError::inference(error, source))
        };
        let submitted = SystemTime::now();
        let answers = self.model.compute(submit).await?;
        let deadline = self.arrival + self.app.options.time_limit;
        Ok(Choices::new(answers, per_prompt, deadline, source, submitted, self.id.clone(), self.model.clone()))
    }

    /// The same for a conversation.
    pub(crate) async fn submit_conversation(
        &self,
        conversation: Conversation,
        parameters: Parameters,
        source: Source,
    ) -> Result<Choices, ApiError> {
        let n = parameters.n;
        let requests = move |model: &Model| {
            let ids = model.conversation_ids(&conversation, source.prompt)?;
            parameters.requests(vec![Prompt::Ids(ids)], "n")
        };
        self.submit(n, source, requests).await
    }
}
