//! Which files are read: those of a generation, of some ranks, of some hosts.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use common::journal::{Entry, Event};
use common::run_dir::RunDir;

use super::since;
use super::source::{Author, Source};
use crate::exit::Failure;
use crate::observe::GrowingFile;
use crate::story::Time;

/// Bytes of all files together that are in memory at a time.
const MEMORY: usize = 32 << 20;

/// Which generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generations {
    /// All of them.
    All,
    /// This one.
    One(u64),
}

impl FromStr for Generations {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::All),
            number => number.parse().map(Self::One).map_err(|_| format!("`{text}` is neither a number nor `all`")),
        }
    }
}

/// Which files.
pub(super) struct Selection {
    folder: RunDir,
    ranks: Vec<usize>,
    hosts: Vec<String>,
    since: Option<Time>,
    journal: GrowingFile,
    /// The host of each rank of each generation.
    homes: HashMap<(u64, usize), String>,
}

impl Selection {
    pub(super) fn new(folder: RunDir, ranks: Vec<usize>, hosts: Vec<String>, since: Option<Time>) -> anyhow::Result<Self> {
        let mut this = Self { journal: GrowingFile::new(folder.journal()), folder, ranks, hosts, since, homes: HashMap::new() };
        this.look()?;
        Ok(this)
    }

    /// Learns which workers have joined meanwhile.
    pub(super) fn look(&mut self) -> anyhow::Result<()> {
        let homes = &mut self.homes;
        self.journal.read(|line| {
            // A line that is no entry is for other commands to complain about.
            if let Ok(Entry { generation, event: Event::WorkerJoined { rank, host, .. }, .. }) = serde_json::from_slice(line) {
                homes.insert((generation, rank), host);
            }
            io::Result::Ok(())
        })?;
        Ok(())
    }

    /// The host of a rank, as far as known.
    pub(super) fn home(&self, generation: u64, rank: usize) -> Option<&str> {
        self.homes.get(&(generation, rank)).map(String::as_str)
    }

    /// The generations that were asked for, oldest first: the newest without a wish.
    ///
    /// # Errors
    /// Bad input: there is none, or not that one.
    pub(super) fn generations(&self, wish: Option<Generations>) -> Result<Vec<u64>, Failure> {
        let there = self.all_generations()?;
        let Some(newest) = there.last() else {
            return Err(Failure::bad_input(format!("{}: no logs here; nothing was launched yet", self.folder.path().display())));
        };
        match wish {
            None => Ok(vec![*newest]),
            Some(Generations::All) => Ok(there),
            Some(Generations::One(number)) if there.contains(&number) => Ok(vec![number]),
            Some(Generations::One(number)) => Err(Failure::bad_input(format!(
                "{}: no such folder; the newest generation is {newest}",
                self.folder.log_dir(number).display()
            ))),
        }
    }

    /// The generations that have logs, oldest first.
    pub(super) fn all_generations(&self) -> anyhow::Result<Vec<u64>> {
        let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix("gen-")?.parse().ok();
        let mut numbers: Vec<u64> = entries(&self.folder.path().join("logs"))?.iter().filter_map(|path| number(path)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The files of a generation that are wanted: the launcher's first, then by rank.
    pub(super) fn files(&self, generation: u64) -> anyhow::Result<Vec<(Author, PathBuf)>> {
        let there = entries(&self.folder.log_dir(generation))?.into_iter();
        let mut wanted: Vec<(Author, PathBuf)> = there
            .filter_map(|path| Some((author(&path)?, path)))
            .filter(|(author, _)| self.wants(generation, author.rank))
            .collect();
        for (author, _) in &mut wanted {
            author.host = author.rank.and_then(|rank| self.home(generation, rank)).map(ToOwned::to_owned);
        }
        wanted.sort_unstable_by_key(|(author, _)| author.rank);
        Ok(wanted)
    }

    /// These files, from where they are wanted.
    pub(super) fn open(&self, files: Vec<(Author, PathBuf)>) -> anyhow::Result<Vec<Source>> {
        let chunk = (MEMORY / files.len().max(1)).clamp(8 << 10, 1 << 20);
        let source = |(author, path)| {
            let mut source = Source::new(path, author, chunk);
            if let Some(since) = self.since {
                source.offset =
                    since::find(&source.path, since).with_context(|| format!("cannot read {}", source.path.display()))?;
            }
            Ok(source)
        };
        files.into_iter().map(source).collect()
    }

    fn wants(&self, generation: u64, rank: Option<usize>) -> bool {
        let Some(rank) = rank else { return self.ranks.is_empty() && self.hosts.is_empty() };
        // `n04` is also `n04.cluster.example`.
        let is = |host: &str, name: &str| host == name || host.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
        let home = self.home(generation, rank);
        (self.ranks.is_empty() || self.ranks.contains(&rank))
            && (self.hosts.is_empty() || home.is_some_and(|home| self.hosts.iter().any(|name| is(home, name))))
    }

    /// Why nothing is shown.
    pub(super) fn nothing(&self) -> Failure {
        let mut wish: Vec<String> = self.ranks.iter().map(|rank| format!("rank {rank}")).collect();
        wish.extend(self.hosts.iter().map(|host| format!("host {host}")));
        let logs = self.folder.path().join("logs");
        Failure::bad_input(format!("{}: no log of {} in the generation asked for", logs.display(), wish.join(" or ")))
    }
}

/// What is in a folder; nothing if it does not exist.
fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => {
            let entries = entries.with_context(|| format!("cannot read {}", folder.display()))?;
            Ok(entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
        }
    }
}

/// Whose log that is, as in `rank-00013.log` or `launcher.log`; none for any other file.
fn author(path: &Path) -> Option<Author> {
    let rank = match path.file_name()?.to_str()?.strip_suffix(".log")? {
        "launcher" => None,
        name => Some(name.strip_prefix("rank-")?.parse().ok()?),
    };
    Some(Author { rank, host: None })
}
