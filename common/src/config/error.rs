//! What can be wrong with a configuration, each in one line that names the key and where it was given.

use std::fmt;
use std::path::PathBuf;

/// Where a key was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file; the line if there is one to name (counted from 1).
    File {
        /// The file as the user named it.
        name: String,
        /// Line of the key.
        line: Option<usize>,
    },
    /// On the command line: the whole `key=value`.
    Set(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line: Some(line) } => write!(f, "{name}:{line}"),
            Self::File { name, line: None } => f.write_str(name),
            Self::Set(text) => write!(f, "--set {text}"),
        }
    }
}

/// A value that no run can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value} is out of range: {allowed}")]
pub struct OutOfRange {
    /// Dotted key.
    pub key: String,
    /// The value found.
    pub value: String,
    /// What is allowed, in words; names the other key where two have to fit.
    pub allowed: String,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of recipes or scenes cannot be read.
    #[error("{key}: cannot read {}: {source}", path.display())]
    Recipes {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{place}: not valid TOML: {message}")]
    Syntax {
        /// File and line.
        place: Place,
        /// What the parser says.
        message: String,
    },
    /// A `--set` that is not `key=value`.
    #[error("--set {0}: expected KEY=VALUE, for example --set train.steps=500")]
    NotAnAssignment(String),
    /// A key that no table has.
    #[error("unknown key {key} in {place}; did you mean {nearest}?")]
    UnknownKey {
        /// Dotted key.
        key: String,
        /// Where it was given.
        place: Place,
        /// The valid key most like it.
        nearest: String,
    },
    /// A key without which there is no run.
    #[error("missing key {key} in {place}")]
    MissingKey {
        /// Dotted key.
        key: String,
        /// The file.
        place: Place,
    },
    /// A value of the wrong type, or a word that is not among the choices.
    #[error("{key} in {place}: {message}")]
    WrongType {
        /// Dotted key.
        key: String,
        /// Where it was given.
        place: Place,
        /// What was found and what is expected.
        message: String,
    },
    /// A value that no run can use.
    #[error("{problem} (in {place})")]
    OutOfRange {
        /// Key, value and what is allowed.
        problem: OutOfRange,
        /// Where it was given; the file alone when the value is a default.
        place: Place,
    },
    /// The configuration cannot be written as TOML.
    #[error("cannot write the configuration as TOML: {0}")]
    Write(#[from] toml::ser::Error),
}
