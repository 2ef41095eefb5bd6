//! Text files as documents.

use crate::{Source, TrainError};
use bitnet_models::Message;
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// The line that ends a document, and the special token that stands for it.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";

/// A document of a source.
pub(crate) enum Document<'t> {
    Text(&'t str),
    Chat(Vec<Message>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum JsonLine {
    Text { text: String },
    Chat { messages: Vec<Message> },
    Question { question: String, answer: String },
    Instruction { instruction: String, input: Option<String>, output: String },
}

impl JsonLine {
    fn document(&self) -> Document<'_> {
        let message = |role: &str, content: &str| Message { role: role.into(), content: content.trim().into() };
        match self {
            JsonLine::Text { text } => Document::Text(text.trim()),
            JsonLine::Chat { messages } => Document::Chat(messages.clone()),
            JsonLine::Question { question, answer } => {
                Document::Chat(vec![message("user", question), message("assistant", answer)])
            }
            JsonLine::Instruction { instruction, input, output } => {
                let asked = match input.as_deref().map(str::trim).filter(|input| !input.is_empty()) {
                    Some(input) => format!("{instruction}\n\n{input}"),
                    None => instruction.clone(),
                };
                Document::Chat(vec![message("user", &asked), message("assistant", output)])
            }
        }
    }
}

impl Document<'_> {
    fn is_empty(&self) -> bool {
        match self {
            Document::Text(text) => text.is_empty(),
            Document::Chat(messages) => !messages.iter().any(|m| m.role == "assistant" && !m.content.trim().is_empty()),
        }
    }
}

/// Calls `each` for every document of a source, once (whatever its `repeat`).
pub(crate) fn documents(
    source: &Source,
    mut each: impl FnMut(Document<'_>) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let path = &source.path;
    let data = |reason: String| TrainError::Data { path: path.clone(), reason };
    let name = path.to_string_lossy();
    let json = name.trim_end_matches(".gz").ends_with(".jsonl");
    let mut reader = open(path)?;
    let mut document = String::new();
    let mut bytes = Vec::new();
    let mut found = 0;
    for number in 1.. {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(TrainError::file(path))? == 0 {
            break;
        }
        let line = std::str::from_utf8(&bytes).map_err(|_| data(format!("line {number} is not UTF-8 text")))?;
        if line.contains('\0') {
            return Err(data(format!("line {number} contains a zero byte: this is no text")));
        }
        if json {
            if line.trim().is_empty() {
                continue;
            }
            serde_json::from_str::<serde::de::IgnoredAny>(line).map_err(|e| data(format!("line {number}: {e}")))?;
            let forms = "expected text; messages; question, answer; or instruction, input, output";
            let line: JsonLine = serde_json::from_str(line).map_err(|_| data(format!("line {number}: {forms}")))?;
            let document = line.document();
            if !document.is_empty() {
                found += 1;
                each(document).map_err(|error| match error {
                    TrainError::Tokenizer(reason) => data(format!("line {number}: {reason}")),
                    other => other,
                })?;
            }
        } else if line.trim_end() == END_OF_TEXT {
            if !document.trim().is_empty() {
                found += 1;
                each(Document::Text(document.trim()))?;
            }
            document.clear();
        } else {
            document.push_str(line);
        }
    }
    if !document.trim().is_empty() {
        found += 1;
        each(Document::Text(document.trim()))?;
    }
    if found == 0 {
        return Err(data("contains no text".into()));
    }
    Ok(())
}

fn open(path: &Path) -> Result<Box<dyn BufRead>, TrainError> {
    let file = File::open(path).map_err(TrainError::file(path))?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    // by its first bytes: a compressed file under another name would otherwise be taken for text
    let start = reader.fill_buf().map_err(TrainError::file(path))?;
    Ok(match start.starts_with(&[0x1f, 0x8b]) {
        true => Box::new(BufReader::with_capacity(1 << 20, MultiGzDecoder::new(reader.take(u64::MAX)))),
        false => Box::new(reader),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(name: &str, bytes: &[u8]) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut documents_found = Vec::new();
        documents(&Source { path, repeat: 1 }, |document| {
            documents_found.push(match document {
                Document::Text(text) => text.to_owned(),
                Document::Chat(messages) => {
                    messages.iter().map(|m| format!("{}: {}", m.role, m.content)).collect::<Vec<_>>().join(" | ")
                }
            });
            Ok(())
        })
        .map_err(|e| e.to_string())?;
        Ok(documents_found)
    }

    #[test]
    fn plain_text() {
        let text = b"\nOne\n\nstill one\n<|endoftext|>\n\n<|endoftext|>\r\nTwo <|endoftext|> inside";
        assert_eq!(read("a.txt", text).unwrap(), ["One\n\nstill one", "Two <|endoftext|> inside"]);
    }

    #[test]
    fn json_lines() {
        let text = b"{\"text\": \"a\\nb\", \"id\": 1}\n\n{\"text\": \" \"}\n{\"text\": \"c\"}";
        assert_eq!(read("a.jsonl", text).unwrap(), ["a\nb", "c"]);
        assert!(read("a.jsonl", b"{\"text\": \"a\"}\n{\"txt\": 1}").unwrap_err().contains("line 2"));
    }

    #[test]
    fn conversations() {
        let text = br#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
{"messages": [{"role": "user", "content": "nobody answers"}]}
{"question": "q", "answer": "a"}
{"instruction": "do", "input": "x", "output": "y"}
{"instruction": "do", "output": "y"}"#;
        let want = [
            "user: a | assistant: b",
            "user: q | assistant: a",
            "user: do\n\nx | assistant: y",
            "user: do | assistant: y",
        ];
        assert_eq!(read("a.jsonl", text).unwrap(), want);
    }

    #[test]
    fn compressed() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"{\"text\": \"a\"}\n").unwrap();
        let gz = gz.finish().unwrap();
        assert_eq!(read("a.jsonl.gz", &gz).unwrap(), ["a"]);
        assert_eq!(read("a.jsonl", &gz).unwrap(), ["a"]);
        assert!(read("a.txt.gz", &gz[..gz.len() - 9]).is_err(), "cut off");
    }

    #[test]
    fn no_text() {
        assert!(read("a.txt", b"").unwrap_err().contains("no text"));
        assert!(read("a.txt", b" \n<|endoftext|>\n").unwrap_err().contains("no text"));
        assert!(read("a.txt", b"ab\xff\xfe").unwrap_err().contains("not UTF-8"));
        assert!(read("a.txt", b"MZ\0\0").unwrap_err().contains("zero byte"));
    }
}
