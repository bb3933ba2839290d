//! Which git revision files are of. The build scripts of both binaries use this file too, to put their own into them.

use std::path::Path;
use std::process::{Command, Stdio};

/// The revision of the checkout that `folder` lies in, by its first 12 digits; with `-dirty` if anything at `paths` (relative to `folder`)
/// is not as it was committed. None outside of a checkout, without commits, and without git.
#[must_use]
pub fn of(folder: &Path, paths: &[&str]) -> Option<String> {
    let commit = git(folder, &["rev-parse", "--short=12", "HEAD"])?;
    let changes = git(folder, &[&["status", "--porcelain", "--untracked-files=all", "--"], paths].concat())?;
    Some(if changes.is_empty() { commit } else { format!("{commit}-dirty") })
}

/// What git says, if it has no objection.
fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    // Looking must not take the lock of somebody who commits.
    git.arg("--no-optional-locks").arg("-C").arg(folder).args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
    let output = git.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_revision_is_that_of_the_last_commit_and_tells_of_changes_at_its_paths_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(of(folder.path(), &["."]), None, "no checkout");
        let run = |arguments: &[&str]| {
            let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
            git(folder.path(), &[&identity, arguments].concat()).unwrap_or_default()
        };
        run(&["init", "--quiet"]);
        fs::create_dir(folder.path().join("configs")).unwrap();
        fs::write(folder.path().join("configs/a.toml"), "a").unwrap();
        assert_eq!(of(folder.path(), &["."]), None, "no commit");
        run(&["add", "."]);
        run(&["commit", "--quiet", "--message", "first"]);
        let commit = run(&["rev-parse", "HEAD"])[..12].to_owned();
        let configs = folder.path().join("configs");
        assert_eq!(of(&configs, &["."]), Some(commit.clone()));
        fs::write(folder.path().join("elsewhere"), "b").unwrap();
        assert_eq!(of(&configs, &["."]), Some(commit.clone()), "a change elsewhere");
        fs::write(configs.join("new.toml"), "b").unwrap();
        assert_eq!(of(&configs, &["."]), Some(format!("{commit}-dirty")));
    }
}
