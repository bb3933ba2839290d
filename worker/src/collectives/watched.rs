//! A collective whose time is booked: whoever looks at the worker sees that it waits for the others, and for how long it has.

use super::{Collective, CollectiveError};
use common::control::{Activity, Phase};
use std::sync::Arc;
use tch::Tensor;

/// Any collective, with the worker's [`Activity`] in [`Phase::Collective`] during every call.
pub struct Watched {
    inner: Box<dyn Collective>,
    activity: Arc<Activity>,
}

impl Watched {
    /// Watches `inner`.
    pub fn new(inner: Box<dyn Collective>, activity: Arc<Activity>) -> Self {
        Self { inner, activity }
    }

    fn book<T>(&mut self, call: impl FnOnce(&mut dyn Collective) -> T) -> T {
        let before = self.activity.enter(Phase::Collective);
        let result = call(self.inner.as_mut());
        self.activity.enter(before);
        result
    }
}

impl Collective for Watched {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn world(&self) -> usize {
        self.inner.world()
    }

    fn all_reduce_sum(&mut self, tensor: &Tensor) -> Result<(), CollectiveError> {
        self.book(|inner| inner.all_reduce_sum(tensor))
    }

    fn all_reduce_mean(&mut self, tensor: &Tensor) -> Result<(), CollectiveError> {
        self.book(|inner| inner.all_reduce_mean(tensor))
    }

    fn broadcast(&mut self, tensor: &Tensor, root: usize) -> Result<(), CollectiveError> {
        self.book(|inner| inner.broadcast(tensor, root))
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.book(|inner| inner.barrier())
    }

    fn abort(&mut self, exit_code: u8) {
        self.inner.abort(exit_code);
    }
}
