//! A communicator: what it is at, and how calls let it go on.

use crate::failure::{Failure, IN_PROGRESS, SUCCESS, remember};
use crate::faults::{Hang, hang};
use crate::operation::{Kind, Operation};
use crate::segment::Segment;
use crate::unique_id::UniqueId;
use std::collections::VecDeque;
use std::ffi::c_int;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a call that starts something goes on with it before it says that it is in progress.
const CALL: Duration = Duration::from_millis(20);

/// How long a call that asks for the state goes on with what is in progress.
const POLL: Duration = Duration::from_millis(2);

/// What a communicator's handle points at.
pub(crate) struct Communicator {
    /// Nothing if it hangs from the start.
    segment: Option<Segment>,
    blocking: bool,
    hang: Option<Hang>,
    state: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Joining,
    Open,
    Finalizing,
    Finalized,
}

struct State {
    phase: Phase,
    /// The first failure, which stays.
    failure: Option<Failure>,
    operations: VecDeque<Operation>,
    /// Steps of operations so far.
    step: u64,
}

impl Communicator {
    /// Comes to the others of `id`, and does not wait for them.
    pub(crate) fn join(id: &UniqueId, rank: usize, world: usize, blocking: bool) -> Result<Self, Failure> {
        let (path, hang) = (id.path()?, hang()?);
        let segment = if hang == Some(Hang::Init) { None } else { Some(Segment::join(path, rank, world)?) };
        let state = State { phase: Phase::Joining, failure: None, operations: VecDeque::new(), step: 0 };
        Ok(Self { segment, blocking, hang, state: Mutex::new(state) })
    }

    /// Goes on with what a call has started, to its end if calls are to block.
    pub(crate) fn start(&self) -> Result<c_int, Failure> {
        loop {
            let code = self.progress(CALL)?;
            if code != IN_PROGRESS || !self.blocking {
                return Ok(code);
            }
        }
    }

    /// Goes on a little, and says how things are.
    pub(crate) fn poll(&self) -> Result<c_int, Failure> {
        self.progress(POLL)
    }

    /// Adds an operation to those to be done.
    pub(crate) fn add(&self, operation: Operation) -> Result<(), Failure> {
        let mut state = self.idle()?;
        state.operations.push_back(operation);
        Ok(())
    }

    /// Fails unless the communicator is ready for a call, as NCCL demands that all calls before are done.
    pub(crate) fn check_idle(&self) -> Result<(), Failure> {
        match self.idle()?.operations.is_empty() {
            true => Ok(()),
            false => Err(Failure::argument("a call before the operation before it was done")),
        }
    }

    /// Begins to finalize.
    pub(crate) fn finalize(&self) -> Result<(), Failure> {
        self.check_idle()?;
        self.lock().phase = Phase::Finalizing;
        if let Some(segment) = &self.segment {
            segment.own().finalized.store(1, SeqCst);
            segment.header().bell.ring();
        }
        Ok(())
    }

    /// Says that this rank goes because it is done.
    pub(crate) fn leave(&self) {
        if let Some(segment) = self.segment.as_ref().filter(|_| self.lock().failure.is_none()) {
            segment.leave();
        }
    }

    /// Gives up: here and on the other ranks, nobody waits any longer.
    pub(crate) fn abort(&self) {
        if self.hang == Some(Hang::Abort) {
            loop {
                std::thread::park();
            }
        }
        if let Some(segment) = &self.segment {
            segment.abort();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> Result<MutexGuard<'_, State>, Failure> {
        let state = self.lock();
        match (&state.failure, state.phase) {
            (Some(failure), _) => Err(failure.clone()),
            (None, Phase::Open) => Ok(state),
            (None, Phase::Joining) => Err(Failure::argument("a call before the communicator was there")),
            (None, Phase::Finalizing | Phase::Finalized) => Err(Failure::argument("a call after ncclCommFinalize")),
        }
    }

    fn progress(&self, limit: Duration) -> Result<c_int, Failure> {
        let mut state = self.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        let Some(segment) = &self.segment else {
            hang_on(limit);
            return Ok(IN_PROGRESS);
        };
        match self.advance(segment, &mut state, Instant::now() + limit) {
            Ok(true) => Ok(SUCCESS),
            Ok(false) => Ok(IN_PROGRESS),
            Err(failure) => {
                state.failure = Some(failure.clone());
                state.operations.clear();
                Err(failure)
            }
        }
    }

    /// Goes on until there is nothing to do, or `until`; whether there is nothing to do.
    fn advance(&self, segment: &Segment, state: &mut State, until: Instant) -> Result<bool, Failure> {
        match state.phase {
            Phase::Joining => {
                if !segment.wait(until, || segment.is_complete())? {
                    remember(&format!("waiting for rank {} of {}", segment.missing(), segment.world()));
                    return Ok(false);
                }
                state.phase = Phase::Open;
            }
            Phase::Finalizing => {
                if !segment.wait(until, || segment.ranks().iter().all(|rank| rank.finalized.load(SeqCst) == 1))? {
                    return Ok(false);
                }
                state.phase = Phase::Finalized;
            }
            Phase::Open if state.operations.is_empty() => {
                segment.check()?;
                segment.check_alive()?;
            }
            Phase::Open | Phase::Finalized => {}
        }
        while let Some(operation) = state.operations.front_mut() {
            if self.hang == Some(Hang::AllReduce) && operation.kind() == Kind::Sum {
                hang_on(until.saturating_duration_since(Instant::now()));
                return Ok(false);
            }
            if !operation.advance(segment, &mut state.step, until)? {
                remember(&operation.waiting(segment));
                return Ok(false);
            }
            state.operations.pop_front();
        }
        Ok(true)
    }
}

/// What a call does that was told to hang.
fn hang_on(limit: Duration) {
    remember("told to hang by NCCL_STAND_IN_HANG");
    std::thread::sleep(limit);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::element::Element;
    use crate::failure::{INVALID_ARGUMENT, INVALID_USAGE, REMOTE_ERROR};
    use std::thread;

    /// The ranks of a new world, in one process.
    fn world(size: usize, blocking: bool) -> Vec<Communicator> {
        let id = UniqueId::new().unwrap();
        let ranks = (0..size).map(|rank| Communicator::join(&id, rank, size, blocking).unwrap()).collect();
        assert!(!id.path().unwrap().exists(), "the file has to go when all ranks have come");
        ranks
    }

    fn sum(values: &mut [f64]) -> Operation {
        let values = values.as_mut_ptr().cast::<u8>();
        // SAFETY: the tests keep the memory until the operation is done or dropped.
        unsafe { Operation::new(Kind::Sum, Element::F64, values, values, 1) }
    }

    #[test]
    fn calls_are_in_progress_until_all_ranks_have_come() {
        let id = UniqueId::new().unwrap();
        let first = Communicator::join(&id, 0, 2, false).unwrap();
        assert_eq!(first.start().unwrap(), IN_PROGRESS);
        assert_eq!(first.check_idle().unwrap_err().code, INVALID_ARGUMENT);
        assert_eq!(Communicator::join(&id, 0, 2, false).err().unwrap().code, INVALID_USAGE);
        assert_eq!(Communicator::join(&id, 2, 3, false).err().unwrap().code, INVALID_USAGE);
        let second = Communicator::join(&id, 1, 2, false).unwrap();
        assert_eq!((first.poll().unwrap(), second.start().unwrap()), (SUCCESS, SUCCESS));
    }

    #[test]
    fn abort_wakes_who_waits_in_an_operation_here_and_elsewhere() {
        for aborting in [0, 1] {
            let ranks = world(2, true);
            let mut values = [1.0];
            let failure = thread::scope(|scope| {
                ranks.iter().for_each(|rank| assert_eq!(rank.start().unwrap(), SUCCESS));
                let waiting = scope.spawn(|| {
                    ranks[0].add(sum(&mut values)).unwrap();
                    ranks[0].start().unwrap_err()
                });
                let segment = ranks[0].segment.as_ref().unwrap();
                while segment.own().brought.load(SeqCst) == 0 {
                    thread::yield_now();
                }
                ranks[aborting].abort();
                waiting.join().unwrap()
            });
            assert_eq!((failure.code, failure.words), (REMOTE_ERROR, format!("rank {aborting} has given up")));
        }
    }

    #[test]
    fn who_needs_a_rank_that_has_left_is_told_and_who_does_not_is_not() {
        let mut ranks = world(2, false);
        ranks.iter().for_each(|rank| assert_eq!(rank.start().unwrap(), SUCCESS));
        let second = ranks.pop().unwrap();
        second.leave();
        drop(second);
        assert_eq!(ranks[0].poll().unwrap(), SUCCESS);
        let mut values = [1.0];
        ranks[0].add(sum(&mut values)).unwrap();
        assert_eq!(ranks[0].start().unwrap_err().words, "rank 1 has left");
        assert_eq!(ranks[0].poll().unwrap_err().code, REMOTE_ERROR);
    }
}
