//! One of the models that are served, and what belongs to it alone.

use crate::command::settings;
use crate::model_args::{DraftArgs, LoadArgs, ModelFiles, ModelPath, found};
use clap::{Args, Command, FromArgMatches};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A model that is served.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServedModel {
    #[command(flatten)]
    pub(crate) files: ModelFiles,
    #[command(flatten)]
    pub(crate) draft: DraftArgs,
    /// Name of the model in requests and answers [default: its file name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Jinja chat template to use instead of the model's
    #[arg(long, value_name = "FILE")]
    pub(crate) template: Option<PathBuf>,
}

/// `NAME=PATH`, a path, or a table of TOML with options by their long names, as it may stand in a file of options:
/// `{ model = "code.gguf", template = "code.jinja" }`.
impl FromStr for ServedModel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('{') && !Path::new(text).exists() {
            return Self::from_table(text);
        }
        match text.split_once('=') {
            Some(("", _) | (_, "")) => Err("expected NAME=PATH or a path".into()),
            Some((name, path)) if !Path::new(text).exists() => Ok(Self::of(path, Some(name.to_owned()))),
            _ => Ok(Self::of(text, None)),
        }
    }
}

impl ServedModel {
    fn of(path: &str, name: Option<String>) -> Self {
        let path = ModelPath { model: Some(found(path.into())), tokenizer: None };
        let files = ModelFiles { path, lora: None, load: LoadArgs::default() };
        ServedModel { files, draft: DraftArgs::default(), name, template: None }
    }

    fn from_table(text: &str) -> Result<Self, String> {
        let wrong = |error: toml::de::Error| error.message().to_owned();
        let table: toml::Value = toml::Value::from_str(text).map_err(wrong)?;
        let table = table.as_table().ok_or("expected a table")?;
        let command = Command::new("also").no_binary_name(true).disable_help_flag(true);
        let mut command = ServedModel::augment_args(command);
        let mut line = Vec::new();
        for (name, value) in table {
            if !command.get_arguments().any(|arg| arg.get_long() == Some(name)) {
                let names: Vec<_> = command.get_arguments().filter_map(|arg| arg.get_long()).collect();
                return Err(format!("a model has no option {name}; it has {}", names.join(", ")));
            }
            let values =
                settings::values(value).ok_or_else(|| format!("{name} must be text, a number or a list of them"))?;
            line.extend(values.into_iter().map(|value| format!("--{name}={value}")));
        }
        if !table.contains_key("model") {
            return Err("a table needs `model`, the path of a model".into());
        }
        let wrong =
            |error: clap::Error| error.to_string().lines().next().unwrap_or_default().replacen("error: ", "", 1);
        let matches = command.try_get_matches_from_mut(line).map_err(wrong)?;
        ServedModel::from_arg_matches(&matches).map_err(wrong)
    }

    /// The file's name without its ending; directories are named whole (`bitnet-b1.58-2B-4T`), pulled models as they were
    /// pulled.
    pub(crate) fn name(&self) -> String {
        let of = |path: &Path| {
            #[cfg(feature = "pull")]
            if let Some(name) = bitnet_hub::Cache::name_of(path) {
                return name;
            }
            let file = path.extension().is_some_and(|ending| ending == "gguf" || ending == "bin");
            let name = if file { path.file_stem() } else { path.file_name() };
            name.unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
        };
        self.name.clone().or(self.files.path.model.as_deref().map(of)).unwrap_or_else(|| "stories".into())
    }
}
