//! Graphs: a sequence of kernels that is captured once and then launched as a whole, without the host's work for each of them.
//!
//! What is captured reads and writes the same memory at each replay: copy new inputs into the old ones. Before the capture, the same work
//! runs a few times on a stream of its own (libraries choose algorithms and allocate then). Within it nothing may wait for the device,
//! and hooks fire at the capture alone; the kernels that they launch are in the graph. Random numbers go on from replay to replay.

use std::ffi::{c_ulonglong, c_void};
use std::marker::PhantomData;

use super::ffi;
use crate::error::{Result, check};

/// The memory of captured tensors. Graphs that share one are replayed in the order of their captures, one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    first: c_ulonglong,
    second: c_ulonglong,
}

impl Pool {
    /// A new one.
    ///
    /// # Errors
    /// There is no GPU.
    pub fn new() -> Result<Self> {
        let (mut first, mut second) = (0, 0);
        // SAFETY: two live integers.
        check("Pool::new", unsafe { ffi::shim_graph_pool(&raw mut first, &raw mut second) })?;
        Ok(Self { first, second })
    }
}

/// A capture that goes on: what this thread queues on the stream that was current when it began, and on those that wait for it, is not
/// run but kept. Calls of other threads that a capture forbids do not break it. Dropped, it is over and forgotten.
#[must_use = "dropping the capture forgets it"]
pub struct Capture {
    graph: Graph,
    /// It ends on the thread on which it began.
    _of_this_thread: PhantomData<*const ()>,
}

impl Capture {
    /// Begins to capture the current stream, which must not be the default one.
    ///
    /// # Errors
    /// There is no GPU, the stream is the default one, or another capture goes on in this process.
    pub fn begin(pool: Pool) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: a live pointer.
        check("Capture::begin", unsafe { ffi::shim_graph_begin(pool.first, pool.second, &raw mut handle) })?;
        Ok(Self { graph: Graph { handle }, _of_this_thread: PhantomData })
    }

    /// Ends it, while the same stream is current.
    ///
    /// # Errors
    /// Something was called that a capture forbids, or another stream is current.
    pub fn end(self) -> Result<Graph> {
        // SAFETY: a live graph whose capture goes on; where that fails, deleting the graph ends it.
        check("Capture::end", unsafe { ffi::shim_graph_end(self.graph.handle) })?;
        Ok(self.graph)
    }
}

/// A captured sequence of kernels.
pub struct Graph {
    handle: *mut c_void,
}

// SAFETY: a captured graph may be replayed from any thread, one at a time: `replay` takes `&mut`. `Capture` is bound to its thread.
unsafe impl Send for Graph {}

impl Graph {
    /// Launches the kernels on the current stream, and returns at once.
    ///
    /// # Errors
    /// As CUDA has them.
    pub fn replay(&mut self) -> Result<()> {
        // SAFETY: a live graph, captured to its end.
        check("Graph::replay", unsafe { ffi::shim_graph_replay(self.handle) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `Capture::begin`, and deleted once. A capture that goes on is ended, on its thread: `Capture` has not left it.
        let _ = unsafe { ffi::shim_graph_delete(self.handle) };
    }
}
