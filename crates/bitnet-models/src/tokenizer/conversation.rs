//! A conversation as ids: special tokens are those that the template writes; what people wrote is plain text, also
//! where it spells one (formats.md §5.4).
//!
//! The template sees such a text with a mark inside the spelling, which keeps it from being recognised in the rendered
//! text and is taken out when that part is encoded. Texts that spell nothing are rendered as they are.

use super::vocabulary::Kind;
use super::{Encoding, Tokenizer};
use crate::{ChatTemplate, Message, ModelError};
use std::collections::BTreeSet;

const SPECIAL: Encoding = Encoding { bos: Some(false), special: true };
const PLAIN: Encoding = Encoding { bos: Some(false), special: false };

impl Tokenizer {
    /// The ids of a conversation; `generation_prompt` adds the assistant's opening. Begin-of-sequence is there where the
    /// template writes it.
    ///
    /// # Errors
    /// What the template raises, exceeded bounds, and messages of which a template makes special tokens by cutting or
    /// joining them.
    pub fn encode_chat(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
        generation_prompt: bool,
    ) -> Result<Vec<u32>, ModelError> {
        let mark = unused(messages)?;
        let rendered = |change: &dyn Fn(&str) -> String| {
            let changed = |m: &Message| Message { role: self.marked(&m.role, mark), content: change(&m.content) };
            template.render(&messages.iter().map(changed).collect::<Vec<_>>(), generation_prompt)
        };
        let text = rendered(&|content| self.marked(content, mark))?;
        let mut ids = Vec::with_capacity(text.len() / 3 + 8);
        let (mut unmarked, mut start) = (0, 0);
        let specials = self.vocabulary.literals(&text).filter(|(_, id)| self.kind(*id).is_some_and(Kind::is_special));
        for end in specials.map(|(range, _)| range).chain(std::iter::once(text.len()..text.len())) {
            let between = &text[start..end.start];
            if between.contains(mark) {
                ids.extend(self.encode(&text[unmarked..start], SPECIAL)?);
                ids.extend(self.encode(&between.replace(mark, ""), PLAIN)?);
                unmarked = end.start;
            }
            start = end.end;
        }
        ids.extend(self.encode(&text[unmarked..], SPECIAL)?);

        // A template may cut texts and join the parts. Where no part of a text can begin or end a special token, it must
        // come to the same ones.
        let firsts = self.firsts();
        let apart = rendered(&|content| apart(content, &firsts, mark))?;
        let control = |id: &u32| self.kind(*id) == Some(Kind::Control);
        if self.vocabulary.literals(&apart).map(|(_, id)| id).filter(control).ne(ids.iter().copied().filter(control)) {
            let reason = "a message becomes a special token of the model in this template; write it in another way";
            return Err(ModelError::Template(reason.into()));
        }
        Ok(ids)
    }

    fn kind(&self, id: u32) -> Option<Kind> {
        self.vocabulary.kinds().get(id as usize).copied()
    }

    /// `text` with the mark after the first character of every special token that it spells.
    fn marked(&self, text: &str, mark: char) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let first = |rest: &str| {
            let mut found = self.vocabulary.literals(rest);
            found.find(|(_, id)| self.kind(*id).is_some_and(Kind::is_special)).map(|(range, _)| range.start)
        };
        while let Some(start) = first(rest) {
            let after = rest.ceil_char_boundary(start + 1);
            out.push_str(&rest[..after]);
            out.push(mark);
            rest = &rest[after..];
        }
        out + rest
    }

    /// The characters that special tokens begin with.
    fn firsts(&self) -> BTreeSet<char> {
        let special = |id: &u32| self.kind(*id).is_some_and(Kind::is_special);
        let ids = (0..self.vocabulary.len() as u32).filter(special);
        ids.filter_map(|id| self.vocabulary.text(id)?.chars().next()).collect()
    }
}

/// `text` with the mark wherever a special token could begin, and around it.
fn apart(text: &str, firsts: &BTreeSet<char>, mark: char) -> String {
    if text.trim().is_empty() {
        return text.into(); // templates leave out what is empty
    }
    let mut out = String::from(mark);
    for c in text.chars() {
        out.push(c);
        if firsts.contains(&c) {
            out.push(mark);
        }
    }
    out.push(mark);
    out
}

/// A character that no message holds, of those that Unicode sets aside for use inside programs.
fn unused(messages: &[Message]) -> Result<char, ModelError> {
    let free = |mark: &char| !messages.iter().any(|m| m.role.contains(*mark) || m.content.contains(*mark));
    ('\u{fdd0}'..='\u{fdef}')
        .find(free)
        .ok_or_else(|| ModelError::Template("the messages hold all 32 noncharacters of Unicode".into()))
}
