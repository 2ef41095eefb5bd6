//! Decoding token by token.

use super::Tokenizer;

/// Turns a growing list of ids into text, holding back bytes of an unfinished character. Special tokens give no text.
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The next text starts with a space that is not part of it.
    strip_space: bool,
    /// Bytes of an unfinished character: at most three between calls.
    pending: Vec<u8>,
    text: String,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, strip_space: bool) -> Self {
        Self { tokenizer, strip_space, pending: Vec::with_capacity(64), text: String::with_capacity(64) }
    }

    /// Takes the next id and returns the text that became complete (often empty inside a character). Reuses its
    /// memory.
    pub fn push(&mut self, id: u32) -> &str {
        let mut bytes = self.tokenizer.bytes(id).unwrap_or_default();
        if self.strip_space && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            self.strip_space = false;
        }
        self.pending.extend_from_slice(bytes);
        self.take(false)
    }

    /// What is left at the end, lossily.
    pub fn finish(&mut self) -> &str {
        self.take(true)
    }

    /// Moves complete characters from `pending` to `text`, each invalid sequence as one U+FFFD just as
    /// `String::from_utf8_lossy` does; an unfinished character stays unless this is the end.
    fn take(&mut self, end: bool) -> &str {
        self.text.clear();
        let mut kept = 0;
        let mut chunks = self.pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            // Only the last sequence can be the start of a character: `error_len` is None exactly then.
            let unfinished =
                chunks.peek().is_none() && std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
            if unfinished && !end {
                kept = invalid.len();
            } else {
                self.text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        let done = self.pending.len() - kept;
        self.pending.drain(..done);
        &self.text
    }
}
