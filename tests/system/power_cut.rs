//! The power goes at any moment: the newest acknowledged checkpoint is there afterwards.
//!
//! A run is watched by a library that writes down everything that it does to its files. From that every state is made up that a disk might
//! be in had the power gone after any one of these actions: nothing that was not synced has survived, or some of it by chance. That the
//! disk bites is shown by leaving syncs out.

mod disk;
mod trace;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::checkpoint::CheckpointStore;
use common::storage::Store;
use disk::{Disk, Ignored};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use trace::{Action, Traced};

use crate::lab::{Lab, PATIENCE, binary};
use crate::processes::Running;
use crate::records::wait_for;
use crate::torture::{Savers, memory_folder, seed};

/// What was done below a folder, and where in it the checkpoints are.
struct Story {
    actions: Vec<Action>,
    checkpoints: PathBuf,
    /// Which actions tell somebody that the checkpoint of a step is safe.
    acknowledges: fn(&Path, &[u8]) -> Option<u64>,
    /// Goes on with what a disk has kept, and sees that nothing stays in the way.
    goes_on: fn(&Path),
}

/// After one of so many cuts somebody goes on.
const GOES_ON_ONE_IN: u32 = 60;

/// Which path each open file was opened by.
type Open<'a> = HashMap<trace::File, &'a Path>;

/// A state in which an acknowledged checkpoint is lost, in words.
#[derive(Debug)]
struct Loss(String);

impl Story {
    /// Cuts the power after every action, each time with the worst outcome and with `chances` random ones. Stops at the first loss.
    /// Returns the number of states that were looked at.
    fn cut_everywhere(&self, ignored: Ignored, chances: usize, random: &mut StdRng) -> Result<usize, Loss> {
        let mut disk = Disk::new(ignored);
        let (mut acknowledged, mut states) = (0, 0);
        let mut open = Open::new();
        for (after, action) in self.actions.iter().enumerate() {
            let relevant = disk.apply(action);
            match action {
                Action::Open { file, path, .. } => drop(open.insert(*file, path)),
                Action::Write { file, bytes, .. } => {
                    let path = open.get(file).copied().unwrap_or(Path::new(""));
                    acknowledged = acknowledged.max((self.acknowledges)(path, bytes).unwrap_or_default());
                }
                _ => {}
            }
            // Where nothing has changed that a cut could take away, there is nothing to see.
            if !relevant || !self.concerns(action, &open) {
                continue;
            }
            for chance in 0..=chances {
                let folder = tempfile::tempdir_in(memory_folder()).unwrap();
                disk.cut(&self.checkpoints, folder.path(), (chance > 0).then_some(&mut *random));
                let found = newest(&folder.path().join(&self.checkpoints));
                if found.unwrap_or_default() < acknowledged {
                    return Err(Loss(format!(
                        "after action {after} of {}: step {acknowledged} was safe, and {found:?} is the newest",
                        self.actions.len()
                    )));
                }
                states += 1;
                if ignored == Ignored::Nothing && random.random_range(0..GOES_ON_ONE_IN) == 0 {
                    (self.goes_on)(folder.path());
                }
            }
        }
        assert!(acknowledged > 0, "nothing was ever acknowledged");
        Ok(states)
    }

    /// Whether an action is about the checkpoints or the way to them, or tells somebody of them.
    fn concerns(&self, action: &Action, open: &Open<'_>) -> bool {
        let ours = |path: &Path| path.starts_with(&self.checkpoints) || self.checkpoints.starts_with(path);
        match action {
            Action::Open { path, .. } | Action::Remove { path } | Action::MakeFolder { path } => ours(path),
            Action::Rename { to, .. } | Action::Link { to, .. } => ours(to),
            Action::Write { file, bytes, .. } => {
                open.get(file).is_some_and(|path| ours(path) || (self.acknowledges)(path, bytes).is_some())
            }
            Action::Resize { file, .. } | Action::Sync { file } => open.get(file).is_some_and(|path| ours(path)),
            Action::Close { .. } => false,
        }
    }

    /// Cuts everywhere and expects no loss; then leaves syncs out and expects losses.
    fn judge(&self, chances: usize) {
        let mut random = StdRng::seed_from_u64(seed());
        let states = self.cut_everywhere(Ignored::Nothing, chances, &mut random).unwrap_or_else(|Loss(loss)| panic!("{loss}"));
        println!("{states} states of the disk after {} actions", self.actions.len());
        assert!(states > 100, "{states} states are no test");
        for ignored in [Ignored::SyncsOfFiles, Ignored::SyncsOfFolders, Ignored::AllSyncs] {
            let Loss(loss) =
                self.cut_everywhere(ignored, 0, &mut random).expect_err("a disk that syncs nothing has to lose something");
            println!("{ignored:?}: {loss}");
        }
    }
}

/// The newest whole checkpoint in a folder.
fn newest(folder: &Path) -> Option<u64> {
    let store = CheckpointStore::new(Store::open(&folder.display().to_string()).unwrap());
    wait_for(store.newest_verified()).unwrap().0.map(|manifest| manifest.step)
}

#[test]
fn a_power_cut_at_any_moment_of_saving_loses_nothing_that_was_acknowledged() {
    cut_while_saving(6, |savers| savers);
}

#[test]
fn a_power_cut_while_large_parts_are_written_loses_nothing_that_was_acknowledged() {
    cut_while_saving(3, Savers::with_large_parts);
}

fn cut_while_saving(steps: u64, parts: fn(Savers) -> Savers) {
    let folder = tempfile::tempdir_in(memory_folder()).unwrap();
    let root = folder.path().join("root");
    let savers = parts(Savers::new(root.join("runs/x"), 2));
    let traced = Traced::new(&root, folder.path().join("trace"));
    for saver in savers.start(1, 0, steps, |command| traced.watch(command)) {
        saver.wait(PATIENCE).expect_success();
    }
    // The folders in which the checkpoints' own will be were made by somebody who has not synced them.
    let made = ["runs", "runs/x"].map(|path| Action::MakeFolder { path: path.into() });
    let actions = made.into_iter().chain(traced.actions()).collect();
    let acknowledges = |path: &Path, bytes: &[u8]| {
        (path.file_name()? == "acknowledged").then(|| String::from_utf8_lossy(bytes).trim().parse().unwrap())
    };
    let goes_on = |disk: &Path| Savers::new(disk.join("runs/x"), 2).assert_nothing_is_left_over(2);
    Story { actions, checkpoints: "runs/x/checkpoints".into(), acknowledges, goes_on }.judge(3);
}

#[test]
fn a_power_cut_at_any_moment_of_a_run_loses_nothing_that_the_journal_tells() {
    let lab = Lab::prepared();
    let trace = tempfile::tempdir_in(memory_folder()).unwrap();
    let traced = Traced::new(lab.path(), trace.path().join("trace"));
    let mut command = Command::new(binary("orchestrator"));
    command.args(["launch", "--config", "tiny.toml", "--set", "checkpoint.every_steps=10"]).current_dir(lab.path());
    traced.watch(&mut command);
    Running::start_piped(command).wait(PATIENCE).expect_success();
    let acknowledges = |path: &Path, bytes: &[u8]| {
        let line = (path.file_name()? == "journal.jsonl").then(|| serde_json::from_slice::<Value>(bytes).ok())??;
        (line["event"] == "checkpoint-committed").then(|| line["step"].as_u64())?
    };
    let goes_on = |_: &Path| ();
    Story { actions: traced.actions(), checkpoints: "runs/tiny/checkpoints".into(), acknowledges, goes_on }.judge(1);
}
