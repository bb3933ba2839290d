//! Goes on printing what is added to the logs: by the files that are there, by workers that start later, by generations to come.

use std::collections::HashSet;
use std::thread::sleep;
use std::time::Duration;

use super::merge::merge;
use super::printer::Printer;
use super::selection::{Generations, Selection};
use super::source::{Ending, Source};
use crate::exit::Failure;

/// How often files are looked at again: no portable way tells when a file on a shared file system grows. More files, fewer looks.
const LOOK_AGAIN: Duration = Duration::from_millis(300);
const PER_FILE: Duration = Duration::from_millis(2);
/// Generations whose files are watched. The last words of the dead may still be on their way when the next one starts.
const WATCHED: usize = 2;

/// What is being followed.
pub(super) struct Follower {
    selection: Selection,
    /// Whether generations to come are of interest.
    all: bool,
    generations: Vec<u64>,
    sources: Vec<(u64, Source)>,
    /// Whose files were taken in.
    known: HashSet<(u64, Option<usize>)>,
}

impl Follower {
    /// Follows the generations that were asked for, and unless that was a single one those to come. There may be none yet.
    pub(super) fn new(selection: Selection, wish: Option<Generations>) -> Result<Self, Failure> {
        let all = !matches!(wish, Some(Generations::One(_)));
        let waits = all && selection.all_generations()?.is_empty();
        let generations = if waits { Vec::new() } else { selection.generations(wish)? };
        Ok(Self { selection, all, generations, sources: Vec::new(), known: HashSet::new() })
    }

    /// Prints until interrupted, or until nobody reads any more.
    pub(super) fn run(mut self, printer: &mut Printer) -> anyhow::Result<()> {
        // What is there already may be long: one generation after the other.
        for generation in self.generations.clone() {
            self.find(generation, printer)?;
            self.print(printer)?;
        }
        loop {
            sleep(LOOK_AGAIN.max(PER_FILE * u32::try_from(self.sources.len()).unwrap_or(u32::MAX)));
            self.selection.look()?;
            for generation in self.newer()? {
                self.generations.push(generation);
                eprintln!("-- generation {generation} --");
            }
            for generation in self.watched() {
                self.find(generation, printer)?;
            }
            self.print(printer)?;
        }
    }

    fn newer(&self) -> anyhow::Result<Vec<u64>> {
        let newest = self.generations.last().copied().unwrap_or(0);
        let mut there = if self.all { self.selection.all_generations()? } else { Vec::new() };
        there.retain(|generation| *generation > newest);
        Ok(there)
    }

    fn watched(&self) -> Vec<u64> {
        self.generations[self.generations.len().saturating_sub(WATCHED)..].to_vec()
    }

    /// Takes in the files of a generation that were not there before, and lets go of generations long gone.
    fn find(&mut self, generation: u64, printer: &mut Printer) -> anyhow::Result<()> {
        let watched = self.watched();
        self.sources.retain(|(generation, _)| watched.contains(generation));
        self.known.retain(|(generation, _)| watched.contains(generation));
        let mut found = self.selection.files(generation)?;
        found.retain(|(author, _)| self.known.insert((generation, author.rank)));
        let before = self.sources.len();
        self.sources.extend(self.selection.open(found)?.into_iter().map(|source| (generation, source)));
        for (generation, source) in &mut self.sources {
            if let (Some(rank), None) = (source.author.rank, &source.author.host) {
                source.author.host = self.selection.home(*generation, rank).map(ToOwned::to_owned);
            }
        }
        if self.sources.len() > before {
            printer.title(self.sources.iter().map(|(_, source)| &source.author));
        }
        Ok(())
    }

    fn print(&mut self, printer: &mut Printer) -> anyhow::Result<()> {
        let grown = self.sources.iter_mut().map(|(_, source)| source).filter(|source| source.has_grown());
        merge(&mut grown.collect::<Vec<_>>(), Ending::Open, &mut |source, message| printer.print(source, message))?;
        Ok(printer.flush()?)
    }
}
