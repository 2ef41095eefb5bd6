//! Where models lie: the layout of Hugging Face's own tools, `models--owner--name/{blobs, refs, snapshots}`.

use crate::digest::is_hex;
use crate::{HubError, Location, selection};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The cache.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// A repository in the cache.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Stored {
    /// `owner/name`.
    pub repository: String,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Bytes of downloads that were interrupted, which are part of `bytes`.
    pub unfinished: u64,
    /// What `--model owner/name` opens, if that is clear.
    pub model: Option<PathBuf>,
    /// Its folder.
    pub path: PathBuf,
}

impl Cache {
    /// The cache of this user: `HF_HUB_CACHE`, or `hub` in `HF_HOME`, or in `~/.cache/huggingface`.
    ///
    /// # Errors
    /// No variable says where, and there is no home.
    pub fn from_env() -> Result<Self, HubError> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(root) = variable("HF_HUB_CACHE") {
            return Ok(Cache { root });
        }
        let home = || std::env::home_dir().map(|home| home.join(".cache"));
        let shared = || variable("XDG_CACHE_HOME").or_else(home).map(|cache| cache.join("huggingface"));
        let home = variable("HF_HOME").or_else(shared);
        let none = || HubError::Setting { variable: "HF_HOME", reason: "is not set, and this user has no home".into() };
        Ok(Cache { root: home.ok_or_else(none)?.join("hub") })
    }

    /// A cache at a folder.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Cache { root: root.into() }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn repository(&self, name: &str) -> PathBuf {
        self.root.join(format!("models--{}", name.replacen('/', "--", 1)))
    }

    /// What was pulled last as `main` (or else as any other revision), if it is whole.
    pub fn find(&self, location: &Location) -> Option<PathBuf> {
        self.find_revision(location, "main").or_else(|| {
            let snapshots = fs::read_dir(self.repository(location.repository()).join("snapshots")).ok()?;
            snapshots.flatten().find_map(|snapshot| selection::model_in(&snapshot.path(), location))
        })
    }

    /// What was pulled as a revision, if it is whole.
    pub(crate) fn find_revision(&self, location: &Location, revision: &str) -> Option<PathBuf> {
        let repository = self.repository(location.repository());
        let commit = match is_hex(revision, 40) {
            true => revision.to_owned(),
            false => fs::read_to_string(repository.join("refs").join(revision)).ok()?.trim().to_owned(),
        };
        is_hex(&commit, 40).then(|| selection::model_in(&repository.join("snapshots").join(commit), location))?
    }

    /// The name of a model by its path, if it lies in a cache of this form.
    pub fn name_of(path: &Path) -> Option<String> {
        let folder = |part: Component<'_>| part.as_os_str().to_str()?.strip_prefix("models--").map(String::from);
        let mut parts = path.components().rev().skip_while(|part| part.as_os_str() != "snapshots");
        parts.next()?;
        folder(parts.next()?).map(|folder| folder.replacen("--", "/", 1))
    }

    /// All models, by name.
    ///
    /// # Errors
    /// The folder cannot be read; none at all is no error.
    pub fn list(&self) -> Result<Vec<Stored>, HubError> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(HubError::io(&self.root))?,
        };
        let mut list: Vec<Stored> = entries.flatten().filter_map(|entry| self.stored(&entry.path())).collect();
        list.sort_by(|a, b| a.repository.cmp(&b.repository));
        Ok(list)
    }

    fn stored(&self, path: &Path) -> Option<Stored> {
        let repository = path.file_name()?.to_str()?.strip_prefix("models--")?.replacen("--", "/", 1);
        let location: Location = repository.parse().ok()?;
        let (mut bytes, mut unfinished) = (0, 0);
        for blob in fs::read_dir(path.join("blobs")).into_iter().flatten().flatten() {
            let size = blob.metadata().map_or(0, |metadata| metadata.len());
            bytes += size;
            if blob.path().extension().is_some_and(|ending| ending == "incomplete") {
                unfinished += size;
            }
        }
        Some(Stored { model: self.find(&location), repository, bytes, unfinished, path: path.to_owned() })
    }

    /// Removes a repository with all of its files and revisions; false when it is not there.
    ///
    /// # Errors
    /// Files that cannot be removed.
    pub fn remove(&self, location: &Location) -> Result<bool, HubError> {
        let path = self.repository(location.repository());
        match fs::remove_dir_all(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(HubError::io(path)(error)),
        }
    }
}
