//! Files of prompts, record by record: memory holds the records that are being answered, not the file.

use crate::failure::wrong_usage;
use anyhow::Context;
use clap::ValueEnum;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

/// How the input is written.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(super) enum Format {
    /// A JSON object per line: {"prompt": …}, {"messages": …} or {"custom_id": …, "url": …, "body": …}
    Jsonl,
    /// A table with a header; its column `prompt` is asked, its column `id` names the line
    Csv,
    /// A prompt per line
    Txt,
}

/// What one record says.
#[derive(Debug, PartialEq)]
pub(super) enum Content {
    /// A JSON object.
    Json(String),
    /// A prompt, and its name if it has one.
    Prompt { prompt: String, id: Option<String> },
}

/// A record with its number, from 1; lines that are empty are none.
pub(super) type Record = (u64, Result<Content, String>);

/// Reads records.
pub(super) struct Records {
    reader: Box<dyn BufRead + Send>,
    format: Format,
    number: u64,
    bytes: u64,
    total: Option<u64>,
    /// Columns of the prompt and of the id.
    columns: (usize, Option<usize>),
}

impl Records {
    /// Opens a file; `-` is standard input.
    pub(super) fn open(path: &Path, format: Option<Format>) -> anyhow::Result<Self> {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let format = format.or(match ending {
            "jsonl" | "ndjson" => Some(Format::Jsonl),
            "csv" => Some(Format::Csv),
            "txt" => Some(Format::Txt),
            _ => None,
        });
        let unknown = || wrong_usage(format!("{}: say how it is written: --format jsonl, csv or txt", path.display()));
        let format = format.ok_or_else(unknown)?;
        if path == Path::new("-") {
            return Self::new(Box::new(BufReader::new(io::stdin())), format, None);
        }
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let total = file.metadata().with_context(|| path.display().to_string())?.len();
        Self::new(Box::new(BufReader::new(file)), format, Some(total)).with_context(|| path.display().to_string())
    }

    fn new(reader: Box<dyn BufRead + Send>, format: Format, total: Option<u64>) -> anyhow::Result<Self> {
        let mut records = Records { reader, format, number: 0, bytes: 0, total, columns: (0, None) };
        if format == Format::Csv {
            let head = records.row()?.context("there is no header")?.map_err(anyhow::Error::msg)?;
            let column = |name: &str| head.iter().position(|own| own.trim().eq_ignore_ascii_case(name));
            let prompt =
                column("prompt").with_context(|| format!("no column is named prompt, only {}", head.join(", ")))?;
            records.columns = (prompt, column("id").or(column("custom_id")));
        }
        Ok(records)
    }

    /// Bytes read so far, and of the file in all.
    pub(super) fn progress(&self) -> (u64, Option<u64>) {
        (self.bytes, self.total)
    }

    /// The next record.
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        let content = match self.format {
            Format::Csv => self.row()?.map(|row| row.and_then(|row| self.prompt(row))),
            Format::Jsonl => self.line()?.map(|line| line.map(Content::Json)),
            Format::Txt => self.line()?.map(|line| line.map(|prompt| Content::Prompt { prompt, id: None })),
        };
        self.number += u64::from(content.is_some());
        Ok(content.map(|content| (self.number, content)))
    }

    /// The prompt of a row.
    fn prompt(&self, mut row: Vec<String>) -> Result<Content, String> {
        let mut cell = |column: usize| row.get_mut(column).map(std::mem::take);
        let id = self.columns.1.and_then(&mut cell).filter(|id| !id.is_empty());
        let prompt = cell(self.columns.0).ok_or("the row ends before its prompt")?;
        Ok(Content::Prompt { prompt, id })
    }

    /// A line that is not empty, without its end.
    fn line(&mut self) -> io::Result<Option<Result<String, String>>> {
        loop {
            let mut line = Vec::new();
            if !self.raw_line(&mut line)? {
                return Ok(None);
            }
            let kept = line.trim_ascii_end().len();
            if kept > 0 {
                line.truncate(kept);
                return Ok(Some(String::from_utf8(line).map_err(|_| "the line is not UTF-8 text".into())));
            }
        }
    }

    /// Appends a line with its end; false at the end of the file.
    fn raw_line(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        let begin = line.len();
        let read = self.reader.read_until(b'\n', line)?;
        if self.bytes == 0 && line[begin..].starts_with(b"\xEF\xBB\xBF") {
            line.drain(begin..begin + 3); // a byte-order mark is not part of the text
        }
        self.bytes += read as u64;
        Ok(read > 0)
    }

    /// The cells of a row (RFC 4180): quoted ones may hold commas, doubled quotes and line ends.
    fn row(&mut self) -> io::Result<Option<Result<Vec<String>, String>>> {
        let mut row = Row::default();
        let mut line = Vec::new();
        while self.raw_line(&mut line)? {
            if row.quoted || !line.trim_ascii().is_empty() {
                row.push(&line);
                if !row.quoted {
                    return Ok(Some(row.end()));
                }
            }
            line.clear();
        }
        Ok(row.quoted.then(|| Err("a quotation mark is never closed".into())))
    }
}

/// A row that is being read, line by line.
#[derive(Default)]
struct Row {
    cells: Vec<Vec<u8>>,
    cell: Vec<u8>,
    /// Inside quotation marks, where a line end does not end the row.
    quoted: bool,
}

impl Row {
    /// Takes a line with its end.
    fn push(&mut self, line: &[u8]) {
        let content = line.strip_suffix(b"\n").unwrap_or(line);
        let content = content.strip_suffix(b"\r").unwrap_or(content);
        let mut bytes = content.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b'"' if self.quoted && bytes.peek() == Some(&b'"') => {
                    bytes.next();
                    self.cell.push(b'"');
                }
                // elsewhere than around a cell it is a character like others: 5" wide
                b'"' if self.quoted || self.cell.is_empty() => self.quoted = !self.quoted,
                b',' if !self.quoted => self.cells.push(std::mem::take(&mut self.cell)),
                other => self.cell.push(other),
            }
        }
        if self.quoted {
            self.cell.extend_from_slice(&line[content.len()..]);
        }
    }

    fn end(mut self) -> Result<Vec<String>, String> {
        self.cells.push(self.cell);
        let cells: Result<_, _> = self.cells.into_iter().map(String::from_utf8).collect();
        cells.map_err(|_| "the row is not UTF-8 text".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &'static [u8], format: Format) -> Vec<Record> {
        let mut records = Records::new(Box::new(text), format, None).expect("a header");
        let all = std::iter::from_fn(|| records.next().expect("memory can be read")).collect();
        assert_eq!(records.progress(), (text.len() as u64, None));
        all
    }

    fn prompt(prompt: &str, id: Option<&str>) -> Result<Content, String> {
        Ok(Content::Prompt { prompt: prompt.into(), id: id.map(String::from) })
    }

    #[test]
    fn lines() {
        let got = records(b"\xEF\xBB\xBFone \r\n\n  \n two\nth\xFFree\nlast", Format::Txt);
        let wrong = Err("the line is not UTF-8 text".into());
        assert_eq!(got, [(1, prompt("one", None)), (2, prompt(" two", None)), (3, wrong), (4, prompt("last", None))]);
        assert_eq!(records(b"{}\n", Format::Jsonl), [(1, Ok(Content::Json("{}".into())))]);
    }

    #[test]
    fn tables() {
        let text =
            b"Id,note,prompt\r\na,,\"Say \"\"hi\"\",\r\n\r\nplease\"\r\n\r\n,x,plain 5\" wide\nd,,5\"\nb,\n\xFF,,a\nc,,\"open";
        let got = records(text, Format::Csv);
        let short = Err("the row ends before its prompt".into());
        let open = Err("a quotation mark is never closed".into());
        assert_eq!(
            got,
            [
                (1, prompt("Say \"hi\",\r\n\r\nplease", Some("a"))),
                (2, prompt("plain 5\" wide", None)),
                (3, prompt("5\"", Some("d"))),
                (4, short),
                (5, Err("the row is not UTF-8 text".into())),
                (6, open)
            ]
        );
        assert!(Records::new(Box::new(&b"a,b\n"[..]), Format::Csv, None).is_err());
        assert!(Records::new(Box::new(&b""[..]), Format::Csv, None).is_err());
    }
}
