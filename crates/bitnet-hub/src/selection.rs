//! Which files of a repository make a model.

use crate::{HubError, Location};
use std::path::{Path, PathBuf};

/// Beside the weights of a Hugging Face directory.
const BESIDE: [&str; 10] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
];

/// What to fetch of `files`, and which of it to open (nothing: the directory).
pub(crate) fn select(location: &Location, files: &[String]) -> Result<(Vec<String>, Option<String>), HubError> {
    let repository = || location.repository().to_owned();
    if let Some(file) = location.file() {
        if !files.iter().any(|own| own == file) {
            return Err(HubError::NoFile { repository: repository(), file: file.to_owned() });
        }
        return Ok((parts(file, files), Some(file.to_owned())));
    }
    // of a model in parts the first is the one to open
    let first = |name: &&String| name.ends_with(".gguf") && part(name).is_none_or(|(_, number)| number == 1);
    let models: Vec<&String> = files.iter().filter(first).collect();
    match models[..] {
        [one] => Ok((parts(one, files), Some(one.clone()))),
        [] => {
            let weights = |name: &&String| name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
            let here = |name: &&String| !name.contains('/');
            let wanted = |name: &&String| here(name) && (weights(name) || BESIDE.contains(&name.as_str()));
            let wanted: Vec<String> = files.iter().filter(wanted).cloned().collect();
            let whole = wanted.iter().any(|name| name == "config.json") && wanted.iter().any(|name| weights(&name));
            if whole { Ok((wanted, None)) } else { Err(HubError::NoModel(repository())) }
        }
        _ => Err(HubError::Several { repository: repository(), files: models.into_iter().cloned().collect() }),
    }
}

/// All parts of the model that a file belongs to.
fn parts(file: &str, files: &[String]) -> Vec<String> {
    match part(file) {
        None => vec![file.to_owned()],
        Some((base, _)) => {
            files.iter().filter(|name| part(name).is_some_and(|(own, _)| own == base)).cloned().collect()
        }
    }
}

/// `x-00002-of-00005.gguf`: what its parts have in common, and its number.
fn part(name: &str) -> Option<((&str, &str), u32)> {
    let (rest, total) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (base, number) = rest.rsplit_once('-')?;
    Some(((base, total), number.parse().ok()?))
}

/// What to open in a directory that was pulled: as [`select`], from the files that are there.
pub(crate) fn model_in(directory: &Path, location: &Location) -> Option<PathBuf> {
    if let Some(file) = location.file() {
        return Some(directory.join(file)).filter(|path| path.is_file());
    }
    let mut files = Vec::new();
    list(directory, "", 0, &mut files);
    let (wanted, open) = select(location, &files).ok()?;
    // a pull that was interrupted may have left a part
    let missing = |name: &String| part(name).is_some_and(|((_, total), _)| total.parse() != Ok(wanted.len()));
    match open {
        Some(file) if missing(&file) => None,
        Some(file) => Some(directory.join(file)),
        None => Some(directory.to_owned()),
    }
}

fn list(directory: &Path, prefix: &str, depth: usize, files: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        match entry.path().is_dir() {
            true if depth < 4 => list(&entry.path(), &format!("{prefix}{name}/"), depth + 1, files),
            true => {}
            false if entry.path().exists() => files.push(format!("{prefix}{name}")),
            false => {} // a link to what was removed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(location: &str, files: &[&str]) -> Result<(Vec<String>, Option<String>), HubError> {
        let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
        select(&location.parse()?, &files)
    }

    #[test]
    fn one_model_is_meant_and_two_are_a_question() {
        assert_eq!(choose("a/b", &["README.md", "x.gguf"]).expect("one").1.as_deref(), Some("x.gguf"));
        let several = choose("a/b", &["x.gguf", "y.gguf"]).expect_err("two");
        assert_eq!(several.to_string(), "a/b has 2 models; name one, for example a/b/x.gguf");
        assert_eq!(choose("a/b/y.gguf", &["x.gguf", "y.gguf"]).expect("named").0, ["y.gguf"]);
        assert!(matches!(choose("a/b/z.gguf", &["x.gguf"]), Err(HubError::NoFile { .. })));
        assert!(matches!(choose("a/b", &["config.json", "sub/model.safetensors"]), Err(HubError::NoModel(_))));
    }

    #[test]
    fn parts_come_together() {
        let files = ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf", "README.md"];
        let (wanted, open) = choose("a/b", &files).expect("one model");
        assert_eq!((wanted.len(), open.as_deref()), (2, Some("x-00001-of-00002.gguf")));
    }

    #[test]
    fn a_directory_has_what_loading_needs() {
        let files = [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "pytorch_model.bin",
            "onnx/model.onnx",
            ".gitattributes",
        ];
        let (wanted, open) = choose("a/b", &files).expect("a directory");
        assert_eq!(
            (wanted, open),
            (vec!["config.json".into(), "model.safetensors".into(), "tokenizer.json".into()], None)
        );
    }
}
