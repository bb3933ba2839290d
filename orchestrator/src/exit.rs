//! How commands fail: bad input, which the user mends, or anything else; and the exit codes of both.

use std::fmt;
use std::process::ExitCode;

use common::cause::one_line;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Command line, configuration, data or run folder are wrong. Exit code 2.
    BadInput(anyhow::Error),
    /// Anything else. Exit code 1.
    Other(anyhow::Error),
}

impl Failure {
    /// Bad input, described in one line.
    pub(crate) fn bad_input(text: impl fmt::Display) -> Self {
        Self::BadInput(anyhow::anyhow!("{text}"))
    }

    /// The exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Other(_) => ExitCode::from(1),
            Self::BadInput(_) => ExitCode::from(2),
        }
    }
}

impl fmt::Display for Failure {
    /// The whole chain of causes in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadInput(error) | Self::Other(error) => f.write_str(&one_line(error.as_ref())),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Marks errors as bad input.
pub(crate) trait OrBadInput<T> {
    /// The value, or the error as bad input.
    fn or_bad_input(self) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrBadInput<T> for Result<T, E> {
    fn or_bad_input(self) -> Result<T, Failure> {
        self.map_err(|error| Failure::BadInput(error.into()))
    }
}
