//! Another engine, in a process of its own that answers line by line (`crossval/conversation.py`).

use anyhow::{Context, bail, ensure};
use bitnet::formats::safetensors;
use clap::ValueEnum;
use serde_json::Value;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Engines that there is a script for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    LlamaCpp,
    Transformers,
}

impl Engine {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Engine::LlamaCpp => "llama-cpp",
            Engine::Transformers => "transformers",
        }
    }

    fn script(self) -> PathBuf {
        script(match self {
            Engine::LlamaCpp => "peer_llama_cpp.py",
            Engine::Transformers => "peer_transformers.py",
        })
    }

    /// A Python that has it; `install` makes one if there is none.
    pub(crate) fn python(self, install: bool) -> anyhow::Result<PathBuf> {
        let mut command = Command::new("python3");
        command.arg(script("peers.py")).arg(self.name());
        if install {
            command.arg("--install");
        }
        let output = command.stderr(Stdio::inherit()).output().context("python3 does not start")?;
        ensure!(output.status.success(), "{} is not there", self.name());
        Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
    }
}

/// A file of `crossval/`.
pub(crate) fn script(name: &str) -> PathBuf {
    crate::root().join("crossval").join(name)
}

/// Seconds of one turn.
pub(crate) struct Turn {
    pub(crate) prompt: f64,
    pub(crate) decode: f64,
}

/// The script, running.
pub(crate) struct Peer {
    /// Engine and version.
    pub(crate) name: String,
    process: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    pub(crate) fn start(engine: Engine, python: &Path, model: &Path, arguments: &[String]) -> anyhow::Result<Self> {
        let mut process = Command::new(python)
            .arg(engine.script())
            .arg(model)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} does not start", python.display()))?;
        let input = process.stdin.take();
        let output = process.stdout.take().context("no pipe to the other engine")?;
        let mut peer = Peer { name: String::new(), process, input, output: BufReader::new(output).lines() };
        let about = peer.answer().with_context(|| format!("{} with {}", engine.name(), model.display()))?;
        peer.name = about["engine"].as_str().unwrap_or_default().to_owned();
        Ok(peer)
    }

    /// One measurement of the speed.
    pub(crate) fn bench(&mut self) -> anyhow::Result<Turn> {
        self.say("bench")?;
        let turn = self.answer()?;
        let seconds = |key: &str| turn[key].as_f64().with_context(|| format!("{key} is missing in {turn}"));
        Ok(Turn { prompt: seconds("prompt_seconds")?, decode: seconds("decode_seconds")? })
    }

    /// Logits `[tokens, vocab]` of every list of ids.
    pub(crate) fn logits(&mut self, lists: &[Vec<u32>]) -> anyhow::Result<Vec<Vec<f32>>> {
        let folder = std::env::temp_dir().join(format!("bitnet-peer-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let (ids, out) = (folder.join("ids.json"), folder.join("logits.safetensors"));
        std::fs::write(&ids, serde_json::to_vec(lists)?)?;
        self.say(&format!("logits\t{}\t{}", ids.display(), out.display()))?;
        self.answer()?;
        let tensors = safetensors::parse(&out.display().to_string(), &std::fs::read(&out)?.into())?;
        std::fs::remove_dir_all(&folder)?;
        (0..lists.len())
            .map(|n| {
                let tensor = tensors.get(&format!("logits.{n}")).with_context(|| format!("no logits of list {n}"))?;
                let (rows, cols) = tensor.matrix();
                Ok(tensor.encoding.decode(&tensor.bytes, rows, cols)?)
            })
            .collect()
    }

    fn say(&mut self, line: &str) -> anyhow::Result<()> {
        Ok(writeln!(self.input.as_mut().context("closed")?, "{line}")?)
    }

    /// The next line that is an object: libraries may print remarks of their own.
    fn answer(&mut self) -> anyhow::Result<Value> {
        for line in self.output.by_ref() {
            if let Ok(value @ Value::Object(_)) = serde_json::from_str(&line?) {
                return Ok(value);
            }
        }
        bail!("the other engine ended")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.input = None; // the end of its input is the end of its work
        let _ = self.process.wait();
    }
}

/// Any engine with a command line, whose output says how fast it was.
pub(crate) struct CommandPeer {
    command: String,
    pattern: fancy_regex::Regex,
}

impl CommandPeer {
    /// `template` has places for `{model}`, `{threads}`, `{prompt}` and `{new}`; `pattern` has groups `prompt` and `decode`, both in
    /// tokens per second.
    pub(crate) fn new(template: &str, pattern: &str, values: &[(&str, String)]) -> anyhow::Result<Self> {
        let pattern = fancy_regex::Regex::new(pattern).context("--peer-pattern")?;
        for group in ["prompt", "decode"] {
            let known = pattern.capture_names().flatten().any(|name| name == group);
            ensure!(known, "--peer-pattern has no group (?<{group}>…): both speeds are read from the same output");
        }
        let command =
            values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value));
        Ok(CommandPeer { command, pattern })
    }

    /// Runs it once: tokens per second of the prompt and of decoding.
    pub(crate) fn measure(&self) -> anyhow::Result<(f64, f64)> {
        let (shell, option) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
        let output = Command::new(shell).args([option, &self.command]).stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} ended with {}: {text}", self.command, output.status);
        self.parse(&text)
    }

    fn parse(&self, text: &str) -> anyhow::Result<(f64, f64)> {
        let found = self
            .pattern
            .captures(text)?
            .with_context(|| format!("--peer-pattern does not match what {} printed: {text}", self.command))?;
        let speed = |group: &str| {
            let text = found.name(group).map_or("", |group| group.as_str());
            let speed: f64 =
                text.replace(',', "").parse().with_context(|| format!("{group}: {text:?} is no number"))?;
            ensure!(speed > 0.0 && speed.is_finite(), "{group}: {speed} tokens per second");
            Ok(speed)
        };
        Ok((speed("prompt")?, speed("decode")?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATTERN: &str = r"(?s)pp\s*\|\s*(?<prompt>[\d.,]+).*tg\s*\|\s*(?<decode>[\d.,]+)";

    #[test]
    fn speeds_are_read_by_the_pattern() {
        let peer = CommandPeer::new("true", PATTERN, &[]).expect("valid");
        assert_eq!(peer.parse("x\n pp | 1,234.5 ± 3\n tg | 17.25\n").expect("matches"), (1234.5, 17.25));
        for text in ["", "pp | 12", "pp | 1.2.3\n tg | 4", "pp | 0\n tg | 4"] {
            assert!(peer.parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn both_groups_are_needed() {
        let error = CommandPeer::new("true", r"(?<prompt>\d+)", &[]).err().expect("refused").to_string();
        assert!(error.contains("decode"), "{error}");
        assert!(CommandPeer::new("true", "(", &[]).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn the_template_is_filled_and_run() {
        let values = [("threads", "3".to_owned()), ("model", "a b.gguf".to_owned())];
        let template = "printf '%s' '{model}' >&2; echo 'pp | 5{threads}'; echo 'tg | 7'";
        let peer = CommandPeer::new(template, PATTERN, &values).expect("valid");
        assert_eq!(peer.measure().expect("runs"), (53.0, 7.0));
        let failing = CommandPeer::new("echo no; exit 3", PATTERN, &[]).expect("valid");
        assert!(failing.measure().expect_err("fails").to_string().contains("no"));
    }
}
