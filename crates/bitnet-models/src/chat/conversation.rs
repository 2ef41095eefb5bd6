//! Conversations in which the model may call functions.
//!
//! Models write a call as Hermes and Qwen do: `<tool_call>`, a JSON object with `name` and `arguments`, `</tool_call>`. A
//! template that knows this form shows functions, calls and results in its own words. Every other template gets them
//! as text: the functions in the system message, calls in the assistant's and results in the user's.

use super::ChatTemplate;
use crate::ModelError;
use serde_json::{Map, Value as Json, json};

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does, for the model.
    pub description: Option<String>,
    /// JSON schema of its arguments, which are an object.
    pub parameters: Map<String, Json>,
}

/// A call that the model made.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// What its result is known by.
    pub id: String,
    /// The function.
    pub name: String,
    /// Its arguments by name.
    pub arguments: Map<String, Json>,
}

/// What one side says.
#[derive(Clone, Debug, PartialEq)]
pub enum Turn {
    /// Instructions.
    System(String),
    /// The person.
    User(String),
    /// The model.
    Assistant {
        /// What it said; may be empty when it calls.
        text: String,
        /// What it called, after the text.
        calls: Vec<ToolCall>,
    },
    /// What a function gave back.
    Tool {
        /// The call.
        id: String,
        /// Its result.
        text: String,
    },
}

/// A conversation, and the functions that the next answer may call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// First to last.
    pub turns: Vec<Turn>,
    /// Functions, in the order in which the model sees them.
    pub tools: Vec<Tool>,
}

/// Begins a call.
pub const CALL_BEGIN: &str = "<tool_call>";
/// Ends a call.
pub const CALL_END: &str = "</tool_call>";

impl ChatTemplate {
    /// True if the template itself shows functions and calls, in the form that is understood here.
    pub fn shows_tools(&self) -> bool {
        let says = |word: &str| self.source().contains(word);
        // Falcon3's shows a list of calls in one pair of marks
        let listed = says("tool_calls|tojson") || says("tool_calls | tojson");
        says("tools") && says(CALL_BEGIN) && says("arguments") && !says("<function=") && !listed
    }

    /// Renders a conversation with functions; `generation_prompt` adds the assistant's opening.
    ///
    /// # Errors
    /// What the template raises, and exceeded bounds.
    pub fn render_conversation(
        &self,
        conversation: &Conversation,
        generation_prompt: bool,
    ) -> Result<String, ModelError> {
        let (messages, extra) = conversation.for_template(self);
        self.render_with(&messages, generation_prompt, extra)
    }
}

impl Conversation {
    /// The messages and the further variables that a template sees.
    pub(crate) fn for_template(&self, template: &ChatTemplate) -> (Json, Map<String, Json>) {
        if !template.shows_tools() {
            return (self.as_text(), Map::new());
        }
        let mut extra = Map::new();
        if !self.tools.is_empty() {
            extra.insert("tools".into(), self.tools.iter().map(Tool::json).collect());
        }
        (self.turns.iter().map(message).collect(), extra)
    }

    /// Messages of system, user and assistant only, for templates that know no functions.
    fn as_text(&self) -> Json {
        let mut messages: Vec<(&str, String)> = Vec::with_capacity(self.turns.len() + 1);
        if !self.tools.is_empty() {
            messages.push(("system", instructions(&self.tools)));
        }
        let mut after_result = false;
        for (nth, turn) in self.turns.iter().enumerate() {
            let result = matches!(turn, Turn::Tool { .. });
            let (role, text) = match turn {
                Turn::System(text) => ("system", text.clone()),
                Turn::User(text) => ("user", text.clone()),
                Turn::Assistant { text, calls } => ("assistant", with_calls(text, calls)),
                Turn::Tool { text, .. } => ("user", format!("<tool_response>\n{text}\n</tool_response>")),
            };
            match messages.last_mut() {
                // one voice stays one message: many templates want user and assistant to take turns
                Some((_, last)) if after_result && role == "user" => *last += &format!("\n{text}"),
                Some((_, last)) if nth == 0 && role == "system" => *last = format!("{text}\n\n{last}"),
                _ => messages.push((role, text)),
            }
            after_result = role == "user" && (result || after_result);
        }
        messages.into_iter().map(|(role, content)| json!({ "role": role, "content": content })).collect()
    }
}

impl Tool {
    /// As transformers hands it to templates.
    fn json(&self) -> Json {
        let mut function = Map::from_iter([("name".to_owned(), json!(self.name))]);
        if let Some(description) = &self.description {
            function.insert("description".into(), json!(description));
        }
        function.insert("parameters".into(), Json::Object(self.parameters.clone()));
        json!({ "type": "function", "function": function })
    }
}

fn message(turn: &Turn) -> Json {
    match turn {
        Turn::System(text) => json!({ "role": "system", "content": text }),
        Turn::User(text) => json!({ "role": "user", "content": text }),
        Turn::Assistant { text, calls } if calls.is_empty() => json!({ "role": "assistant", "content": text }),
        Turn::Assistant { text, calls } => {
            let call = |call: &ToolCall| {
                let function = json!({ "name": call.name, "arguments": call.arguments });
                json!({ "id": call.id, "type": "function", "function": function })
            };
            let calls: Json = calls.iter().map(call).collect();
            json!({ "role": "assistant", "content": text, "tool_calls": calls })
        }
        Turn::Tool { id, text } => json!({ "role": "tool", "content": text, "tool_call_id": id }),
    }
}

/// How models are told about functions whose template does not do it.
fn instructions(tools: &[Tool]) -> String {
    let mut text = format!(
        "You may call functions. A call is written as\n{CALL_BEGIN}\n{{\"name\": \"function\", \"arguments\": \
         {{}}}}\n{CALL_END}\nThe functions are:"
    );
    for tool in tools {
        text += &format!("\n{}", tool.json()["function"]);
    }
    text
}

fn with_calls(text: &str, calls: &[ToolCall]) -> String {
    let mut parts: Vec<String> = (!text.is_empty() || calls.is_empty()).then(|| text.to_owned()).into_iter().collect();
    parts.extend(calls.iter().map(|call| {
        let arguments = Json::Object(call.arguments.clone());
        format!("{CALL_BEGIN}\n{{\"name\": {}, \"arguments\": {arguments}}}\n{CALL_END}", json!(call.name))
    }));
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Json) -> Map<String, Json> {
        value.as_object().cloned().expect("an object")
    }

    fn weather() -> Conversation {
        let parameters = object(json!({ "type": "object", "properties": { "city": { "type": "string" } } }));
        let call = |id: &str, city: &str| ToolCall {
            id: id.into(),
            name: "weather".into(),
            arguments: object(json!({ "city": city })),
        };
        Conversation {
            turns: vec![
                Turn::System("Be brief.".into()),
                Turn::User("Rome or Oslo?".into()),
                Turn::Assistant { text: "Let me see.".into(), calls: vec![call("a", "Rome"), call("b", "Oslo")] },
                Turn::Tool { id: "a".into(), text: "28".into() },
                Turn::Tool { id: "b".into(), text: "4".into() },
                Turn::User("So?".into()),
            ],
            tools: vec![Tool { name: "weather".into(), description: Some("Degrees.".into()), parameters }],
        }
    }

    const PLAIN: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";

    #[test]
    fn a_template_without_tools_gets_text() {
        let template = ChatTemplate::new(PLAIN, "", "").expect("a template");
        assert!(!template.shows_tools());
        assert_eq!(
            template.render_conversation(&weather(), true).expect("rendered"),
            "[system]Be brief.\n\nYou may call functions. A call is written as\n<tool_call>\n{\"name\": \"function\", \
             \"arguments\": {}}\n</tool_call>\nThe functions are:\n{\"name\":\"weather\",\"description\":\"Degrees.\",\
             \"parameters\":{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"}}}}\
             [user]Rome or Oslo?\
             [assistant]Let me see.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\":\"Rome\"}}\n\
             </tool_call>\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\":\"Oslo\"}}\n</tool_call>\
             [user]<tool_response>\n28\n</tool_response>\n<tool_response>\n4\n</tool_response>\nSo?"
        );
    }

    #[test]
    fn a_conversation_without_tools_is_what_it_says() {
        let template = ChatTemplate::new(PLAIN, "", "").expect("a template");
        let turns = vec![
            Turn::System("a".into()),
            Turn::User("b".into()),
            Turn::User("c".into()),
            Turn::Assistant { text: String::new(), calls: Vec::new() },
        ];
        let conversation = Conversation { turns, tools: Vec::new() };
        assert_eq!(
            template.render_conversation(&conversation, true).expect("rendered"),
            "[system]a[user]b[user]c[assistant]"
        );
    }
}
