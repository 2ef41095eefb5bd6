//! What `BITNET_PERF_TRACK` asks for.

use crate::InferenceError;
use std::path::PathBuf;

const NAME: &str = "BITNET_PERF_TRACK";

/// Whether engines of this process are tracked, and where a program puts the record at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PerfTrack {
    /// Unset, empty or `0`.
    #[default]
    Off,
    /// `1`: to standard error.
    On,
    /// A path that ends in `.json`: to this file.
    File(PathBuf),
}

impl PerfTrack {
    /// Reads `BITNET_PERF_TRACK`.
    ///
    /// # Errors
    /// Anything but `0`, `1` or a path that ends in `.json`.
    pub fn from_env() -> Result<Self, InferenceError> {
        match std::env::var(NAME) {
            Ok(value) => Self::parse(&value),
            Err(std::env::VarError::NotPresent) => Ok(PerfTrack::Off),
            Err(std::env::VarError::NotUnicode(value)) => Self::refuse(&value.to_string_lossy()),
        }
    }

    /// Whether there is anything to track.
    pub fn is_on(&self) -> bool {
        *self != PerfTrack::Off
    }

    fn parse(value: &str) -> Result<Self, InferenceError> {
        match value.trim() {
            "" | "0" => Ok(PerfTrack::Off),
            "1" => Ok(PerfTrack::On),
            path if path.ends_with(".json") => Ok(PerfTrack::File(path.into())),
            other => Self::refuse(other),
        }
    }

    fn refuse(value: &str) -> Result<Self, InferenceError> {
        let reason = format!("{value:?} is neither 0 (off), 1 (on) nor the path of a .json file to write");
        Err(InferenceError::Option { option: NAME, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::PerfTrack;

    #[test]
    fn off_when_nothing_zero_or_blank_is_said() {
        for value in ["", "0", "  ", " 0 "] {
            let parsed = PerfTrack::parse(value).expect("valid");
            assert_eq!(parsed, PerfTrack::Off, "{value:?}");
            assert!(!parsed.is_on());
        }
    }

    #[test]
    fn one_is_on() {
        assert_eq!(PerfTrack::parse("1").expect("valid"), PerfTrack::On);
        assert_eq!(PerfTrack::parse(" 1\n").expect("valid"), PerfTrack::On);
    }

    #[test]
    fn a_json_path_is_a_file() {
        let parsed = PerfTrack::parse("some where/track.json").expect("valid");
        assert_eq!(parsed, PerfTrack::File("some where/track.json".into()));
        assert!(parsed.is_on());
    }

    #[test]
    fn anything_else_is_refused_and_quoted() {
        for value in ["yes", "true", "2", "track.txt", "-1", "json"] {
            let error = PerfTrack::parse(value).expect_err(value).to_string();
            assert!(error.contains("BITNET_PERF_TRACK") && error.contains(value), "{error}");
        }
    }
}
