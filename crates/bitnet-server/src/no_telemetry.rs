//! Stands for `telemetry.rs` in a program without the feature `otel`: nothing is traced, and nothing is paid for it.

use crate::ServerOptions;
use axum::http::{HeaderMap, HeaderValue, Method};
use bitnet_inference::{FinishReason, Usage};
use std::time::SystemTime;

/// The span of a request that there is not.
#[derive(Clone, Debug)]
pub(crate) struct Trace;

impl Trace {
    pub(crate) fn none() -> Self {
        Trace
    }

    pub(crate) fn begin(_: &ServerOptions, _: &HeaderValue, _: &Method, _: &str, _: &HeaderMap) -> Self {
        Trace
    }

    pub(crate) fn responded(&self, _: u16) {}

    pub(crate) fn failed(&self, _: String) {}

    pub(crate) fn asked(&self, _: &str) {}

    pub(crate) fn answered(&self, _: usize, _: SystemTime, _: FinishReason, _: &Usage) {}

    pub(crate) fn done(&self, _: usize, _: usize, _: bool) {}
}
