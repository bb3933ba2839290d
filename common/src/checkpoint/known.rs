//! What this process has found out about attempts, so that clearing away reads each checkpoint once and not every time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::CheckpointError;
use super::catalogue::Place;
use crate::config::BestBy;
use crate::storage::Store;

/// Clones share what is known.
#[derive(Clone, Default)]
pub(super) struct Known(Arc<Shared>);

#[derive(Default)]
struct Shared {
    attempts: Mutex<HashMap<String, Facts>>,
    anchored: AtomicBool,
}

/// About one attempt.
#[derive(Clone, Copy, Default)]
struct Facts {
    /// Whether it is whole.
    good: Option<bool>,
    /// How good it is by something, once its manifest was read.
    cost: Option<(BestBy, Option<f64>)>,
}

impl Known {
    fn attempts(&self) -> MutexGuard<'_, HashMap<String, Facts>> {
        self.0.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn about(&self, place: &Place) -> Facts {
        self.attempts().get(&place.folder()).copied().unwrap_or_default()
    }

    pub(super) fn remember(&self, place: &Place, good: bool) {
        self.attempts().entry(place.folder()).or_default().good = Some(good);
    }

    pub(super) fn recall(&self, place: &Place) -> Option<bool> {
        self.about(place).good
    }

    pub(super) fn remember_cost(&self, place: &Place, by: BestBy, cost: Option<f64>) {
        self.attempts().entry(place.folder()).or_default().cost = Some((by, cost));
    }

    pub(super) fn cost(&self, place: &Place, by: BestBy) -> Option<Option<f64>> {
        self.about(place).cost.filter(|(of, _)| *of == by).map(|(_, cost)| cost)
    }

    /// An attempt that is gone needs no memory.
    pub(super) fn forget(&self, place: &Place) {
        self.attempts().remove(&place.folder());
    }

    /// Makes the folders above the checkpoints durable, once.
    pub(super) fn anchor_once(&self, store: &Store) -> Result<(), CheckpointError> {
        if !self.0.anchored.load(Ordering::Relaxed) {
            store.anchor()?;
            self.0.anchored.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}
