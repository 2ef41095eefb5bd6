//! Options of `serve`, and those that `health` shares with it, from variables of the environment and, of `serve`, from a file.
//! What stands first counts: the command line, `BITNET_SERVE_PORT` and the like, the file, the default.

use super::{Cli, Command};
use clap::error::ErrorKind;
use clap::{Arg, CommandFactory, FromArgMatches};
use std::ffi::OsString;
use std::path::Path;
use toml::{Table, Value};

const COMMAND: &str = "serve";
/// It asks where the server listens.
const PROBE: &str = "health";

/// Reads the command line with everything that stands behind it.
///
/// # Errors
/// What is wrong with it; also requests for help and the version.
pub(crate) fn parse(line: impl IntoIterator<Item = OsString> + Clone) -> Result<Cli, clap::Error> {
    let mut command = Cli::command()
        .mut_subcommand(COMMAND, |serve| serve.mut_args(with_variable))
        .mut_subcommand(PROBE, |health| health.mut_args(with_variable));
    let read = |command: &mut clap::Command| {
        let matches = command.try_get_matches_from_mut(line.clone())?;
        Cli::from_arg_matches(&matches).map_err(|error| error.format(command))
    };
    let cli = read(&mut command.clone())?;
    let Command::Serve(args) = &cli.command else { return Ok(cli) };
    let Some(path) = &args.config else { return Ok(cli) };
    let wrong = |reason: String| {
        let text = format!("{}: {reason}", path.display());
        Cli::command().error(ErrorKind::ValueValidation, text)
    };
    for (name, value) in table(path).map_err(wrong)? {
        let values = values(&value).ok_or_else(|| wrong(format!("{name} must be text, a number or a list of them")))?;
        let serve = command.find_subcommand(COMMAND);
        let arg = serve.and_then(|serve| serve.get_arguments().find(|arg| arg.get_long() == Some(name.as_str())));
        let id = arg.filter(|_| name != "config").map(|arg| arg.get_id().clone());
        let id = id.ok_or_else(|| wrong(format!("there is no option {name}; see `bitnet serve --help`")))?;
        command = command.mut_subcommand(COMMAND, |serve| serve.mut_arg(id, |arg| arg.default_values(values)));
    }
    read(&mut command)
}

/// `--max-body` is also `BITNET_SERVE_MAX_BODY`.
fn with_variable(arg: Arg) -> Arg {
    match arg.get_long() {
        None | Some("help" | "version") => arg,
        Some(name) => {
            let variable = format!("BITNET_SERVE_{}", name.to_ascii_uppercase().replace('-', "_"));
            arg.env(kept(variable)).hide_env(true)
        }
    }
}

fn table(path: &Path) -> Result<Table, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    text.parse().map_err(|error: toml::de::Error| error.to_string())
}

/// A value as it would stand on the command line: several times if it is a list.
pub(crate) fn values(value: &Value) -> Option<Vec<&'static str>> {
    match value {
        Value::String(text) => Some(vec![kept(text.clone())]),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => Some(vec![kept(value.to_string())]),
        Value::Array(list) => list.iter().map(element).collect::<Option<Vec<_>>>().map(|all| all.concat()),
        Value::Table(_) | Value::Datetime(_) => None,
    }
}

/// An element of a list, as it would stand on the command line: a table stays one, for the option to read.
fn element(value: &Value) -> Option<Vec<&'static str>> {
    match value {
        Value::Table(table) => Some(vec![kept(Value::Table(table.clone()).to_string())]),
        value => values(value),
    }
}

/// Texts of options live as long as the program.
fn kept(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::served_model::ServedModel;

    fn serve(text: &str, more: &[&str]) -> Result<super::super::serve::ServeArgs, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("serve.toml");
        std::fs::write(&path, text).expect("written");
        let mut line: Vec<OsString> = vec!["bitnet".into(), "serve".into(), "--config".into(), path.into()];
        line.extend(more.iter().map(OsString::from));
        match parse(line).map_err(|error| error.to_string())?.command {
            Command::Serve(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_goes_before_the_file_and_the_file_before_the_default() {
        let file = "port = 9000\nrate-limit = 30\ncors-origin = [\"https://a.example\", \"https://b.example\"]\nmodel = \"m.gguf\"\ntls-cert = \"c.pem\"\n";
        let args = serve(file, &["--port", "9001"]).expect("good");
        assert_eq!((args.port, args.rate_limit, args.queue), (9001, Some(30), 64));
        assert_eq!(args.cors_origin, ["https://a.example", "https://b.example"]);
        assert_eq!(args.service.served.name(), "m");
        assert_eq!((args.tls_cert, args.tls_key), (Some("c.pem".into()), None));
        let args = serve(file, &["--cors-origin", "*"]).expect("good");
        assert_eq!((args.port, args.cors_origin), (9000, vec!["*".to_owned()]));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        for (text, reason) in [
            ("ports = 1", "there is no option ports"),
            ("config = \"x\"", "there is no option config"),
            ("port = { a = 1 }", "port must be"),
            ("port = 70000", "70000"),
            ("port", "serve.toml"),
            ("[[also]]\nname = \"a\"", "needs `model`"),
            ("[[also]]\nmodel = \"a\"\nport = 1", "no option port; it has model, tokenizer"),
            ("[[also]]\nmodel = \"a\"\ndraft-tokens = 0", "must be at least 1"),
            ("[[also]]\nmodel = \"a\"\nlora = { a = 1 }", "lora must be"),
        ] {
            let error = serve(text, &[]).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
        let line = ["bitnet", "serve", "--config", "/no/such/file.toml"].map(OsString::from);
        assert!(parse(line).expect_err("no file").to_string().contains("/no/such/file.toml"));
    }

    #[test]
    fn models_may_stand_in_the_file_with_options_of_their_own() {
        let file = "model = \"big.gguf\"\ntemplate = \"big.jinja\"\n[[also]]\nmodel = \"small.gguf\"\nname = \"s\"\n\
                    template = \"small.jinja\"\nlora = \"side car\"\ndraft-tokens = 3\n[[also]]\nmodel = \"x.gguf\"\n";
        let args = serve(file, &[]).expect("good");
        assert_eq!(
            (args.service.served.name(), args.service.served.template),
            ("big".into(), Some("big.jinja".into()))
        );
        let [small, other] = &args.also[..] else { panic!("two, not {}", args.also.len()) };
        assert_eq!(
            (small.name(), &small.template, &small.files.lora),
            ("s".into(), &Some("small.jinja".into()), &Some("side car".into()))
        );
        assert_eq!(small.files.path.model, Some("small.gguf".into()));
        assert_eq!(small.draft.beside(bitnet::EngineOptions::default()).draft_tokens, Some(3));
        assert_eq!((other.name(), &other.template, &other.files.lora), ("x".into(), &None, &None));
        let args = serve(file, &["--also", "y=z.gguf"]).expect("good");
        assert_eq!(args.also.iter().map(ServedModel::name).collect::<Vec<_>>(), ["y"]);
    }

    #[test]
    fn the_draft_model_may_stand_in_the_file() {
        let args = serve("draft = \"small.gguf\"\ndraft-tokens = 3\n", &["--draft-tokens", "4"]).expect("good");
        let options = args.service.served.draft.beside(bitnet::EngineOptions::default());
        assert_eq!((options.draft, options.draft_tokens), (Some("small.gguf".into()), Some(4)));
    }

    /// No two options share a variable, and none takes one that means something else.
    #[test]
    fn every_option_has_a_variable() {
        let command = Cli::command().mut_subcommand(COMMAND, |serve| serve.mut_args(with_variable));
        let serve = command.find_subcommand(COMMAND).expect("serve");
        let variables: Vec<_> = serve.get_arguments().filter_map(|arg| arg.get_env()).collect();
        assert!(variables.iter().any(|name| *name == "BITNET_SERVE_MAX_BODY"));
        assert_eq!(variables.len(), variables.iter().collect::<std::collections::BTreeSet<_>>().len());
    }
}
