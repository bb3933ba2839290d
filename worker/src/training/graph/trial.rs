//! A file that is there while something is risked. Whoever finds it at the start knows that somebody before has not survived, and does not
//! risk it again: a run must not be lost by what only makes it faster.

use std::fs::{OpenOptions, remove_file};
use std::io::ErrorKind;
use std::path::PathBuf;

/// The trial of sums as parts of CUDA graphs, which may break the communicator, or never end.
#[derive(Debug, Default)]
pub struct Trial {
    /// None where another worker keeps the file.
    file: Option<PathBuf>,
    under_way: bool,
}

impl Trial {
    /// One worker of a run keeps the file, and speaks for all.
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file, under_way: false }
    }

    /// Begins, unless somebody has not survived it, or nobody would learn of that.
    pub(super) fn begin(&mut self) -> bool {
        let Some(file) = &self.file else { return true };
        match OpenOptions::new().write(true).create_new(true).open(file) {
            Ok(_) => self.under_way = true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let file = file.display();
                tracing::warn!(
                    "no sums in CUDA graphs: an earlier generation ended when it tried that; remove {file} to try again"
                );
            }
            Err(error) => tracing::warn!("no sums in CUDA graphs: {}: {error}", file.display()),
        }
        self.under_way
    }

    /// It has ended well, or is given up.
    pub(super) fn end(&mut self) {
        if let Some(file) = self.file.as_ref().filter(|_| self.under_way)
            && let Err(error) = remove_file(file)
        {
            tracing::warn!("{}: {error}", file.display());
        }
        self.under_way = false;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_did_not_survive_is_not_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trial");
        let trial = || Trial::new(Some(file.clone()));
        let mut survived = trial();
        assert!(survived.begin() && file.exists());
        survived.end();
        assert!(!file.exists());
        assert!(trial().begin(), "and now the process dies");
        let mut next = trial();
        assert!(!next.begin());
        next.end();
        assert!(file.exists(), "whoever has not tried has nothing to forget");
        assert!(!Trial::new(Some(folder.path().join("missing/trial"))).begin(), "nobody would learn of it");
        assert!(Trial::default().begin());
    }
}
