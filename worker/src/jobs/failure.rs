//! Which failures a user mends by changing input, and which are the program's or the machine's.

use std::fmt;

/// Marks an error whose cause is the user's input: configuration, data set, checkpoint, folder. It prints as the error itself.
#[derive(Debug)]
pub struct BadInput(anyhow::Error);

impl BadInput {
    /// Marks `error` as caused by input.
    pub fn new(error: impl Into<anyhow::Error>) -> Self {
        Self(error.into())
    }

    /// Bad input described in one line.
    pub fn message(text: impl fmt::Display) -> Self {
        Self(anyhow::anyhow!("{text}"))
    }
}

impl fmt::Display for BadInput {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl std::error::Error for BadInput {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// The two kinds of failure, which restarts and exit codes tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Trying again cannot help: the input must change. Exit code 2.
    BadInput,
    /// Anything else. Exit code 1.
    Failure,
}

impl FailureKind {
    /// The kind of `error`: bad input if anything in its chain is marked so.
    pub fn of(error: &anyhow::Error) -> Self {
        if error.chain().any(|cause| cause.is::<BadInput>()) { Self::BadInput } else { Self::Failure }
    }

    /// The worker's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failure => 1,
            Self::BadInput => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn bad_input_is_found_below_context_and_prints_as_itself() {
        let error: anyhow::Error = BadInput::message("data.latents: no such folder").into();
        let error = Err::<(), _>(error).context("training could not start").unwrap_err();
        assert_eq!(FailureKind::of(&error), FailureKind::BadInput);
        assert_eq!(format!("{error:#}"), "training could not start: data.latents: no such folder");
        assert_eq!(FailureKind::of(&anyhow::anyhow!("disk full")), FailureKind::Failure);
    }
}
