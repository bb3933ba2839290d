//! Ending a communicator: the one call that may hang in the driver, so it is made by a thread that may be left behind.

use crate::Communicator;
use crate::error::{Code, Error};
use crate::ffi::RawCommunicator;
use std::ffi::c_int;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A handle on its way to the thread that ends it.
struct Ending(RawCommunicator);

// SAFETY: NCCL binds a communicator to no thread, and the one that sends the handle has given it up.
unsafe impl Send for Ending {}

impl Ending {
    /// The handle. A method, so that a closure captures all of `self` and not the bare pointer.
    fn handle(self) -> RawCommunicator {
        self.0
    }
}

/// Makes `call`, which destroys or aborts, with the handle `raw` that was taken from `communicator`, and waits for it until `deadline`.
pub(crate) fn end(
    operation: &'static str,
    call: unsafe extern "C" fn(RawCommunicator) -> c_int,
    raw: RawCommunicator,
    communicator: &Communicator,
    deadline: Duration,
) -> Result<(), Error> {
    let (rank, world, nccl) = (communicator.rank(), communicator.world(), communicator.nccl());
    let (ended, result) = mpsc::channel();
    let ending = Ending(raw);
    let thread = thread::Builder::new().name("nccl-end".into()).spawn(move || {
        // SAFETY: the handle is that of a live communicator which nobody else uses, now or later.
        let code = unsafe { call(ending.handle()) };
        // In progress: the rest is freed in the background. NCCL's last words are asked for here, as it may keep them per thread.
        let fine = matches!(Code::from(code), Code::Success | Code::InProgress);
        // Perhaps nobody is waiting any more.
        let _ = ended.send((!fine).then(|| nccl.words(code)));
    });
    if let Err(source) = thread {
        return Err(Error::NoThread { operation, rank, world, source });
    }
    match result.recv_timeout(deadline) {
        Ok(None) => Ok(()),
        Ok(Some(words)) => Err(Error::Failed { operation, rank, world, words }),
        Err(_) => Err(Error::Stuck { operation, rank, world, waited: deadline }),
    }
}
