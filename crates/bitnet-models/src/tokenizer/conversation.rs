//! A conversation as ids: special tokens are those that the template writes; what people wrote is plain text, also
//! where it spells one (formats.md §5.4).
//!
//! The template sees such a text with a mark inside the spelling, which keeps it from being recognised in the rendered
//! text and is taken out when that part is encoded. Texts that spell nothing are rendered as they are.

use super::vocabulary::Kind;
use super::{Encoding, Tokenizer};
use crate::{ChatTemplate, Conversation, Message, ModelError};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeSet;

const SPECIAL: Encoding = Encoding { bos: Some(false), special: true };
const PLAIN: Encoding = Encoding { bos: Some(false), special: false };

/// What templates compare and look things up by; all else that is in a conversation they only write.
const WORDS: [&str; 4] = ["role", "type", "id", "tool_call_id"];

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
        self.encode_rendered(template, json!(messages), Map::new(), generation_prompt)
    }

    /// As [`encode_chat`](Self::encode_chat) for a conversation with functions.
    ///
    /// # Errors
    /// As for [`encode_chat`](Self::encode_chat).
    pub fn encode_conversation(
        &self,
        template: &ChatTemplate,
        conversation: &Conversation,
        generation_prompt: bool,
    ) -> Result<Vec<u32>, ModelError> {
        let (messages, extra) = conversation.for_template(template);
        self.encode_rendered(template, messages, extra, generation_prompt)
    }

    fn encode_rendered(
        &self,
        template: &ChatTemplate,
        messages: Json,
        extra: Map<String, Json>,
        generation_prompt: bool,
    ) -> Result<Vec<u32>, ModelError> {
        let mark = unused(&[&messages, &json!(extra)])?;
        let rendered = |change: &dyn Fn(&str) -> String| {
            let word = |text: &str| self.marked(text, mark);
            let extra = extra.iter().map(|(name, value)| (name.clone(), changed(value, &word, change)));
            template.render_with(&changed(&messages, &word, change), generation_prompt, extra.collect())
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

/// The same value with `text` of every text in it, and `word` of keys and of what stands under one of [`WORDS`].
fn changed(value: &Json, word: &dyn Fn(&str) -> String, text: &dyn Fn(&str) -> String) -> Json {
    match value {
        Json::String(own) => Json::String(text(own)),
        Json::Array(list) => list.iter().map(|one| changed(one, word, text)).collect(),
        Json::Object(fields) => {
            let field = |(key, one): (&String, &Json)| match one {
                Json::String(own) if WORDS.contains(&key.as_str()) => (word(key), Json::String(word(own))),
                other => (word(key), changed(other, word, text)),
            };
            fields.iter().map(field).collect()
        }
        other => other.clone(),
    }
}

/// A character that no message holds, of those that Unicode sets aside for use inside programs.
fn unused(values: &[&Json]) -> Result<char, ModelError> {
    let written: Vec<String> = values.iter().map(|value| value.to_string()).collect(); // which escapes none of them
    ('\u{fdd0}'..='\u{fdef}')
        .find(|mark| !written.iter().any(|text| text.contains(*mark)))
        .ok_or_else(|| ModelError::Template("the messages hold all 32 noncharacters of Unicode".into()))
}
