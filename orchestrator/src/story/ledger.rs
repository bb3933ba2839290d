//! The goodput ledger: books every second of a run, from its first submission or launch on, in exactly one book.
//!
//! The rule. Journal entries and metric records are read in the order of their times; a time that goes back counts as the one before
//! it. What is not booked yet when the next one comes goes into the book of what the run was doing:
//!
//! | doing | from | to | book |
//! |---|---|---|---|
//! | queued | submitted, or over after being requeued | launched | queue |
//! | starting | launched | first step, or first record | start |
//! | working | first step, or first record | failure, end of the generation | see below |
//! | recovering | failure | first step or record of a later generation; or the end of the launch | restart |
//! | nothing | end of the launch, or last sign of life of a coordinator that vanished | submitted, launched | stopped |
//!
//! A coordinator has vanished when another one is launched without its word that it ended. When both ran as the same Slurm job, Slurm
//! has requeued it, and the time between is queue.
//!
//! Work is cut by records. A record covers the `seconds` that it says (or all since the record before), and the steps since the
//! record before. Steps up to the highest step of an earlier generation, or of this one before it went back to a checkpoint, were done
//! before: their part of the time is redone work, whatever it consisted of. Of the rest, the record's shares are data stall, collective,
//! checkpoint and evaluation, and what remains is useful. Records of evaluations cover nothing.
//!
//! After the last record, a failure that says how many steps were done accounts for them at the pace of the last record; what is left
//! went by before anybody noticed, and is restart. A generation that ends in order makes a record and then saves: what is left is
//! checkpoint. A generation without any record (jobs that write none) is taken as work throughout. Journals from before first steps were
//! told (their generations do not say how many workers they have) count as working once all workers have reported.
//!
//! Nothing is booked after the end of a run, unless it is launched again later.

use std::time::Duration;

use common::control::{Setback, SetbackKind};
use common::journal::{Entry, Event};

use super::books::{Book, Books, take};
use super::{Record, Time, time};

/// What is known about the present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Present {
    /// The time.
    pub(crate) now: Time,
    /// Until when the coordinator has certainly been there: now, if it is; else its last sign of life.
    pub(crate) seen: Time,
}

/// The books, and the figures that belong to them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Ledger {
    /// How much time is in which book.
    pub(crate) books: Books,
    /// When the run was first submitted or launched.
    pub(crate) from: Time,
    /// Up to when it is booked.
    pub(crate) until: Time,
    /// How many failures there were.
    pub(crate) failures: usize,
    /// How many checkpoints were committed.
    pub(crate) checkpoints: usize,
    /// Seconds from the wish to save to the commit, over all of them.
    pub(crate) checkpoint_seconds: f64,
    /// Seconds per step in the newest record.
    pub(crate) pace: Option<f64>,
}

/// What the run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Nothing,
    Queued,
    Starting,
    /// After so many steps, if that is known.
    Working(Option<u64>),
    Recovering,
}

impl Ledger {
    /// The ledger of a story; none before the first submission or launch.
    pub(crate) fn keep(entries: &[Entry], records: &[Record], present: Present) -> Option<Self> {
        let first = entries.iter().position(|entry| matches!(entry.event, Event::Submitted { .. } | Event::Launched { .. }))?;
        let from = time(&entries[first].time)?;
        let mut clerk = Clerk::new(from);
        let mut records = records.iter().peekable();
        for entry in &entries[first..] {
            let when = time(&entry.time).unwrap_or(clerk.ledger.until);
            while let Some(record) = records.next_if(|record| record.written() <= when) {
                clerk.record(record);
            }
            clerk.entry(entry, when);
        }
        records.for_each(|record| clerk.record(record));
        Some(clerk.close(present))
    }

    /// The time that the books are about.
    pub(crate) fn elapsed(&self) -> Duration {
        self.until.saturating_sub(self.from)
    }
}

/// Reads a story and keeps the ledger.
struct Clerk {
    ledger: Ledger,
    doing: Doing,
    /// The newest entry or record.
    sign: Time,
    generation: u64,
    /// Whether that generation has failed.
    failed: bool,
    /// Whether its first step will not be told.
    old: bool,
    /// Whether it has written a record.
    recorded: bool,
    /// The highest step of it, and of those before it.
    highest: u64,
    reached: u64,
    /// Whether Slurm will launch the run (again).
    pending: bool,
    slurm_job: Option<String>,
}

impl Clerk {
    fn new(from: Time) -> Self {
        Self {
            ledger: Ledger { from, until: from, ..Ledger::default() },
            doing: Doing::Nothing,
            sign: from,
            generation: 0,
            failed: false,
            old: false,
            recorded: false,
            highest: 0,
            reached: 0,
            pending: false,
            slurm_job: None,
        }
    }

    /// What is not booked yet at that time.
    fn open(&self, to: Time) -> Duration {
        to.saturating_sub(self.ledger.until)
    }

    /// Books what is open into one book.
    fn book(&mut self, to: Time, book: Book) {
        self.put(self.open(to), book);
    }

    /// Books the next stretch of time. Every other method books through this one, so the books add up.
    fn put(&mut self, time: Duration, book: Book) {
        self.ledger.books.add(book, time);
        self.ledger.until += time;
    }

    /// Books what is open into the book of what the run was doing.
    fn book_doing(&mut self, to: Time) {
        match self.doing {
            Doing::Nothing => self.book(to, Book::Stopped),
            Doing::Queued => self.book(to, Book::Queue),
            Doing::Starting => self.book(to, Book::Start),
            Doing::Recovering => self.book(to, Book::Restart),
            Doing::Working(step) => self.work(self.open(to), step, self.highest, &Record::default()),
        }
    }

    /// Books work on the steps after `from` up to `to`.
    fn work(&mut self, time: Duration, from: Option<u64>, to: u64, shares: &Record) {
        let done_before = match from {
            _ if to <= self.reached => f64::from(u8::from(to > 0 && self.reached > 0)),
            Some(from) if from < self.reached => (self.reached - from) as f64 / (to - from) as f64,
            _ => 0.0,
        };
        let mut left = time;
        let redone = take(&mut left, time, Some(done_before));
        self.put(redone, Book::Redone);
        let rest = left;
        for (book, share) in [
            (Book::DataStall, shares.data_stall),
            (Book::Waiting, shares.collective),
            (Book::Checkpoint, shares.checkpoint),
            (Book::Evaluation, shares.evaluate),
        ] {
            let part = take(&mut left, rest, share);
            self.put(part, book);
        }
        self.put(left, Book::Useful);
    }

    fn record(&mut self, record: &Record) {
        if record.is_of_evaluation() {
            return;
        }
        let ours = record.generation == self.generation && !self.failed;
        if !ours || matches!(self.doing, Doing::Nothing | Doing::Queued) {
            // Of a generation that is over: it was late, or the clocks of two hosts differ.
            self.highest = self.highest.max(record.step);
            return;
        }
        let when = record.written();
        let open = self.open(when);
        let covered = match (record.seconds, self.doing) {
            (Some(seconds), _) => super::record::seconds(seconds).min(open),
            (None, Doing::Working(_)) => open,
            (None, _) => Duration::ZERO,
        };
        let uncovered = when.saturating_sub(covered);
        if !matches!(self.doing, Doing::Working(_)) {
            self.book_doing(uncovered);
            self.doing = Doing::Working(None);
        }
        let Doing::Working(from) = self.doing else { return };
        let steps = from.map(|from| record.step.saturating_sub(from)).filter(|steps| *steps > 0);
        self.work(self.open(uncovered), from, record.step, &Record::default());
        self.work(covered, from, record.step, record);
        if let Some(steps) = steps {
            self.ledger.pace = Some(covered.as_secs_f64() / steps as f64).filter(|pace| *pace > 0.0).or(self.ledger.pace);
        }
        self.doing = Doing::Working(Some(record.step));
        self.recorded = true;
        self.highest = self.highest.max(record.step);
        self.sign = self.sign.max(when);
    }

    fn entry(&mut self, entry: &Entry, when: Time) {
        match &entry.event {
            Event::Submitted { .. } | Event::Requeued { .. } => {
                self.pending = true;
                if self.doing == Doing::Nothing {
                    self.book_doing(when);
                    self.doing = Doing::Queued;
                }
            }
            Event::Launched { slurm_job, .. } => self.launched(slurm_job.clone(), when),
            Event::GenerationStarted { world, .. } => {
                self.old = *world == 0;
                self.reached = self.reached.max(self.highest);
                (self.generation, self.highest, self.failed, self.recorded) = (entry.generation, 0, false, false);
            }
            Event::FirstStep { step } if matches!(self.doing, Doing::Starting | Doing::Recovering) && !self.failed => {
                self.book_doing(when);
                self.doing = Doing::Working(Some(*step));
                self.highest = self.highest.max(*step);
            }
            Event::Running if self.old && matches!(self.doing, Doing::Starting | Doing::Recovering) && !self.failed => {
                self.book_doing(when);
                self.doing = Doing::Working(None);
            }
            Event::Setback(Setback { step, kind: SetbackKind::BackTo(saved) }) if matches!(self.doing, Doing::Working(_)) => {
                self.book_doing(when);
                self.reached = self.reached.max(self.highest).max(step.saturating_sub(1));
                (self.doing, self.highest) = (Doing::Working(Some(*saved)), *saved);
            }
            Event::CheckpointCommitted { seconds, .. } => {
                self.ledger.checkpoints += 1;
                self.ledger.checkpoint_seconds += super::record::seconds(*seconds).as_secs_f64();
            }
            Event::Failed { step, .. } => self.failure(*step, when),
            Event::GenerationEnded if !self.failed && matches!(self.doing, Doing::Working(_)) => {
                if self.recorded {
                    self.book(when, Book::Checkpoint);
                } else {
                    self.book_doing(when);
                }
                self.doing = Doing::Nothing;
            }
            Event::Finished | Event::Ended { .. } => {
                self.book_doing(when);
                self.doing = if self.pending { Doing::Queued } else { Doing::Nothing };
            }
            _ => {}
        }
        self.sign = self.sign.max(when);
    }

    fn launched(&mut self, slurm_job: Option<String>, when: Time) {
        let requeued = self.pending || (slurm_job.is_some() && slurm_job == self.slurm_job);
        if !matches!(self.doing, Doing::Nothing | Doing::Queued) {
            // The coordinator before has vanished.
            self.book_doing(self.sign);
            self.doing = if requeued { Doing::Queued } else { Doing::Nothing };
        }
        self.book_doing(when);
        (self.doing, self.pending, self.failed, self.slurm_job) = (Doing::Starting, false, false, slurm_job);
    }

    fn failure(&mut self, step: u64, when: Time) {
        self.ledger.failures += 1;
        if let Doing::Working(from) = self.doing {
            let open = self.open(when);
            let reported = from.map_or(0, |from| step.saturating_sub(from));
            let accounted = match self.ledger.pace {
                Some(pace) => super::record::seconds(pace * reported as f64).min(open),
                None if step > 0 => open,
                None => Duration::ZERO,
            };
            self.highest = self.highest.max(step);
            self.work(accounted, from, self.highest, &Record::default());
            self.book(when, Book::Restart);
        } else {
            self.book_doing(when);
        }
        self.failed = true;
        if !matches!(self.doing, Doing::Nothing | Doing::Queued) {
            self.doing = Doing::Recovering;
        }
    }

    fn close(mut self, present: Present) -> Ledger {
        match self.doing {
            Doing::Nothing => {}
            Doing::Queued => self.book_doing(present.now),
            _ => self.book_doing(present.seen.max(self.sign)),
        }
        self.ledger
    }
}
