//! A conversation with its cached past.

use crate::{FinishReason, GenerateRequest, InferenceError, TokenEvent, Usage};

/// A sequence of tokens whose keys and values stay cached: the next request re-reads only what differs.
pub struct Session<'e> {
    _engine: &'e crate::Engine,
}

impl<'e> Session<'e> {
    /// Tokens in the session so far.
    pub fn tokens(&self) -> &[u32] {
        todo!()
    }

    /// Starts generating. The longest common prefix of the session (or of another cached prompt) and the new prompt
    /// is not computed again. Dropping the [`Generation`] cancels it.
    ///
    /// # Errors
    /// See [`InferenceError`].
    pub fn generate(&mut self, request: &GenerateRequest) -> Result<Generation<'_, 'e>, InferenceError> {
        let _ = request;
        todo!()
    }
}

/// A running generation: an iterator of token events.
pub struct Generation<'s, 'e> {
    _session: &'s mut Session<'e>,
}

impl Generation<'_, '_> {
    /// Why it ended; `None` while running.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        todo!()
    }

    /// Counts and times so far.
    pub fn usage(&self) -> Usage {
        todo!()
    }
}

impl Iterator for Generation<'_, '_> {
    type Item = Result<TokenEvent, InferenceError>;

    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}
