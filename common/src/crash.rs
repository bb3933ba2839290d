//! Dying at a named point, for tests: the proof that a checkpoint survives a crash at any moment needs crashes at the moments that matter.
//!
//! `LSD_CRASH=part-written@2:1:/tmp/x` lets the process of rank 1 kill itself the second time that it passes [`Point::PartWritten`].
//! The file after the last colon is made just before, and an order whose file is there is done with: the process that is started instead
//! inherits the variable and lives. Several orders are separated by commas. Nobody but tests sets this variable, and without it a point
//! costs one look at memory.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{Signal, raise};

use crate::place::Place;

/// The environment variable.
pub const VARIABLE: &str = "LSD_CRASH";

/// A moment in the life of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// A part has been copied out of the training state, and others may not have been.
    Copying,
    /// A part is in the store.
    PartWritten,
    /// A writer's note about its parts is in the store.
    ShareWritten,
    /// One writer's note has been read by the one that commits.
    Gathering,
    /// Everything but the manifest is in the store.
    BeforeManifest,
    /// The checkpoint is committed, and nobody has been told.
    AfterManifest,
    /// The name of the newest checkpoint is written down too.
    AfterLatest,
    /// An old checkpoint has lost its manifest, and still has its parts.
    ManifestDeleted,
    /// An old checkpoint has lost a part, and may still have others.
    PartDeleted,
    /// A part has been read back into the training state, and others may not have been.
    Restoring,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Copying,
        Self::PartWritten,
        Self::ShareWritten,
        Self::Gathering,
        Self::BeforeManifest,
        Self::AfterManifest,
        Self::AfterLatest,
        Self::ManifestDeleted,
        Self::PartDeleted,
        Self::Restoring,
    ];

    /// The name in the variable.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Copying => "copying",
            Self::PartWritten => "part-written",
            Self::ShareWritten => "share-written",
            Self::Gathering => "gathering",
            Self::BeforeManifest => "before-manifest",
            Self::AfterManifest => "after-manifest",
            Self::AfterLatest => "after-latest",
            Self::ManifestDeleted => "manifest-deleted",
            Self::PartDeleted => "part-deleted",
            Self::Restoring => "restoring",
        }
    }
}

/// Who dies, where, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Where.
    pub point: Point,
    /// The how many-th time, from 1.
    pub pass: u64,
    /// Of which rank.
    pub rank: usize,
    /// What says that it has happened.
    pub done: PathBuf,
}

/// A variable that makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{VARIABLE}: `{0}` is not POINT@PASS:RANK:FILE with a POINT of common::crash")]
pub struct Unknown(String);

impl std::fmt::Display for Order {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}@{}:{}:{}", self.point.name(), self.pass, self.rank, self.done.display())
    }
}

impl FromStr for Order {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let parse = || {
            let (name, rest) = text.split_once('@')?;
            let mut fields = rest.splitn(3, ':');
            let (pass, rank, done) = (fields.next()?, fields.next()?, fields.next()?);
            let point = Point::ALL.into_iter().find(|point| point.name() == name)?;
            let done = (!done.is_empty()).then(|| done.into())?;
            Some(Self { point, pass: pass.parse().ok()?, rank: rank.parse().ok()?, done })
        };
        parse().ok_or_else(|| Unknown(text.into()))
    }
}

/// The orders for this process, and how often it has passed the point of each.
struct Plan(Vec<(Order, AtomicU64)>);

impl Plan {
    fn from_environment() -> Option<Self> {
        let text = std::env::var(VARIABLE).ok()?;
        let rank = Place::detect(|name| std::env::var(name).ok(), 0).map_or(0, |place| place.rank);
        let orders: Result<Vec<Order>, Unknown> = text.split(',').map(str::parse).collect();
        match orders {
            Ok(orders) => {
                let mine = orders.into_iter().filter(|order| order.rank == rank && !order.done.exists());
                Some(Self(mine.map(|order| (order, AtomicU64::new(0))).collect()))
            }
            Err(error) => {
                tracing::error!("{error}");
                None
            }
        }
    }

    fn pass(&self, point: Point) {
        for (order, passes) in self.0.iter().filter(|(order, _)| order.point == point) {
            let due = passes.fetch_add(1, Ordering::Relaxed) + 1 == order.pass;
            if due && OpenOptions::new().write(true).create_new(true).open(&order.done).is_ok() {
                // As the kernel would: no destructor, no buffer, no last word.
                let _ = raise(Signal::SIGKILL);
            }
        }
    }
}

/// Passes `point`, and if that was ordered, this process is no more.
pub fn point(point: Point) {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    if let Some(plan) = PLAN.get_or_init(Plan::from_environment) {
        plan.pass(point);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_it_is_written() {
        for point in Point::ALL {
            let order = Order { point, pass: 3, rank: 1, done: "/tmp/a:b/1".into() };
            assert_eq!(order.to_string().parse(), Ok(order));
        }
        for nonsense in ["", "part@1:0:/x", "part-written@x:0:/x", "part-written@1:0", "part-written@1:0:"] {
            assert_eq!(nonsense.parse::<Order>(), Err(Unknown(nonsense.into())));
        }
    }
}
