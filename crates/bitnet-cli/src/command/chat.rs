//! `bitnet chat`: a conversation whose past is not read again.

mod input;

use crate::chat_prompt::{ChatPrompt, TemplateArgs, message};
use crate::command::explain_prompt::read_messages;
use crate::command::run::statistics;
use crate::console::Console;
use crate::interrupt::Watch;
use crate::model_args::{DraftArgs, ModelArgs};
use crate::sampling_args::SamplingArgs;
use crate::whole_file::whole_file;
use anyhow::Context;
use bitnet::{Engine, GenerateRequest, Message, Prompt, Sampling, Session};
use clap::Args;
use input::Input;
use std::io::{self, Write};

const HELP: &str = "\
/help            this list
/clear           forget the conversation
/system [TEXT]   what the model is told first; without a text, show it
/save FILE       write the conversation as JSON
/load FILE       continue a saved conversation
/stats           speed and size of the conversation
/exit            leave (as does the end of input)
Ctrl-C stops an answer; twice at the prompt it leaves. A space in front sends a line that begins with /.";

/// Talk with a model
#[derive(Args, Debug)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    draft: DraftArgs,
    #[command(flatten)]
    template: TemplateArgs,
    /// At most this many new tokens per answer [default: what the context has room for]
    #[arg(long, short = 'n', value_name = "N")]
    max_tokens: Option<usize>,
    /// When the context is full, forget the oldest half of what follows the first KEEP tokens, and go on
    #[arg(long, value_name = "KEEP")]
    slide: Option<usize>,
    #[command(flatten)]
    sampling: SamplingArgs,
}

pub(crate) fn run(args: &ChatArgs, console: &Console) -> anyhow::Result<()> {
    let engine = args.model.engine_with(&args.draft, console)?;
    let tokenizer = engine.require_tokenizer()?;
    let mut chat = Chat {
        prompt: ChatPrompt::new(tokenizer, &args.template)?,
        session: engine.session(),
        engine: &engine,
        args,
        console,
        sampling: args.sampling.sampling(),
        system: args.template.system.clone(),
        messages: Vec::new(),
        last: None,
    };
    let mut input = Input::open(console);
    if input.is_person() {
        console.say("Type a message, or /help. Ctrl-C stops an answer, Ctrl-D leaves.");
    }
    while let Some(line) = input.line()? {
        let done = match line.strip_prefix('/') {
            Some(command) => chat.command(command.trim()),
            None if line.trim().is_empty() => Ok(false),
            None => chat.say(line.trim()).map(|()| false),
        };
        match done {
            Ok(true) => break,
            Ok(false) => {}
            // A person can try again; a script must hear of it.
            Err(error) if input.is_person() && error.downcast_ref::<io::Error>().is_none() => {
                console.error(format!("{error:#}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

struct Chat<'e> {
    engine: &'e Engine,
    session: Session<'e>,
    prompt: ChatPrompt<'e>,
    args: &'e ChatArgs,
    console: &'e Console,
    sampling: Sampling,
    system: Option<String>,
    messages: Vec<Message>,
    /// Statistics of the last answer.
    last: Option<String>,
}

impl Chat<'_> {
    /// One turn: the answer streams to standard output and joins the conversation, also when it was stopped.
    fn say(&mut self, text: &str) -> anyhow::Result<()> {
        let asked = self.messages.len();
        self.messages.push(message("user", text));
        let mut answer = String::new();
        let outcome = self.answer(&mut answer);
        if answer.is_empty() && !matches!(outcome, Ok(true)) {
            self.messages.truncate(asked); // stopped before it began
        } else {
            self.messages.push(message("assistant", answer));
        }
        outcome.map(drop)
    }

    /// True when the model came to an end, false when Ctrl-C stopped it.
    fn answer(&mut self, answer: &mut String) -> anyhow::Result<bool> {
        let mut request = GenerateRequest::new("", self.args.max_tokens.unwrap_or(usize::MAX));
        request.prompt = Prompt::Ids(self.prompt.ids(&self.conversation())?);
        request.bos = Some(false);
        request.sampling = self.sampling.clone();
        request.slide = self.args.slide;
        let watch = Watch::start()?;
        let mut generation = self.session.generate(&request)?;
        let mut out = io::stdout().lock();
        while !watch.asked() && generation.read_prompt_chunk()? {}
        while !watch.asked() {
            let Some(event) = generation.next() else { break };
            let text = event?.text;
            answer.push_str(&text);
            out.write_all(text.as_bytes())?;
            out.flush()?;
        }
        writeln!(out)?;
        out.flush()?;
        let seed = Some(request.sampling.seed).filter(|_| request.sampling.temperature > 0.0);
        self.last = Some(statistics(&generation.usage(), generation.finish_reason(), seed));
        Ok(generation.finish_reason().is_some())
    }

    fn conversation(&self) -> Vec<Message> {
        let system = self.system.as_ref().map(|text| message("system", text));
        system.into_iter().chain(self.messages.iter().cloned()).collect()
    }

    /// Carries out a command; true means leave.
    fn command(&mut self, command: &str) -> anyhow::Result<bool> {
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        match name {
            "help" => self.console.say(HELP),
            "clear" => {
                self.messages.clear();
                self.last = None;
                self.session = self.engine.session();
                self.console.say("The conversation is forgotten.");
            }
            "system" if rest.is_empty() => {
                self.console.say(self.system.as_deref().unwrap_or("(nothing)"));
            }
            "system" => {
                self.system = Some(rest.to_owned());
                self.console.say("The model will be told so from the next message on.");
            }
            "save" => {
                let text = serde_json::to_string_pretty(&self.conversation())?;
                whole_file(path(name, rest)?.as_ref(), |file| Ok(writeln!(file, "{text}")?))
                    .with_context(|| rest.to_owned())?;
                self.console.say(format!("Saved {rest}."));
            }
            "load" => {
                let mut messages = read_messages(path(name, rest)?.as_ref())?;
                let has_system = messages.first().is_some_and(|m| m.role == "system");
                self.system = has_system.then(|| messages.remove(0).content);
                self.messages = messages;
                self.console.say(format!("Loaded {} messages.", self.messages.len()));
            }
            "stats" => {
                let tokens = self.session.tokens().len();
                self.console.say(format!("{} messages, {tokens} tokens cached", self.messages.len()));
                self.console.say(self.last.as_deref().unwrap_or("no answer yet"));
            }
            "exit" | "quit" => return Ok(true),
            _ => anyhow::bail!("unknown command /{name}; /help lists them"),
        }
        Ok(false)
    }
}

fn path<'a>(command: &str, rest: &'a str) -> anyhow::Result<&'a str> {
    if rest.is_empty() { anyhow::bail!("/{command} needs a file name") } else { Ok(rest) }
}
