//! Checkpoints that are saved, cleared away and loaded by processes that are killed all the time: at random moments, and at every moment that
//! has a name. Whatever was acknowledged before is there afterwards, and nothing is left over.
//!
//! `LSD_CRASHES` says how often somebody is killed, and `LSD_TEST_SEED` brings back the moments of a run that failed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::checkpoint::CheckpointStore;
use common::crash::{self, Order, Point};
use common::storage::Store;
use nix::sys::signal::{Signal, kill};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::lab::{PATIENCE, binary};
use crate::object_server::{ANY, ObjectServer};
use crate::processes::Running;
use crate::records::wait_for;

/// The seed of a test with chance in it, which a failing test shows.
pub fn seed() -> u64 {
    let seed = std::env::var("LSD_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("LSD_TEST_SEED={seed}");
    seed
}

/// How many crashes: as asked for, or `otherwise`.
pub fn crashes(otherwise: usize) -> usize {
    std::env::var("LSD_CRASHES").map_or(otherwise, |count| count.parse().unwrap())
}

/// A folder in memory, where there is one: a killed process loses nothing that a disk would keep, and a disk would only take time.
pub fn memory_folder() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

/// Processes that save checkpoints together and do nothing else (`examples/saver.rs`).
pub struct Savers {
    folder: PathBuf,
    url: String,
    count: usize,
    /// Of each part.
    bytes: usize,
}

/// Parts of the second size are written past the page cache.
const SIZES: [usize; 2] = [4096, 300_001];

impl Savers {
    /// `count` of them, with everything in `folder`.
    pub fn new(folder: PathBuf, count: usize) -> Self {
        let url = folder.join("checkpoints").display().to_string();
        Self::saving_at(url, folder, count)
    }

    /// `count` of them with checkpoints elsewhere.
    pub fn saving_at(url: String, folder: PathBuf, count: usize) -> Self {
        fs::create_dir_all(&folder).unwrap();
        Self { folder, url, count, bytes: SIZES[0] }
    }

    /// The same with parts that are written past the page cache.
    pub fn with_large_parts(self) -> Self {
        Self { bytes: SIZES[1], ..self }
    }

    /// The checkpoints.
    pub fn store(&self) -> Store {
        Store::open(&self.url).unwrap()
    }

    /// The newest step that somebody was told is safe.
    pub fn acknowledged(&self) -> u64 {
        let text = fs::read_to_string(self.folder.join("acknowledged")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).max().unwrap_or_default()
    }

    /// The newest step that is there, whole; and nothing that calls itself a checkpoint is not.
    pub fn newest(&self) -> u64 {
        self.newest_in(self.store())
    }

    /// The same of checkpoints that were brought elsewhere.
    fn newest_in(&self, store: Store) -> u64 {
        let (newest, skipped) = wait_for(CheckpointStore::new(store).newest_verified()).unwrap();
        assert_eq!(skipped, [], "a crash does not damage what was committed");
        let Some(manifest) = newest else { return 0 };
        assert_eq!(manifest.parts.len(), 2 * self.count);
        manifest.step
    }

    /// Starts them all on the steps after `from` up to `to`; `prepare` changes the command of each.
    pub fn start(&self, generation: u64, from: u64, to: u64, prepare: impl Fn(&mut Command)) -> Vec<Running> {
        let nonce: u64 = rand::random();
        let start = |rank: usize| {
            let mut command = Command::new(binary("examples/saver"));
            command.arg(&self.url).arg(self.folder.join("acknowledged"));
            command.args([generation, nonce, from, to, self.bytes as u64].map(|number| number.to_string()));
            command.env("RANK", rank.to_string()).env("WORLD_SIZE", self.count.to_string());
            prepare(&mut command);
            Running::start_piped(command)
        };
        (0..self.count).map(start).collect()
    }

    /// After saving two more steps in peace, two checkpoints are there, and not one file besides.
    pub fn assert_nothing_is_left_over(&self, generation: u64) {
        let from = self.newest();
        for saver in self.start(generation, from, from + 2, |_| ()) {
            saver.wait(PATIENCE).expect_success();
        }
        assert_eq!((self.newest(), self.acknowledged()), (from + 2, from + 2));
        let store = self.store();
        let names: Vec<String> = wait_for(store.list("")).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names.len(), self.objects_of_two(), "{names:?}");
        assert_eq!(store.unfinished(""), Vec::<String>::new());
    }

    /// Objects that two checkpoints consist of: parts, notes of the writers and a manifest, each twice; whose they are, and which is the
    /// newest.
    fn objects_of_two(&self) -> usize {
        2 * (2 * self.count + self.count + 1) + 2
    }
}

/// Until one of the processes has ended, or the time is over.
fn until_one_ends(savers: &mut [Running], patience: Duration) {
    let started = Instant::now();
    while savers.iter_mut().all(Running::is_running) && started.elapsed() < patience {
        sleep(Duration::from_millis(1));
    }
}

/// Somebody is killed: by name of the moment, or by the clock.
fn strike(savers: &Savers, generation: u64, folder: &Path, random: &mut StdRng) {
    let from = savers.newest();
    let to = from + 1000;
    // Not those of a worker alone: see survival of the real one.
    let points: Vec<Point> = Point::ALL.into_iter().filter(|point| !matches!(point, Point::Copying | Point::Restoring)).collect();
    if random.random() {
        let point = points[random.random_range(0..points.len())];
        // Rank 0 passes all of them.
        let everybody = matches!(point, Point::PartWritten | Point::ShareWritten);
        let rank = if everybody { random.random_range(0..savers.count) } else { 0 };
        let order = Order { point, pass: random.random_range(1..8), rank, done: folder.join(format!("done-{generation}")) };
        let mut running = savers.start(generation, from, to, |command| {
            command.env(crash::VARIABLE, order.to_string());
        });
        until_one_ends(&mut running, PATIENCE);
        assert!(order.done.exists(), "{order} did not happen");
        sleep(Duration::from_millis(random.random_range(0..5)));
    } else {
        let running = savers.start(generation, from, to, |_| ());
        sleep(Duration::from_micros(random.random_range(0..40_000)));
        let victim = random.random_range(0..=savers.count);
        if let Some(victim) = running.get(victim) {
            kill(victim.pid(), Signal::SIGKILL).unwrap();
            sleep(Duration::from_millis(random.random_range(0..5)));
        }
        // Dropped, which ends the others too; at the same time, if there is no one victim.
    }
}

#[test]
fn hundreds_of_kills_while_saving_and_clearing_away_lose_nothing_and_leave_nothing() {
    let folder = tempfile::tempdir_in(memory_folder()).unwrap();
    let mut savers = Savers::new(folder.path().join("run"), 3);
    let mut random = StdRng::seed_from_u64(seed());
    let count = crashes(120);
    let mut acknowledged = 0;
    for crash in 1..=count {
        let generation = crash as u64;
        savers.bytes = SIZES[usize::from(random.random_ratio(1, 3))];
        strike(&savers, generation, folder.path(), &mut random);
        acknowledged = savers.acknowledged();
        let newest = savers.newest();
        assert!(newest >= acknowledged, "crash {crash}: step {acknowledged} was acknowledged, and {newest} is the newest");
        if crash % 40 == 0 || crash == count {
            savers.assert_nothing_is_left_over(generation);
        }
    }
    println!("{count} crashes, {acknowledged} checkpoints");
    assert!(acknowledged > count as u64 / 4, "hardly any checkpoint came about: {acknowledged}");
}

/// Two coordinators: one is cut off and comes back when another one has gone on with the run.
#[test]
fn who_was_overtaken_commits_nothing_more() {
    let folder = tempfile::tempdir_in(memory_folder()).unwrap();
    let savers = Savers::new(folder.path().join("run"), 2);
    let mut old = savers.start(1, 0, 100_000, |_| ());
    old[0].wait_until("a checkpoint", PATIENCE, || (savers.acknowledged() > 0).then_some(()));
    for saver in &old {
        kill(saver.pid(), Signal::SIGSTOP).unwrap();
    }
    let from = savers.newest();
    for saver in savers.start(2, from, from + 3, |_| ()) {
        saver.wait(PATIENCE).expect_success();
    }
    assert_eq!(savers.newest(), from + 3);
    for saver in &old {
        kill(saver.pid(), Signal::SIGCONT).unwrap();
    }
    let ended = old.remove(0).wait(PATIENCE);
    assert_ne!(ended.code(), 0);
    assert!(ended.stderr.contains("begun by generation 2, and this is generation 1"), "{}", ended.stderr);
    assert_eq!(savers.newest(), from + 3);
}

/// An object store that refuses, hangs up, keeps silent and loses its answers, the one to the manifest too.
#[test]
fn a_store_that_misbehaves_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let server = ObjectServer::start(ANY, 8, seed());
    let savers = Savers::saving_at("s3://bucket/run".into(), folder.path().join("run"), 2);
    let steps = 6;
    for saver in savers.start(1, 0, steps, |command| server.introduce(command)) {
        saver.wait(PATIENCE).expect_success();
    }
    assert_eq!(savers.acknowledged(), steps);
    let faults = server.faults();
    println!("{faults:?}");
    assert!(faults.values().sum::<usize>() > 3, "{faults:?}");
    let brought_here = || {
        let here = tempfile::tempdir_in(folder.path()).unwrap();
        for (name, bytes) in server.objects() {
            let path = here.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let store = Store::open(here.path().join("run").to_str().unwrap()).unwrap();
        (savers.newest_in(store), here)
    };
    assert_eq!(brought_here().0, steps);
    server.behave();
    for saver in savers.start(2, steps, steps + 1, |command| server.introduce(command)) {
        saver.wait(PATIENCE).expect_success();
    }
    assert_eq!(brought_here().0, steps + 1);
    assert_eq!(server.objects().len(), savers.objects_of_two(), "{:?}", server.objects().keys());
}
