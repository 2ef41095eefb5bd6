//! The answers to one HTTP request while they are made.

use crate::api_error::ApiError;
use crate::asked::Source;
use crate::models::Lease;
use crate::observe::RequestId;
use bitnet_inference::{FinishReason, TokenEvent, Update, Updates};
use serde_json::{Value, json};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;
use tokio::time::{Instant, Sleep, sleep_until};

/// Updates of several answers, in the order in which they come. Dropping it cancels those that are not finished.
pub(crate) struct Choices {
    answers: Vec<Updates>,
    per_prompt: usize,
    /// Whom to ask first, so that none is heard before the others for ever.
    next: usize,
    deadline: Pin<Box<Sleep>>,
    /// Where prompt and grammar came from.
    source: Source,
    usage: Usage,
    /// Answers that came to their end.
    finished: usize,
    /// When they were put into the queue.
    submitted: SystemTime,
    id: RequestId,
    /// Open while they are made.
    _model: Lease,
}

/// Tokens of all answers together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) prompt: usize,
    pub(crate) cached: usize,
    pub(crate) new: usize,
}

impl Usage {
    pub(crate) fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.new,
            "total_tokens": self.prompt + self.new,
            "prompt_tokens_details": { "cached_tokens": self.cached },
        })
    }
}

/// A whole answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) text: String,
    /// All tokens, if log-probabilities were asked for.
    pub(crate) events: Vec<TokenEvent>,
    pub(crate) reason: Option<FinishReason>,
    /// The place of the stop text that ended it.
    pub(crate) stop: Option<usize>,
}

impl Choices {
    /// `per_prompt` answers in a row have the same prompt, which counts once.
    pub(crate) fn new(
        answers: Vec<Updates>,
        per_prompt: usize,
        deadline: Instant,
        source: Source,
        submitted: SystemTime,
        id: RequestId,
        model: Lease,
    ) -> Self {
        id.trace.asked(&model.name);
        let prompt = answers.iter().step_by(per_prompt.max(1)).map(Updates::prompt_tokens).sum();
        Choices {
            answers,
            per_prompt: per_prompt.max(1),
            next: 0,
            deadline: Box::pin(sleep_until(deadline)),
            source,
            usage: Usage { prompt, ..Usage::default() },
            finished: 0,
            submitted,
            id,
            _model: model,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.answers.len()
    }

    /// So far.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    /// The next update of any answer, with the answer's index; `None` when all have ended.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<(usize, Update), ApiError>>> {
        let count = self.answers.len();
        for step in 0..count {
            let index = (self.next + step) % count;
            match self.answers[index].poll(context) {
                Poll::Ready(Some(Ok(update))) => {
                    self.next = index + 1;
                    self.note(index, &update);
                    return Poll::Ready(Some(Ok((index, update))));
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::warn!(id = %self.id, %error, "failed");
                    self.id.trace.failed("inference".into());
                    return Poll::Ready(Some(Err(ApiError::inference(error, self.source))));
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
        }
        if self.finished == count {
            return Poll::Ready(None);
        }
        self.deadline.as_mut().poll(context).map(|()| {
            self.id.trace.failed("time_limit".into());
            Some(Err(ApiError::time_limit()))
        })
    }

    fn note(&mut self, index: usize, update: &Update) {
        match update {
            Update::Token(_) => self.usage.new += 1,
            Update::Finished(reason, usage) => {
                self.finished += 1;
                self.id.trace.answered(index, self.submitted, *reason, usage);
                if index.is_multiple_of(self.per_prompt) {
                    self.usage.cached += usage.cached_tokens;
                }
            }
        }
    }

    /// Waits for all answers.
    pub(crate) async fn collect(mut self) -> Result<(Vec<Answer>, Usage), ApiError> {
        let mut answers: Vec<Answer> = self.answers.iter().map(|_| Answer::default()).collect();
        while let Some(update) = std::future::poll_fn(|context| self.poll(context)).await {
            match update? {
                (index, Update::Token(event)) => {
                    answers[index].text.push_str(&event.text);
                    answers[index].stop = answers[index].stop.or(event.stop);
                    if event.logprob.is_some() {
                        answers[index].events.push(event);
                    }
                }
                (index, Update::Finished(reason, _)) => answers[index].reason = Some(reason),
            }
        }
        Ok((answers, self.usage))
    }
}

impl Drop for Choices {
    fn drop(&mut self) {
        let Usage { prompt, cached, new } = self.usage;
        let complete = self.finished == self.answers.len();
        tracing::info!(id = %self.id, prompt, cached, new, complete, "answered");
        self.id.trace.done(prompt, new, complete);
    }
}

/// Why an answer ended, in OpenAI's words.
pub(crate) fn finish_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::EndOfText | FinishReason::StopText | FinishReason::Complete => "stop",
        FinishReason::Length | FinishReason::ContextFull | FinishReason::Degenerate => "length",
    }
}
