//! Ranks that do something together, each with one communicator of its own.

use crate::end::end;
use crate::error::{Code, Error};
use crate::ffi::{Config, RawCommunicator, SUM};
use crate::group::Group;
use crate::wait::Wait;
use crate::{Buffer, Nccl, Stream, UniqueId};
use std::ffi::c_int;
use std::time::Duration;

/// How patient a communicator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How long it may take NCCL to queue an operation, one minute by default. The first operations include connecting with the
    /// other ranks, later ones take microseconds; how long the operation itself takes is for whoever waits for the stream.
    pub operation_deadline: Duration,
    /// How long giving up may take where no deadline is given with it: after a failed [`Communicator::connect`] or
    /// [`Communicator::finalize`], and in `Drop`. Ten seconds by default.
    pub abort_deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { operation_deadline: Duration::from_secs(60), abort_deadline: Duration::from_secs(10) }
    }
}

/// One rank's end of a communicator. All ranks call the same operations in the same order, with buffers of the same size.
///
/// It may move between threads but serves one at a time. It ends by [`Communicator::finalize`] when all went well, by
/// [`Communicator::abort`] when something failed, and by `Drop`, which aborts, in all other cases.
#[derive(Debug)]
pub struct Communicator {
    nccl: Nccl,
    /// Null once the communicator has ended.
    raw: RawCommunicator,
    rank: usize,
    world: usize,
    options: Options,
}

// SAFETY: NCCL binds a communicator to no thread, it only forbids to use it from two at once. It is not `Sync`, and its handle is
// never given away while it lives.
unsafe impl Send for Communicator {}

impl Communicator {
    /// Meets the other ranks of `id`, which must all come within `deadline`. The calling thread's current CUDA device becomes the
    /// communicator's device.
    ///
    /// Nothing blocks, unless the environment variable `NCCL_COMM_BLOCKING=1` overrules this crate: deadlines then count for nothing.
    ///
    /// # Errors
    /// An impossible place, NCCL's own failures (there is no device, ranks disagree, another rank gave up), or the deadline. What there
    /// is of the communicator by then is aborted.
    pub fn connect(
        nccl: &Nccl,
        id: UniqueId,
        rank: usize,
        world: usize,
        deadline: Duration,
        options: Options,
    ) -> Result<Self, Error> {
        let no_such_rank = || Error::NoSuchRank { rank, world };
        let (Ok(c_rank), Ok(c_world)) = (c_int::try_from(rank), c_int::try_from(world)) else { return Err(no_such_rank()) };
        if rank >= world {
            return Err(no_such_rank());
        }
        let wait = Wait::start(deadline);
        let mut communicator = Self { nccl: *nccl, raw: std::ptr::null_mut(), rank, world, options };
        let mut config = Config::non_blocking();
        let raw = &raw mut communicator.raw;
        // SAFETY: `raw` and `config` are valid for the call, and NCCL copies what it keeps of the configuration.
        let code = unsafe { (nccl.table().comm_init_rank_config)(raw, c_world, id.raw(), c_rank, &raw mut config) };
        match communicator.settle("connect", code, &wait) {
            Ok(()) => Ok(communicator),
            Err(cause) => Err(communicator.give_up(cause)),
        }
    }

    /// This process's rank.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    #[must_use]
    pub fn world(&self) -> usize {
        self.world
    }

    /// Queues, in `stream`, that `buffer` is replaced on every rank by the sum over all ranks.
    ///
    /// # Errors
    /// NCCL refuses, another rank failed, or [`Options::operation_deadline`] is over; the communicator is then only good for
    /// [`Communicator::abort`]. Failures of the operation itself show in [`Communicator::async_error`].
    pub fn all_reduce_sum(&mut self, buffer: &Buffer, stream: Stream) -> Result<(), Error> {
        let wait = Wait::start(self.options.operation_deadline);
        let code = self.enqueue_all_reduce_sum(buffer, stream);
        self.settle("all_reduce_sum", code, &wait)
    }

    /// Queues, in `stream`, that `buffer` is replaced on every rank by that of rank `root`.
    ///
    /// # Errors
    /// A root outside of the world, and those of [`Communicator::all_reduce_sum`].
    pub fn broadcast(&mut self, buffer: &Buffer, root: usize, stream: Stream) -> Result<(), Error> {
        let wait = Wait::start(self.options.operation_deadline);
        let code = self.enqueue_broadcast(buffer, root, stream)?;
        self.settle("broadcast", code, &wait)
    }

    /// Queues the operations that `body` calls on the [`Group`] together, which is cheaper than one by one and lets NCCL fuse them.
    ///
    /// # Errors
    /// Those of `body`, else those of the operations. What `body` had called before it failed is queued nevertheless.
    pub fn group<T>(&mut self, body: impl FnOnce(&mut Group<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let wait = Wait::start(self.options.operation_deadline);
        let mut group = Group::start(self)?;
        let result = body(&mut group);
        let code = group.end();
        let settled = self.settle("group", code, &wait);
        result.and_then(|value| settled.map(|()| value))
    }

    /// Whether a queued operation has failed, or another rank is gone. To be asked again and again by whoever waits for the stream:
    /// operations of a failed communicator never end.
    ///
    /// # Errors
    /// The failure. The communicator is then only good for [`Communicator::abort`].
    pub fn async_error(&self) -> Result<(), Error> {
        let code = self.state();
        match Code::from(code) {
            Code::Success | Code::InProgress => Ok(()),
            _ => Err(self.failed("a queued operation", code)),
        }
    }

    /// Ends the communicator after all queued operations are done, together with all other ranks.
    ///
    /// # Errors
    /// A failed operation, or the deadline. The communicator is then aborted.
    pub fn finalize(mut self, deadline: Duration) -> Result<(), Error> {
        let wait = Wait::start(deadline);
        // SAFETY: the handle is that of a live communicator.
        let code = unsafe { (self.nccl.table().comm_finalize)(self.raw) };
        if let Err(cause) = self.settle("finalize", code, &wait) {
            return Err(self.give_up(cause));
        }
        // Nothing is left to wait for, but the driver is called once more; it gets as long as for giving up.
        let left = deadline.saturating_sub(wait.waited()).max(self.options.abort_deadline);
        let raw = self.take();
        end("ncclCommDestroy", self.nccl.table().comm_destroy, raw, &self, left)
    }

    /// Ends the communicator without waiting for anybody: operations that are under way stop where they are, here and, as their
    /// connections break, on the other ranks.
    ///
    /// # Errors
    /// NCCL fails at it, or is stuck: then the communicator is left behind as it is.
    pub fn abort(mut self, deadline: Duration) -> Result<(), Error> {
        self.abort_within(deadline)
    }

    /// `ncclAllReduce`, in place.
    pub(crate) fn enqueue_all_reduce_sum(&mut self, buffer: &Buffer, stream: Stream) -> c_int {
        let Buffer { pointer, elements, data_type } = *buffer;
        // SAFETY: the handle is that of a live communicator; who made buffer and stream vouches for them.
        unsafe { (self.nccl.table().all_reduce)(pointer, pointer, elements, data_type.code(), SUM, self.raw, stream.0) }
    }

    /// `ncclBroadcast`, in place.
    pub(crate) fn enqueue_broadcast(&mut self, buffer: &Buffer, root: usize, stream: Stream) -> Result<c_int, Error> {
        let Buffer { pointer, elements, data_type } = *buffer;
        // A root below the world size fits, as the world size does.
        let root =
            c_int::try_from(root).ok().filter(|_| root < self.world).ok_or(Error::NoSuchRank { rank: root, world: self.world })?;
        // SAFETY: as for `ncclAllReduce`.
        Ok(unsafe { (self.nccl.table().broadcast)(pointer, pointer, elements, data_type.code(), root, self.raw, stream.0) })
    }

    /// NCCL's words about `code`, which it has just returned.
    pub(crate) fn failed(&self, operation: &'static str, code: c_int) -> Error {
        Error::Failed { operation, rank: self.rank, world: self.world, words: self.nccl.words(code) }
    }

    pub(crate) fn nccl(&self) -> Nccl {
        self.nccl
    }

    /// The communicator's state: a failure, in progress, or success.
    fn state(&self) -> c_int {
        let mut state = 0;
        // SAFETY: the handle is that of a live communicator, and one int is written.
        let code = unsafe { (self.nccl.table().comm_get_async_error)(self.raw, &raw mut state) };
        if Code::from(code) == Code::Success { state } else { code }
    }

    /// Waits until what has returned `code` is done.
    fn settle(&self, operation: &'static str, mut code: c_int, wait: &Wait) -> Result<(), Error> {
        loop {
            match Code::from(code) {
                Code::Success => return Ok(()),
                Code::InProgress if !self.raw.is_null() => {}
                _ => return Err(self.failed(operation, code)),
            }
            if !wait.pause() {
                let (rank, world, detail) = (self.rank, self.world, self.nccl.last_error());
                return Err(Error::Deadline { operation, rank, world, waited: wait.waited(), detail });
            }
            code = self.state();
        }
    }

    /// Aborts because of `cause`, and says so if that fails too.
    fn give_up(mut self, cause: Error) -> Error {
        match self.abort_within(self.options.abort_deadline) {
            Ok(()) => cause,
            Err(abort) => Error::AndAbort { cause: Box::new(cause), abort: Box::new(abort) },
        }
    }

    fn abort_within(&mut self, deadline: Duration) -> Result<(), Error> {
        let raw = self.take();
        if raw.is_null() { Ok(()) } else { end("ncclCommAbort", self.nccl.table().comm_abort, raw, self, deadline) }
    }

    /// The handle, which from now on belongs to the caller.
    fn take(&mut self) -> RawCommunicator {
        std::mem::replace(&mut self.raw, std::ptr::null_mut())
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // There is nobody to tell; who wants to know calls `abort`.
        let _ = self.abort_within(self.options.abort_deadline);
    }
}
