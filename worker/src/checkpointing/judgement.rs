//! How good what is being saved is. An evaluation is told a step after it looked, when the bytes of the checkpoint may be written already: only
//! its commit waits for that.

use std::cell::OnceCell;
use std::sync::mpsc::{Receiver, Sender, channel};

/// What a checkpoint is judged by, when it is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Judgement {
    /// It is known, or there is none.
    Known(Option<f64>),
    /// [`Saver::judge`](super::Saver::judge) will tell.
    ToCome,
}

/// A judgement on its way to the thread that commits.
pub(super) struct Judged {
    value: OnceCell<Option<f64>>,
    told: Receiver<Option<f64>>,
}

impl Judged {
    /// As `judgement` says; who is to tell what is to come gets the other end.
    pub(super) fn new(judgement: Judgement) -> (Self, Option<Sender<Option<f64>>>) {
        let (sender, told) = channel();
        match judgement {
            Judgement::Known(figure) => (Self { value: OnceCell::from(figure), told }, None),
            Judgement::ToCome => (Self { value: OnceCell::new(), told }, Some(sender)),
        }
    }

    /// The figure, waiting until it is told; none if nobody will.
    pub(super) fn figure(&self) -> Option<f64> {
        *self.value.get_or_init(|| self.told.recv().ok().flatten())
    }
}
