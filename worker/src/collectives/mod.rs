//! What workers do together: sum, broadcast, wait, give up. One trait; backends for one worker, for threads (tests) and for MPI.
//!
//! Every worker calls the same operations in the same order with tensors of the same size, from one thread: that of the
//! [`Communicator`], through which jobs reach a backend.

mod communicator;
mod in_process;
#[cfg(feature = "mpi")]
mod mpi;
mod nccl;
mod ordering;
mod solo;

pub use communicator::{Communicator, Submitter, Ticket};
pub use in_process::InProcess;
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use nccl::{Meet, Nccl};
pub use ordering::{Lane, Moment};
pub use solo::Solo;

use common::backend;
use common::place::Place;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};
use thiserror::Error;

/// Operations among all workers of a generation.
///
/// Tensors are contiguous, of kind f32, f64, bf16 or i64, and are changed in place. MPI and threads take tensors on the CPU. Sums are formed in one fixed order, so the
/// same inputs give the same bits on every worker and in every run.
pub trait Collective: Send {
    /// This worker's rank.
    fn rank(&self) -> usize;

    /// Number of workers.
    fn world(&self) -> usize;

    /// Replaces `tensor` on every worker by the sum over all workers.
    ///
    /// # Errors
    /// A tensor that the backend cannot move, or a failure of the transport.
    fn all_reduce_sum(&mut self, tensor: &Tensor) -> Result<(), CollectiveError>;

    /// Replaces the floating-point `tensor` on every worker by the mean over all workers.
    ///
    /// # Errors
    /// Those of [`Collective::all_reduce_sum`].
    fn all_reduce_mean(&mut self, tensor: &Tensor) -> Result<(), CollectiveError> {
        self.all_reduce_sum(tensor)?;
        let _ = tch::no_grad(|| tensor.shallow_clone().g_div_scalar_(self.world() as f64));
        Ok(())
    }

    /// Replaces `tensor` on every worker by that of worker `root`.
    ///
    /// # Errors
    /// A tensor that the backend cannot move, a root outside of the world, or a failure of the transport.
    fn broadcast(&mut self, tensor: &Tensor, root: usize) -> Result<(), CollectiveError>;

    /// Returns once every worker has called it.
    ///
    /// # Errors
    /// A failure of the transport.
    fn barrier(&mut self) -> Result<(), CollectiveError>;

    /// Where its operations take place.
    fn device(&self) -> Device {
        Device::Cpu
    }

    /// The queue of its operations, if it has one of its own.
    fn lane(&self) -> Option<&Lane> {
        None
    }

    /// Whether what was queued is going well, as far as can be told without waiting.
    ///
    /// # Errors
    /// A failure of the transport.
    fn check(&mut self) -> Result<(), CollectiveError> {
        Ok(())
    }

    /// What tells the other workers not to wait for this one any longer.
    fn aborter(&self) -> Aborter;

    /// Tells the other workers not to wait for this one any longer. With MPI this ends all processes with `exit_code`.
    fn abort(&self, exit_code: u8) {
        self.aborter()(exit_code);
    }
}

/// Tells the other workers not to wait for this one any longer, and why by an exit code; from any thread, also while another one is
/// inside of the backend.
pub type Aborter = Arc<dyn Fn(u8) + Send + Sync>;

/// Connects the workers, which compute on `device`. For NCCL they tell each other by `meet` where.
///
/// # Errors
/// Several workers without anything between them, an MPI that disagrees with the launcher, or an NCCL that does not come about.
pub fn connect(
    collective: backend::Collective,
    place: Place,
    device: Device,
    meet: Meet,
) -> Result<Box<dyn Collective>, CollectiveError> {
    match collective {
        backend::Collective::Solo if place.world == 1 => Ok(Box::new(Solo)),
        backend::Collective::Solo => Err(CollectiveError::SoloWorld { world: place.world }),
        backend::Collective::Mpi => connect_mpi(place),
        backend::Collective::Nccl => Ok(Box::new(Nccl::connect(place, device, meet)?)),
    }
}

#[cfg(feature = "mpi")]
fn connect_mpi(place: Place) -> Result<Box<dyn Collective>, CollectiveError> {
    Ok(Box::new(Mpi::connect(place)?))
}

#[cfg(not(feature = "mpi"))]
fn connect_mpi(_place: Place) -> Result<Box<dyn Collective>, CollectiveError> {
    Err(CollectiveError::WithoutMpi)
}

/// Why workers could not do something together.
#[derive(Debug, Error)]
pub enum CollectiveError {
    /// A tensor that no backend moves.
    #[error("cannot {operation} a tensor of kind {kind:?} and shape {shape:?}: {problem}")]
    Unsupported {
        /// The operation.
        operation: &'static str,
        /// The tensor's kind.
        kind: Kind,
        /// The tensor's shape.
        shape: Vec<i64>,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A root outside of the world.
    #[error("cannot broadcast from rank {root}: there are {world} workers")]
    NoSuchRoot {
        /// The root asked for.
        root: usize,
        /// The world size.
        world: usize,
    },
    /// Workers came with different operations or sizes.
    #[error("rank {rank} entered {operation} with {bytes} bytes, rank 0 with {expected} bytes")]
    Mismatch {
        /// The operation.
        operation: &'static str,
        /// The worker that differs.
        rank: usize,
        /// Its bytes.
        bytes: usize,
        /// The bytes of rank 0.
        expected: usize,
    },
    /// Another worker gave up.
    #[error("another worker gave up during {operation}")]
    Aborted {
        /// The operation.
        operation: &'static str,
    },
    /// The transport failed.
    #[error("{operation} failed: {cause}")]
    Transport {
        /// The operation.
        operation: &'static str,
        /// What the transport says.
        cause: String,
    },
    /// The launcher and the transport disagree about the place of this worker.
    #[error("the launcher says rank {rank} of {world}, MPI says rank {mpi_rank} of {mpi_world}; start all workers with one mpirun")]
    WrongPlace {
        /// The launcher's rank.
        rank: usize,
        /// The launcher's world size.
        world: usize,
        /// MPI's rank.
        mpi_rank: usize,
        /// MPI's world size.
        mpi_world: usize,
    },
    /// There is no NCCL to work with.
    #[error("{cause}")]
    Library {
        /// What was tried, and what to do.
        cause: String,
    },
    /// A backend that this binary was built without.
    #[error(
        "this worker was built without MPI: build with `--features mpi`, or set cluster.collective to \"nccl\", or to \"solo\" and one \
         worker"
    )]
    WithoutMpi,
    /// Several workers and a backend for one.
    #[error("cluster.collective = \"solo\" cannot connect {world} workers; set it to \"mpi\" or \"auto\"")]
    SoloWorld {
        /// The world size.
        world: usize,
    },
}

/// Checks what every backend demands of a tensor.
fn check_tensor(operation: &'static str, tensor: &Tensor) -> Result<(), CollectiveError> {
    let problem = if !matches!(tensor.kind(), Kind::Float | Kind::Double | Kind::BFloat16 | Kind::Int64) {
        "only f32, f64, bf16 and i64 are supported"
    } else if !tensor.is_contiguous() {
        "it is not contiguous"
    } else {
        return Ok(());
    };
    Err(CollectiveError::Unsupported { operation, kind: tensor.kind(), shape: tensor.size(), problem })
}

/// The same, for backends that only reach the CPU's memory.
fn check_cpu_tensor(operation: &'static str, tensor: &Tensor) -> Result<(), CollectiveError> {
    if tensor.device() != Device::Cpu {
        let problem = "it is not on the CPU";
        return Err(CollectiveError::Unsupported { operation, kind: tensor.kind(), shape: tensor.size(), problem });
    }
    check_tensor(operation, tensor)
}

/// Checks the root of a broadcast.
fn check_root(root: usize, world: usize) -> Result<(), CollectiveError> {
    if root < world { Ok(()) } else { Err(CollectiveError::NoSuchRoot { root, world }) }
}
