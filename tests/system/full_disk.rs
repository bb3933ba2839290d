//! A disk that is really full: the run says so, keeps what it has, leaves nothing half-written, and goes on when there is room.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::lab::{Lab, PATIENCE, binary};
use crate::object_server::{ObjectServer, READING};
use crate::processes::Running;
use crate::records::{final_weights, generations, newest, wait_for, weights_in};
use crate::snapshot::snapshot;
use crate::survival::{STEPS, undisturbed};
use common::storage::Store;

/// A small disk in memory; gone when dropped.
struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// A disk of `bytes` bytes. Nothing for those who may not mount it, root in a container among them: then `test` is to return, and
    /// counts as skipped.
    fn new(folder: PathBuf, bytes: u64, test: &str) -> Option<Self> {
        fs::create_dir(&folder).unwrap();
        match Self::mount(&folder, bytes, MsFlags::empty()) {
            Ok(()) => Some(Self { folder }),
            Err(Errno::EPERM | Errno::EACCES) => {
                // Past the capture of test output, for the summary of `make test`.
                let line = format!("skipped full_disk::{test}: a small disk needs the right to mount it\n");
                std::io::stderr().write_all(line.as_bytes()).unwrap();
                None
            }
            Err(error) => panic!("{}: {error}", folder.display()),
        }
    }

    fn mount(folder: &Path, bytes: u64, flags: MsFlags) -> nix::Result<()> {
        mount(Some("tmpfs"), folder, Some("tmpfs"), flags, Some(format!("size={bytes}").as_str()))
    }

    /// Makes it larger or smaller.
    fn resize(&self, bytes: u64) {
        Self::mount(&self.folder, bytes, MsFlags::MS_REMOUNT).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(&self.folder, MntFlags::MNT_DETACH).unwrap();
    }
}

/// Bytes that a checkpoint takes on a disk, by pages.
fn checkpoint_bytes() -> u64 {
    let lab = Lab::prepared();
    lab.launch(&["--set", "train.steps=1"]).expect_success();
    let (_, manifest) = newest(&lab.run().checkpoints()).unwrap();
    // Beside the parts: a manifest and the notes of two writers.
    manifest.parts.iter().map(|part| part.bytes.next_multiple_of(4096)).sum::<u64>() + 3 * 4096
}

/// Every file of a folder of checkpoints, to see what a failed save has left.
fn files(folder: &Path) -> Vec<String> {
    let store = Store::open(&folder.display().to_string()).unwrap();
    let written = wait_for(store.list("")).unwrap().into_iter().map(|entry| entry.name);
    written.chain(store.unfinished("")).collect()
}

#[test]
fn a_full_disk_ends_the_run_in_words_and_leaves_its_checkpoints_whole() {
    let lab = Lab::prepared();
    let bytes = checkpoint_bytes();
    // Two and a half: the third cannot be written before the first has made room.
    let Some(disk) =
        Disk::new(lab.path().join("small"), bytes * 5 / 2, "a_full_disk_ends_the_run_in_words_and_leaves_its_checkpoints_whole")
    else {
        return;
    };
    let url = format!("checkpoint.url={}", disk.folder.display());
    let ended = lab.launch(&["--set", "cluster.max_restarts=0", "--set", &url]);
    ended.expect_code(1);
    let cause = ended
        .stderr
        .lines()
        .find(|line| line.contains("no space is left on the device"))
        .unwrap_or_else(|| panic!("{}", ended.stderr));
    // The second failure in a row, unless the last step came before it was known.
    assert!(["checkpoints in a row", "the last one, could not be saved"].iter().any(|words| cause.contains(words)), "{cause}");
    for words in ["cannot write", disk.folder.to_str().unwrap(), "make room there, or choose another place"] {
        assert!(cause.contains(words), "{cause}");
    }
    let log = fs::read_to_string(lab.run().log_file(1, 0)).unwrap();
    assert!(log.contains("the checkpoint of step 24 was not saved, and training goes on"), "{log}");
    let why = lab.start(&["why", "runs/tiny"]).wait(PATIENCE);
    assert!(why.stdout.contains("the checkpoint of step 24 was not saved: "), "{}", why.stdout);

    assert_eq!(newest(&disk.folder).unwrap().1.step, 16);
    let left = files(&disk.folder);
    // A worker's note that it has failed may come after rank 0 has cleared away; the next checkpoint clears it away.
    let whole = |name: &str| name.starts_with("0000000008/") || name.starts_with("0000000016/") || !name.contains('/');
    assert!(left.iter().all(|name| whole(name) || name.ends_with("/share-00001.json")), "{left:?}");
    disk.resize(bytes * 7 / 2);
    lab.resume().expect_success();
    assert_eq!(newest(&disk.folder).unwrap().1.step, STEPS);
    // Parts, the notes of two writers and a manifest, twice; whose they are, and which is the newest.
    assert_eq!(files(&disk.folder).len(), 2 * (newest(&disk.folder).unwrap().1.parts.len() + 3) + 2);
}

#[test]
fn a_disk_that_was_full_for_a_while_costs_a_checkpoint_and_no_restart() {
    let lab = Lab::prepared();
    let bytes = checkpoint_bytes();
    let Some(disk) =
        Disk::new(lab.path().join("small"), bytes * 5 / 2, "a_disk_that_was_full_for_a_while_costs_a_checkpoint_and_no_restart")
    else {
        return;
    };
    let url = format!("checkpoint.url={}", disk.folder.display());
    let mut launch = lab.start_launch(&["--set", &url]);
    let log = lab.run().log_file(1, 0);
    launch.wait_until("a failed save", PATIENCE, || {
        fs::read_to_string(&log).unwrap_or_default().contains("was not saved").then_some(())
    });
    disk.resize(bytes * 7 / 2);
    launch.wait(PATIENCE).expect_success();
    assert_eq!(generations(&lab.run()), 1);
    assert_eq!(&weights_in(&disk.folder, STEPS), undisturbed());
    assert!(!lab.run().checkpoints().exists(), "only where the configuration says");
}

#[test]
fn a_data_set_that_does_not_fit_on_a_disk_is_told_once_and_goes_on_when_there_is_room() {
    let lab = Lab::prepared();
    let test = "a_data_set_that_does_not_fit_on_a_disk_is_told_once_and_goes_on_when_there_is_room";
    let Some(disk) = Disk::new(lab.path().join("small"), 96 << 10, test) else { return };
    let encode = ["--job", "encode", "--set", "data.latents=small/latents"];
    let words = ["cannot write", "small/latents/train/", "no space is left on the device", "make room there"];
    lab.launch(&encode).expect_refusal(&words);
    assert_eq!(Store::open(disk.folder.to_str().unwrap()).unwrap().unfinished(""), [] as [String; 0]);
    disk.resize(4 << 20);
    lab.launch(&encode).expect_success();
    assert_eq!(snapshot(&disk.folder.join("latents")), snapshot(&lab.path().join("data/latents")));
}

#[test]
fn a_full_disk_ends_the_caching_of_blocks_and_nothing_else() {
    let lab = Lab::prepared();
    // Room for the marks of the cache and no block.
    let Some(disk) = Disk::new(lab.path().join("small"), 3 * 4096, "a_full_disk_ends_the_caching_of_blocks_and_nothing_else")
    else {
        return;
    };
    let server = ObjectServer::start(READING, u32::MAX, 0);
    server.behave();
    server.fill("latents", &lab.path().join("data/latents"));
    let mut command = Command::new(binary("orchestrator"));
    command.args(["launch", "--config", "tiny.toml", "--set", "data.latents=s3://bucket/latents"]).current_dir(lab.path());
    command.args(["--set", &format!("data.cache_folder={}", disk.folder.display())]);
    server.introduce(&mut command);
    Running::start_piped(command).wait(PATIENCE).expect_success();
    assert_eq!(&final_weights(&lab.run(), STEPS), undisturbed());
    for rank in [0, 1] {
        let log = fs::read_to_string(lab.run().log_file(1, rank)).unwrap();
        let warnings: Vec<&str> = log.lines().filter(|line| line.contains("cache") && line.contains("No space left")).collect();
        assert_eq!(warnings.len(), 1, "{log}");
    }
}
