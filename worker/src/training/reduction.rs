//! The sum of the gradients over the workers, while the gradients are still being computed.
//!
//! The flat gradients are cut into buckets, from the end to the start: backward passes come by the last layers first. As soon as the last
//! gradient of a bucket is there, its sum is asked for; and always in the order of the buckets, which is the same on all workers.

use super::parameters::{Entry, FlatParameters};
use crate::collectives::{CollectiveError, Communicator, Submitter, Ticket};
use common::config::{ReductionConfig, Wire};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, Tensor};
use thiserror::Error;
use torch_shim::{Hook, ShimError, post_accumulate_grad_hook};

/// Why gradients could not be summed.
#[derive(Debug, Error)]
pub enum ReductionError {
    /// The loss does not depend on a parameter.
    #[error(
        "{} of {of} parameters had no part in the loss, as {}: the networks of model.* hold layers that nothing uses",
        .unused.len(), .unused.first().map_or("", String::as_str)
    )]
    Unused {
        /// Group and name of each.
        unused: Vec<String>,
        /// Number of parameters.
        of: usize,
    },
    /// The other workers cannot be reached.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// libtorch refused a hook.
    #[error("the gradients cannot be watched: {0}")]
    Hook(#[from] ShimError),
}

/// A part of the flat gradients that travels as one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bucket {
    /// Its elements.
    range: Range<i64>,
    /// The variables that lie in it.
    variables: Range<usize>,
}

/// Cuts the first `length` elements, in which variables start at `offsets`, into buckets from the end to the start. A bucket ends where
/// it has at least its number of elements, at the start of a variable: `first` for the first one, `other` for the others.
fn cut(offsets: &[i64], length: i64, first: i64, other: i64) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::new();
    let (mut end, mut variables_end) = (length, offsets.len());
    for (variable, &offset) in offsets.iter().enumerate().rev() {
        let wanted = if buckets.is_empty() { first } else { other };
        if end - offset >= wanted || variable == 0 {
            let start = if variable == 0 { 0 } else { offset };
            buckets.push(Bucket { range: start..end, variables: variable..variables_end });
            (end, variables_end) = (start, variable);
        }
    }
    buckets
}

/// Watches the gradients of all parameters and sums them over the workers.
pub struct Reducer {
    shared: Arc<Shared>,
    names: Vec<String>,
    /// Fire for as long as they are here.
    _hooks: Vec<Hook>,
}

struct Shared {
    buckets: Vec<Bucket>,
    /// The bucket of every variable.
    bucket_of: Vec<usize>,
    gradients: Mutex<Vec<Tensor>>,
    submitter: Submitter,
    wire: Wire,
    pass: Mutex<Pass>,
}

/// What has happened in the present backward pass.
#[derive(Default)]
struct Pass {
    /// Whether the gradients of this pass complete the sum over a worker's micro batches.
    armed: bool,
    /// Which variables have their gradients.
    seen: Vec<bool>,
    /// How many gradients each bucket still waits for.
    missing: Vec<usize>,
    /// Sums that were asked for, in the order of the buckets.
    tickets: Vec<Ticket>,
}

impl Reducer {
    /// Watches `parameters`, whose sums `communicator` forms.
    ///
    /// # Errors
    /// A parameter that libtorch does not let watch.
    pub fn new(parameters: &FlatParameters, communicator: &Communicator, config: &ReductionConfig) -> Result<Self, ReductionError> {
        let element = parameters.values().kind().elt_size_in_bytes() as f64;
        let elements = |mib: f64| (mib * f64::from(1 << 20) / element) as i64;
        let offsets: Vec<i64> = parameters.entries().iter().map(|entry| entry.offset).collect();
        let reduced = parameters.reduced();
        let length = reduced.size().first().copied().unwrap_or_default();
        let buckets = cut(&offsets, length, elements(config.first_bucket_mib), elements(config.bucket_mib));
        let mut bucket_of = vec![0; offsets.len()];
        for (index, bucket) in buckets.iter().enumerate() {
            bucket_of[bucket.variables.clone()].fill(index);
        }
        let gradients = buckets.iter().map(|bucket| reduced.narrow(0, bucket.range.start, bucket.range.end - bucket.range.start));
        let shared = Arc::new(Shared {
            gradients: Mutex::new(gradients.collect()),
            buckets,
            bucket_of,
            submitter: communicator.submitter(),
            wire: config.wire,
            pass: Mutex::default(),
        });
        let watch = |(index, variable): (usize, &Tensor)| {
            let shared = shared.clone();
            post_accumulate_grad_hook(variable, move || shared.arrived(index))
        };
        let hooks = parameters.variables().iter().enumerate().map(watch).collect::<Result<_, _>>()?;
        let name = |entry: &Entry| format!("{}.{}", entry.group, entry.name);
        Ok(Self { names: parameters.entries().iter().map(name).collect(), shared, _hooks: hooks })
    }

    /// The next backward pass is the last one of the step: its gradients complete the buckets.
    pub fn arm(&self) {
        let Shared { buckets, bucket_of, .. } = &*self.shared;
        *self.shared.pass() = Pass {
            armed: true,
            seen: vec![false; bucket_of.len()],
            missing: buckets.iter().map(|bucket| bucket.variables.len()).collect(),
            tickets: Vec::with_capacity(buckets.len()),
        };
    }

    /// Returns when all sums are there, after the backward pass that [`arm`](Self::arm) has announced.
    ///
    /// # Errors
    /// A parameter without gradient, or a failure of the collective.
    pub fn finish(&self) -> Result<(), ReductionError> {
        let Pass { seen, tickets, .. } = std::mem::take(&mut *self.shared.pass());
        let unused = seen.iter().zip(&self.names).filter(|(seen, _)| !**seen).map(|(_, name)| name.clone());
        let unused: Vec<String> = unused.collect();
        if !unused.is_empty() {
            return Err(ReductionError::Unused { unused, of: seen.len() });
        }
        let mut tickets = tickets.into_iter();
        let result = tickets.by_ref().try_for_each(|ticket| self.shared.submitter.wait(ticket));
        // For `abandon`.
        self.shared.pass().tickets = tickets.collect();
        Ok(result?)
    }

    /// Forgets a pass that has failed before or in [`finish`](Self::finish), once the communication thread has nothing to do with it any
    /// more.
    pub fn abandon(&self) {
        let tickets = std::mem::take(&mut *self.shared.pass()).tickets;
        // The failure is known already.
        tickets.into_iter().for_each(|ticket| drop(self.shared.submitter.wait(ticket)));
    }

    /// The sums of all buckets, after backward passes of which none was announced by [`arm`](Self::arm).
    ///
    /// # Errors
    /// A failure of the collective.
    pub fn sum(&self) -> Result<(), ReductionError> {
        let shared = &self.shared;
        let tickets: Vec<Ticket> = shared.gradients().iter().map(|bucket| shared.submitter.sum(bucket, shared.wire)).collect();
        Ok(tickets.into_iter().try_for_each(|ticket| shared.submitter.wait(ticket))?)
    }

    /// Whether there is nobody to sum with.
    pub fn is_alone(&self) -> bool {
        self.shared.submitter.is_alone()
    }

    /// Whether all workers say `yes`. All have to ask at the same step, and wait for the answer.
    ///
    /// # Errors
    /// A failure of the collective.
    pub fn all_say(&self, yes: bool) -> Result<bool, ReductionError> {
        let device = self.shared.gradients().first().map_or(Device::Cpu, Tensor::device);
        let against = Tensor::full([1], f64::from(u8::from(!yes)), (Kind::Float, device));
        self.shared.submitter.wait(self.shared.submitter.sum(&against, Wire::Fp32))?;
        Ok(against.double_value(&[0]) == 0.0)
    }
}

impl Shared {
    /// The gradient of a variable is complete, as far as this pass goes.
    fn arrived(&self, variable: usize) {
        let mut pass = self.pass();
        if !pass.armed || std::mem::replace(&mut pass.seen[variable], true) {
            return;
        }
        pass.missing[self.bucket_of[variable]] -= 1;
        let gradients = self.gradients();
        while pass.missing.get(pass.tickets.len()) == Some(&0) {
            let ticket = self.submitter.sum(&gradients[pass.tickets.len()], self.wire);
            pass.tickets.push(ticket);
        }
    }

    /// The buckets of the flat gradients, in their order.
    fn gradients(&self) -> MutexGuard<'_, Vec<Tensor>> {
        self.gradients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self) -> MutexGuard<'_, Pass> {
        self.pass.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::collectives::InProcess;
    use crate::training::parameters::Group;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn buckets_cover_everything_once_from_the_end(
            lengths in prop::collection::vec(1_i64..100, 1..40), tail in 0_i64..5, first in 1_i64..50, other in 1_i64..200,
        ) {
            let offsets: Vec<i64> = lengths.iter().scan(0, |end, length| Some(std::mem::replace(end, *end + length))).collect();
            let total = lengths.iter().sum::<i64>() + tail;
            let buckets = cut(&offsets, total, first, other);
            let mut end = (total, offsets.len());
            for (index, Bucket { range, variables }) in buckets.iter().enumerate() {
                prop_assert_eq!((range.end, variables.end), end);
                prop_assert_eq!(range.start, offsets[variables.start]);
                end = (range.start, variables.start);
                let wanted = if index == 0 { first } else { other };
                prop_assert!(range.end - range.start >= wanted || index + 1 == buckets.len());
                // Without its first variable it would have been too small.
                prop_assert!(variables.len() == 1 || range.end - offsets[variables.start + 1] < wanted);
            }
            prop_assert_eq!(end, (0, 0));
        }
    }

    #[test]
    fn a_parameter_without_a_part_in_the_loss_is_named() {
        let variable = || Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let (used, idle) = (variable(), variable());
        let variables = vec![("weight".to_owned(), used.shallow_clone()), ("idle".to_owned(), idle)];
        let parameters = FlatParameters::new(vec![Group { name: "unet".into(), variables }]).unwrap();
        let communicator = Communicator::alone(Arc::default());
        let reducer = Reducer::new(&parameters, &communicator, &ReductionConfig::default()).unwrap();
        reducer.arm();
        used.sum(Kind::Float).backward();
        let text = reducer.finish().unwrap_err().to_string();
        assert!(text.starts_with("1 of 2 parameters had no part in the loss, as unet.idle"), "{text}");
    }

    #[test]
    fn workers_agree_and_sums_that_nobody_waits_for_are_done_before_others() {
        std::thread::scope(|scope| {
            for (rank, end) in InProcess::world(2).into_iter().enumerate() {
                scope.spawn(move || {
                    let parameter = Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
                    let variables = vec![("weight".to_owned(), parameter.shallow_clone())];
                    let parameters = FlatParameters::new(vec![Group { name: "unet".into(), variables }]).unwrap();
                    let communicator = Communicator::start(move || Ok(Box::new(end)), Device::Cpu, Arc::default()).unwrap();
                    let reducer = Reducer::new(&parameters, &communicator, &ReductionConfig::default()).unwrap();
                    reducer.arm();
                    parameter.sum(Kind::Float).backward();
                    reducer.abandon();
                    assert_eq!(parameter.grad().double_value(&[0]), 2.0, "the sum over both");
                    assert_eq!([true, rank == 0].map(|yes| reducer.all_say(yes).unwrap()), [true, false]);
                    reducer.sum().unwrap();
                    assert_eq!(parameter.grad().double_value(&[0]), 4.0);
                });
            }
        });
    }
}
