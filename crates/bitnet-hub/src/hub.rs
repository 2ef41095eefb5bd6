//! The hub: what a repository has, and all files of a model.

use crate::digest::{Expected, is_hex};
use crate::download::{Progress, Wanted};
use crate::location::is_relative;
use crate::{Cache, HubError, Location, selection, tls};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::Agent;
use ureq::http::{StatusCode, header};

/// A repository's description is never longer.
const DESCRIPTION: u64 = 32 << 20;

/// A hub with a cache.
pub struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    offline: bool,
    cache: Cache,
}

/// A file as the hub describes it.
struct Described {
    name: String,
    size: u64,
    expected: Expected,
}

impl Hub {
    /// As the environment says: `HF_ENDPOINT`, `HF_TOKEN` (or the file that `huggingface-cli login` writes),
    /// `HF_HUB_OFFLINE`, and where the cache is. Proxies are those of `HTTPS_PROXY`.
    ///
    /// # Errors
    /// An endpoint that is none; no home for the cache.
    pub fn from_env() -> Result<Self, HubError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let cache = Cache::from_env()?;
        let home = cache.root().parent().map(|home| home.join("token"));
        let file = variable("HF_TOKEN_PATH").map(PathBuf::from).or(home);
        let saved = || fs::read_to_string(file?).ok().filter(|token| !token.trim().is_empty());
        let token = variable("HF_TOKEN").or_else(saved).map(|token| token.trim().to_owned());
        let on = |value: String| matches!(value.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true");
        let offline = variable("HF_HUB_OFFLINE").is_some_and(on);
        Self::new(&endpoint, token, offline, cache)
    }

    /// A hub at an address.
    ///
    /// # Errors
    /// An address that is neither `http://` nor `https://`, or cannot be spoken to on this machine.
    pub fn new(endpoint: &str, token: Option<String>, offline: bool, cache: Cache) -> Result<Self, HubError> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            let reason = format!("{endpoint:?} is no address: expected https://…");
            return Err(HubError::Setting { variable: "HF_ENDPOINT", reason });
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("bitnet/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_secs(60)));
        if !offline {
            config = config.tls_config(tls::config(&endpoint)?);
        }
        Ok(Hub { agent: config.build().new_agent(), endpoint, token, offline, cache })
    }

    /// Where it keeps models.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Brings a model into the cache, as far as it is not there, and gives the path to open. `progress` may say stop; what
    /// came until then is kept, and the next pull goes on from there.
    ///
    /// # Errors
    /// The hub, the way to it, the disk, or a file that is not what the hub promised.
    pub fn pull(
        &self,
        location: &Location,
        revision: &str,
        progress: &mut dyn FnMut(Progress<'_>) -> bool,
    ) -> Result<PathBuf, HubError> {
        if self.offline {
            return self.cache.find_revision(location, revision).ok_or_else(|| HubError::Offline(location.to_string()));
        }
        if !is_relative(revision) {
            return Err(HubError::Location(revision.to_owned()));
        }
        let (commit, mut files) = self.describe(location, revision)?;
        let names: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
        let (wanted, open) = selection::select(location, &names)?;
        files.retain(|file| wanted.contains(&file.name));

        let repository = self.cache.repository(location.repository());
        let snapshot = repository.join("snapshots").join(&commit);
        let blobs = repository.join("blobs");
        create(&blobs)?;
        let total = files.iter().fold(0, |sum: u64, file| sum.saturating_add(file.size));
        let mut done = 0;
        for file in &files {
            let Described { name, size, expected } = file;
            let url = format!("{}/{}/resolve/{commit}/{}", self.endpoint, location.repository(), escaped(name));
            let wanted = Wanted { url, token: self.token.as_deref(), name, size: *size, expected };
            let mut step = |at| progress(Progress { file: name, done: done + at, total });
            let blob = wanted.fetch(&self.agent, &blobs, &mut step)?;
            link(&blob, &snapshot.join(name))?;
            done += size;
        }
        let reference = repository.join("refs").join(revision);
        if !is_hex(revision, 40) {
            reference.parent().map_or(Ok(()), create)?;
            fs::write(&reference, &commit).map_err(HubError::io(&reference))?;
        }
        Ok(open.map_or(snapshot.clone(), |file| snapshot.join(file)))
    }

    /// The commit that a revision is, and its files.
    fn describe(&self, location: &Location, revision: &str) -> Result<(String, Vec<Described>), HubError> {
        let (endpoint, repository) = (&self.endpoint, location.repository());
        let url =
            format!("{endpoint}/api/models/{repository}/revision/{}?blobs=true", escaped(revision).replace('/', "%2F"));
        let mut request = self.agent.get(&url);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let connection = |error: ureq::Error| HubError::Connection { url: url.clone(), reason: error.to_string() };
        let mut response = request.call().map_err(connection)?;
        if response.status() != StatusCode::OK {
            return Err(refused(&url, response.status()));
        }
        let wrong = |reason: &str| HubError::Answer { url: url.clone(), reason: reason.to_owned() };
        let bytes = response.body_mut().with_config().limit(DESCRIPTION).read_to_vec().map_err(connection)?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| wrong(&format!("no JSON: {error}")))?;
        let commit =
            value["sha"].as_str().filter(|commit| is_hex(commit, 40)).ok_or_else(|| wrong("it names no commit"))?;
        let siblings = value["siblings"].as_array().ok_or_else(|| wrong("it lists no files"))?;
        let describe = |file: &Value| {
            let name = file["rfilename"].as_str().filter(|name| is_relative(name));
            let name = name.ok_or_else(|| wrong("a file's name leads elsewhere"))?;
            let incomplete = || wrong(&format!("{name} has no size or no hash"));
            let large = &file["lfs"];
            let (size, expected) = match large["sha256"].as_str() {
                Some(hex) => (large["size"].as_u64().or(file["size"].as_u64()), Expected::sha256(hex)),
                None => (file["size"].as_u64(), file["blobId"].as_str().and_then(Expected::git_blob)),
            };
            let (size, expected) = (size.ok_or_else(incomplete)?, expected.ok_or_else(incomplete)?);
            Ok(Described { name: name.to_owned(), size, expected })
        };
        Ok((commit.to_owned(), siblings.iter().map(describe).collect::<Result<_, HubError>>()?))
    }
}

/// What a status means to the user.
pub(crate) fn refused(url: &str, status: StatusCode) -> HubError {
    let advice = match status.as_u16() {
        401 => "it is not there, or it is private: set HF_TOKEN to a token that may read it",
        403 => "the token may not read it: accept the model's terms on its page, or set another HF_TOKEN",
        404 => "it is not there; check the name and the revision",
        429 => "too many requests: wait a little",
        500.. => "the hub is in trouble: try again later",
        _ => "the hub does not want to",
    };
    HubError::Refused { url: url.to_owned(), status: status.as_u16(), advice }
}

fn create(path: &Path) -> Result<(), HubError> {
    fs::create_dir_all(path).map_err(HubError::io(path))
}

/// Lets a name of a snapshot stand for a blob.
fn link(blob: &Path, name: &Path) -> Result<(), HubError> {
    if name.exists() {
        return Ok(());
    }
    name.parent().map_or(Ok(()), create)?;
    let _ = fs::remove_file(name); // a link that leads nowhere any more
    #[cfg(unix)]
    {
        // from the name up to the repository, then down: the cache may be moved
        let file = blob.file_name().unwrap_or_default();
        let repository = blob.ancestors().nth(2).unwrap_or(Path::new(""));
        let up = name.strip_prefix(repository).map_or(0, |path| path.components().count().saturating_sub(1));
        let target = std::iter::repeat_n("..", up).collect::<PathBuf>().join("blobs").join(file);
        std::os::unix::fs::symlink(target, name).map_err(HubError::io(name))
    }
    #[cfg(not(unix))]
    fs::hard_link(blob, name).map_err(HubError::io(name))
}

/// A path in an address.
fn escaped(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    path.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
