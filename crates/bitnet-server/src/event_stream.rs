//! Answers as server-sent events.

use crate::api_error::ApiError;
use crate::choices::{Choices, Usage};
use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bitnet_inference::{FinishReason, TokenEvent, Update};
use hyper::body::{Body as HttpBody, Bytes, Frame};
use serde_json::Value;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// A comment goes out after such a time without events, so that nobody on the way takes the connection for dead.
const SILENCE: Duration = Duration::from_secs(15);

/// What is ready goes out together, up to about so many bytes.
const FRAME: usize = 16 << 10;

/// What events look like.
pub(crate) trait Events: Send + 'static {
    /// Before the first token.
    fn begin(&mut self, usage: Usage, out: &mut String);
    /// A token of a choice.
    fn token(&mut self, choice: usize, event: &TokenEvent, out: &mut String);
    /// The end of a choice.
    fn finish(&mut self, choice: usize, reason: FinishReason, out: &mut String);
    /// The end of all.
    fn end(&mut self, usage: Usage, out: &mut String);
    /// An error ends all.
    fn error(&mut self, error: &ApiError, out: &mut String) {
        data(out, &error.json());
    }
}

/// Appends one event.
pub(crate) fn data(out: &mut String, value: &Value) {
    out.push_str("data: ");
    out.push_str(&value.to_string()); // JSON has no line breaks outside of texts, where they are escaped
    out.push_str("\n\n");
}

/// Appends one event with the name that its `type` is.
pub(crate) fn event(out: &mut String, value: &Value) {
    out.push_str("event: ");
    out.push_str(value["type"].as_str().unwrap_or_default());
    out.push('\n');
    data(out, value);
}

/// A body that writes the events of choices as they come.
struct EventStream<E> {
    choices: Choices,
    events: E,
    begun: bool,
    ended: bool,
    silence: Pin<Box<Sleep>>,
}

/// The response that streams `choices`.
pub(crate) fn respond<E: Events + Unpin>(choices: Choices, events: E) -> Response {
    let stream = EventStream { choices, events, begun: false, ended: false, silence: Box::pin(sleep(SILENCE)) };
    // proxies that collect answers do harm here
    let headers = [(header::CONTENT_TYPE.as_str(), "text/event-stream"), ("x-accel-buffering", "no")];
    (headers, Body::new(stream)).into_response()
}

impl<E: Events + Unpin> HttpBody for EventStream<E> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let mut out = String::new();
        if !this.begun {
            this.begun = true;
            this.events.begin(this.choices.usage(), &mut out);
        }
        while !this.ended && out.len() < FRAME {
            match this.choices.poll(context) {
                Poll::Ready(Some(Ok((choice, Update::Token(event))))) => this.events.token(choice, &event, &mut out),
                Poll::Ready(Some(Ok((choice, Update::Finished(reason, _))))) => {
                    this.events.finish(choice, reason, &mut out);
                }
                Poll::Ready(Some(Err(error))) => {
                    this.events.error(&error, &mut out);
                    this.ended = true;
                }
                Poll::Ready(None) => {
                    this.events.end(this.choices.usage(), &mut out);
                    this.ended = true;
                }
                Poll::Pending => break,
            }
        }
        if out.is_empty() && !this.ended {
            if this.silence.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            out.push_str(": still at work\n\n");
        }
        this.silence.as_mut().reset(Instant::now() + SILENCE);
        Poll::Ready(Some(Ok(Frame::data(out.into()))))
    }
}
