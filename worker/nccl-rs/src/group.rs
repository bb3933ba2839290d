//! Several operations queued together.

use crate::communicator::Communicator;
use crate::error::{Code, Error};
use crate::{Buffer, Stream};
use std::ffi::c_int;
use std::marker::PhantomData;

/// An open group of operations, within [`Communicator::group`].
#[derive(Debug)]
pub struct Group<'c> {
    communicator: &'c mut Communicator,
    open: bool,
    /// NCCL counts open groups per thread, so a group stays on its own.
    not_send: PhantomData<*const ()>,
}

impl<'c> Group<'c> {
    pub(crate) fn start(communicator: &'c mut Communicator) -> Result<Self, Error> {
        // SAFETY: takes nothing; counts the groups of this thread.
        let code = unsafe { (communicator.nccl().table().group_start)() };
        match Code::from(code) {
            Code::Success => Ok(Self { communicator, open: true, not_send: PhantomData }),
            _ => Err(communicator.failed("group", code)),
        }
    }

    /// [`Communicator::all_reduce_sum`], as part of the group.
    ///
    /// # Errors
    /// NCCL refuses the operation.
    pub fn all_reduce_sum(&mut self, buffer: &Buffer, stream: Stream) -> Result<(), Error> {
        let code = self.communicator.enqueue_all_reduce_sum(buffer, stream);
        self.accepted("all_reduce_sum", code)
    }

    /// [`Communicator::broadcast`], as part of the group.
    ///
    /// # Errors
    /// A root outside of the world, or NCCL refuses the operation.
    pub fn broadcast(&mut self, buffer: &Buffer, root: usize, stream: Stream) -> Result<(), Error> {
        let code = self.communicator.enqueue_broadcast(buffer, root, stream)?;
        self.accepted("broadcast", code)
    }

    fn accepted(&self, operation: &'static str, code: c_int) -> Result<(), Error> {
        match Code::from(code) {
            Code::Success | Code::InProgress => Ok(()),
            _ => Err(self.communicator.failed(operation, code)),
        }
    }

    /// Hands the operations to NCCL.
    pub(crate) fn end(mut self) -> c_int {
        self.close()
    }

    fn close(&mut self) -> c_int {
        self.open = false;
        // SAFETY: closes the group that `start` has opened on this thread: a group borrows its communicator and is not `Send`.
        unsafe { (self.communicator.nccl().table().group_end)() }
    }
}

impl Drop for Group<'_> {
    /// After a panic in the group's body: an open group would swallow all later operations of this thread.
    fn drop(&mut self) {
        if self.open {
            self.close();
        }
    }
}
