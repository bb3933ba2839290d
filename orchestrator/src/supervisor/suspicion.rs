//! Finding the first failure among its consequences.
//!
//! When a worker dies, others fail because of it within milliseconds, and their words may be heard first. So a failure that could be a
//! consequence is held back for a moment, and of all that were heard meanwhile the most telling is taken: one that a worker found in
//! itself, or that its guard or the system saw, before one that only says that somebody else is missing.

use std::time::Duration;

use common::control::{FailureKind, ProcessEnd};

use super::{Time, describe_end};

/// How much a candidate tells, the most telling first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Telling {
    /// A cause in itself: a bad loss, no memory, a signal, a lost host.
    Cause,
    /// A failure that may have come from another one.
    Failure,
    /// Words about somebody else being gone.
    Complaint,
    /// A connection that broke, with no word why.
    Silence,
}

/// One failure that was heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) telling: Telling,
    pub(super) rank: Option<usize>,
    pub(super) step: u64,
    pub(super) kind: FailureKind,
    pub(super) cause: String,
    /// How the process ended, if that is known.
    pub(super) end: Option<ProcessEnd>,
}

/// Everything that was heard since the first sign of a failure.
#[derive(Debug)]
pub(super) struct Suspicion {
    since: Time,
    candidates: Vec<Candidate>,
}

/// How long a plain failure waits for a more telling one.
const SETTLE: Duration = Duration::from_millis(100);

impl Suspicion {
    pub(super) fn new(candidate: Candidate, now: Time) -> Self {
        Self { since: now, candidates: vec![candidate] }
    }

    /// Adds what was heard later. Of one rank only its most telling words count.
    pub(super) fn add(&mut self, candidate: Candidate) {
        match self.candidates.iter_mut().find(|known| candidate.rank.is_some() && known.rank == candidate.rank) {
            Some(known) if candidate.telling < known.telling => *known = candidate,
            Some(_) => {}
            None => self.candidates.push(candidate),
        }
    }

    /// The most telling candidate; of equals the first.
    pub(super) fn best(&self) -> Option<&Candidate> {
        self.candidates.iter().min_by_key(|candidate| candidate.telling)
    }

    /// Whether waiting longer for a better one is pointless; `patience` is for words that do not tell the cause.
    pub(super) fn is_ripe(&self, now: Time, patience: Duration) -> bool {
        let waited = now.saturating_sub(self.since);
        self.best().is_none_or(|best| match best.telling {
            Telling::Cause => true,
            Telling::Failure => waited >= SETTLE,
            Telling::Complaint | Telling::Silence => waited >= patience,
        })
    }

    /// Every other candidate, as consequences of `first`.
    pub(super) fn others(self, first: &Candidate) -> Vec<Candidate> {
        self.candidates.into_iter().filter(|candidate| candidate != first).collect()
    }
}

/// What a process end without a last word tells.
pub(super) fn ended(rank: Option<usize>, step: u64, end: ProcessEnd, out_of_memory: bool) -> Candidate {
    let how = describe_end(end);
    let killed = end == ProcessEnd::Signal(nix::libc::SIGKILL);
    let (kind, cause) = match end {
        ProcessEnd::Signal(_) if killed && out_of_memory => {
            (FailureKind::OutOfMemory, format!("{how} while the kernel was killing processes for want of memory"))
        }
        ProcessEnd::Code(code) => {
            let kinds = [FailureKind::BadInput, FailureKind::NotFinite, FailureKind::OutOfMemory];
            let kind = kinds.into_iter().find(|kind| i32::from(kind.exit_code()) == code).unwrap_or(FailureKind::Fault);
            (kind, format!("ended without finishing ({how})"))
        }
        ProcessEnd::Signal(_) => (FailureKind::Fault, how),
    };
    let telling = match end {
        // MPI ends its processes by SIGTERM when one of them is gone.
        ProcessEnd::Signal(number) if number != nix::libc::SIGTERM => Telling::Cause,
        _ => Telling::Failure,
    };
    Candidate { telling, rank, step, kind, cause, end: Some(end) }
}

/// What the last words of a worker tell, and what to do about it where that is known.
pub(super) fn said(rank: usize, failure: common::control::Failure) -> Candidate {
    let cause = match (failure.kind, failure.fits) {
        (FailureKind::OutOfMemory, Some(fits @ 1..)) => format!("{}; train.micro_batch = {fits} would fit", failure.cause),
        (FailureKind::OutOfMemory, Some(0)) => format!("{}; not even train.micro_batch = 1 would fit", failure.cause),
        (FailureKind::OutOfMemory, None) => format!("{}; a smaller train.micro_batch needs less", failure.cause),
        _ => failure.cause,
    };
    let telling = match failure.kind {
        FailureKind::PeerLost => Telling::Complaint,
        FailureKind::Fault => Telling::Failure,
        _ => Telling::Cause,
    };
    Candidate { telling, rank: Some(rank), step: failure.step, kind: failure.kind, cause, end: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(rank: usize) -> Candidate {
        let failure =
            common::control::Failure { kind: FailureKind::PeerLost, cause: "connection reset".into(), step: 9, fits: None };
        said(rank, failure)
    }

    #[test]
    fn the_killed_rank_is_found_behind_the_complaints_about_it() {
        let ms = Duration::from_millis;
        let mut suspicion = Suspicion::new(complaint(0), ms(1000));
        suspicion.add(complaint(3));
        assert!(!suspicion.is_ripe(ms(1900), ms(1000)));
        suspicion.add(ended(Some(2), 9, ProcessEnd::Signal(9), false));
        assert!(suspicion.is_ripe(ms(1001), ms(1000)));
        let best = suspicion.best().cloned();
        assert_eq!(best.as_ref().and_then(|best| best.rank), Some(2));
        let others: Vec<_> = best
            .iter()
            .flat_map(|best| Suspicion::others(Suspicion { since: ms(0), candidates: vec![complaint(0), best.clone()] }, best))
            .collect();
        assert_eq!(others, [complaint(0)]);
    }

    #[test]
    fn an_exit_code_waits_a_moment_and_a_broken_line_longer() {
        let ms = Duration::from_millis;
        let suspicion = Suspicion::new(ended(Some(1), 0, ProcessEnd::Code(1), false), ms(0));
        assert!(!suspicion.is_ripe(ms(99), ms(3000)) && suspicion.is_ripe(ms(100), ms(3000)));
        let suspicion = Suspicion::new(complaint(0), ms(0));
        assert!(!suspicion.is_ripe(ms(2999), ms(3000)) && suspicion.is_ripe(ms(3000), ms(3000)));
    }

    #[test]
    fn without_memory_the_micro_batch_that_fits_is_told() {
        let told = |kind, fits| said(0, common::control::Failure { kind, cause: "2 GiB wanted".into(), step: 1, fits }).cause;
        assert_eq!(told(FailureKind::OutOfMemory, Some(8)), "2 GiB wanted; train.micro_batch = 8 would fit");
        assert_eq!(told(FailureKind::OutOfMemory, Some(0)), "2 GiB wanted; not even train.micro_batch = 1 would fit");
        assert!(told(FailureKind::OutOfMemory, None).contains("a smaller train.micro_batch"));
        assert_eq!(told(FailureKind::Fault, Some(8)), "2 GiB wanted");
    }

    #[test]
    fn only_sigkill_is_taken_for_the_kernel_s_want_of_memory() {
        assert_eq!(ended(None, 0, ProcessEnd::Signal(9), true).kind, FailureKind::OutOfMemory);
        assert_eq!(ended(None, 0, ProcessEnd::Signal(11), true).kind, FailureKind::Fault);
        assert_eq!(ended(None, 0, ProcessEnd::Code(2), false).kind, FailureKind::BadInput);
        assert_eq!(ended(None, 0, ProcessEnd::Code(5), false).kind, FailureKind::OutOfMemory);
    }
}
