//! What a run's journal and metrics add up to: pure folds, without files and clocks, that every monitoring command shares.

mod books;
mod curve;
mod incidents;
mod interval;
mod ledger;
#[cfg(test)]
mod ledger_tests;
mod outline;
mod record;
mod remarks;
#[cfg(test)]
pub(crate) mod testing;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) use books::{Book, Books};
pub(crate) use curve::Curve;
pub(crate) use incidents::{Aftermath, Incident, Restart, incidents, newest_incident};
pub(crate) use interval::Suggestion;
pub(crate) use ledger::{Ledger, Present};
pub(crate) use outline::{InCharge, Outline, Over};
pub(crate) use record::{HeldOut, Record};
pub(crate) use remarks::{Remark, remarks};

/// A point in time, as time since 1970 by the clock of whichever host wrote it down.
pub(crate) type Time = Duration;

/// The time of a journal entry or a status.
pub(crate) fn time(text: &str) -> Option<Time> {
    humantime::parse_rfc3339(text).ok().map(since_1970)
}

/// The present as a [`Time`].
pub(crate) fn since_1970(time: SystemTime) -> Time {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
