//! One file: whole, in pieces over several connections if need be, and the right one.

use crate::HubError;
use crate::digest::{Expected, Hasher};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::Agent;
use ureq::http::{Response, StatusCode, header};

/// Connections in a row that may bring nothing.
const FRUITLESS: u32 = 5;

/// How far a pull has got.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The file under way.
    pub file: &'a str,
    /// Bytes of all files that are there.
    pub done: u64,
    /// Bytes of all files.
    pub total: u64,
}

/// What to fetch.
pub(crate) struct Wanted<'a> {
    pub(crate) url: String,
    pub(crate) token: Option<&'a str>,
    pub(crate) name: &'a str,
    pub(crate) size: u64,
    pub(crate) expected: &'a Expected,
}

impl Wanted<'_> {
    /// Brings the file to `blobs/<hash>` and gives that path. `step` hears how many bytes are there and may say stop.
    pub(crate) fn fetch(
        &self,
        agent: &Agent,
        blobs: &Path,
        step: &mut dyn FnMut(u64) -> bool,
    ) -> Result<PathBuf, HubError> {
        let whole = blobs.join(self.expected.hex());
        if fs::metadata(&whole).is_ok_and(|metadata| metadata.len() == self.size) {
            return Ok(whole); // it came there by a rename, after its hash was seen
        }
        let path = blobs.join(format!("{}.incomplete", self.expected.hex()));
        let mut file =
            OpenOptions::new().create(true).read(true).append(true).open(&path).map_err(HubError::io(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(HubError::Busy(path)),
            Err(TryLockError::Error(error)) => return Err(HubError::io(&path)(error)),
        }
        let (mut hasher, mut at) = self.rehash(&mut file, &path, step)?;
        let mut fruitless = 0;
        while at < self.size {
            let before = at;
            let broken = self.connect(agent, &mut file, &path, &mut hasher, &mut at, step)?;
            let Some(reason) = broken else { break };
            fruitless = if at > before { 0 } else { fruitless + 1 };
            if fruitless == FRUITLESS {
                return Err(HubError::Connection { url: self.url.clone(), reason });
            }
            std::thread::sleep(Duration::from_millis(200 << fruitless));
        }
        let found = hasher.hex();
        if found != self.expected.hex() {
            drop(file);
            fs::remove_file(&path).map_err(HubError::io(&path))?;
            return Err(HubError::Hash { file: self.name.to_owned(), found, expected: self.expected.hex().to_owned() });
        }
        file.sync_all().map_err(HubError::io(&path))?;
        drop(file);
        fs::rename(&path, &whole).map_err(HubError::io(&whole))?;
        Ok(whole)
    }

    /// Hashes what an earlier run has left.
    fn rehash(
        &self,
        file: &mut File,
        path: &Path,
        step: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(Hasher, u64), HubError> {
        let mut hasher = self.expected.begin(self.size);
        let length = file.metadata().map_err(HubError::io(path))?.len();
        if length > self.size {
            file.set_len(0).map_err(HubError::io(path))?;
            return Ok((hasher, 0));
        }
        let mut buffer = vec![0; 1 << 16];
        let mut at = 0;
        loop {
            let read = file.read(&mut buffer).map_err(HubError::io(path))?;
            if read == 0 {
                return Ok((hasher, at));
            }
            hasher.update(&buffer[..read]);
            at += read as u64;
            if !step(at) {
                return Err(HubError::Cancelled);
            }
        }
    }

    /// Reads on from `at`. `Some` tells why the connection ended too early.
    fn connect(
        &self,
        agent: &Agent,
        file: &mut File,
        path: &Path,
        hasher: &mut Hasher,
        at: &mut u64,
        step: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<String>, HubError> {
        let mut request = agent.get(&self.url).header(header::ACCEPT_ENCODING, "identity");
        if *at > 0 {
            request = request.header(header::RANGE, format!("bytes={at}-"));
        }
        if let Some(token) = self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(error) => return Ok(Some(error.to_string())),
        };
        let status = response.status();
        match status {
            StatusCode::PARTIAL_CONTENT if begins_at(&response, *at) => {}
            StatusCode::OK | StatusCode::PARTIAL_CONTENT if *at > 0 => {
                // it does not continue: from the begin, then
                file.set_len(0).map_err(HubError::io(path))?;
                (*hasher, *at) = (self.expected.begin(self.size), 0);
                if status == StatusCode::PARTIAL_CONTENT {
                    return Ok(Some("another part came than was asked for".into()));
                }
            }
            StatusCode::OK => {}
            status if status.is_server_error() => return Ok(Some(format!("status {}", status.as_u16()))),
            status => return Err(crate::hub::refused(&self.url, status)),
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) if *at == self.size => return Ok(None),
                Ok(0) => return Ok(Some(format!("the connection ended at {at} of {} bytes", self.size))),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Some(error.to_string())),
            };
            if self.size - *at < read as u64 {
                let reason = format!("more than the {} bytes come that the hub promised", self.size);
                return Err(HubError::Answer { url: self.url.clone(), reason });
            }
            file.write_all(&buffer[..read]).map_err(HubError::io(path))?;
            hasher.update(&buffer[..read]);
            *at += read as u64;
            if !step(*at) {
                return Err(HubError::Cancelled);
            }
        }
    }
}

/// `Content-Range: bytes 7-9/10` begins at 7.
fn begins_at<B>(response: &Response<B>, at: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
    first == Some(at)
}
