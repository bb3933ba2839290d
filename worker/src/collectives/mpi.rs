//! Workers as MPI processes.
//!
//! The calls go to MPI's C interface, because tensors are moved in place and in chunks: 1 to 4 MiB is where shared-memory transports
//! are fastest, and below the 32-bit element counts of MPI.

#![allow(unsafe_code)]

use super::{Aborter, Collective, CollectiveError, check_cpu_tensor, check_root};
use common::place::Place;
use half::bf16;
use mpi::environment::Universe;
use mpi::ffi::{self, MPI_Comm, MPI_Datatype, MPI_Op};
use mpi::topology::Communicator;
use mpi::traits::AsRaw;
use std::os::raw::{c_int, c_void};
use std::sync::Arc;
use tch::{Kind, Tensor};

/// Bytes per MPI call.
const CHUNK: usize = 2 << 20;

unsafe extern "C" {
    /// `MPI_IN_PLACE`, of `in_place.c`.
    safe fn lsd_mpi_in_place() -> *const c_void;
}

/// This process as a member of MPI's world. Dropping it leaves MPI, which waits for all others to leave.
pub struct Mpi {
    universe: Universe,
    rank: usize,
    world: usize,
    /// The sum of bf16, which MPI has no type for, as an `ffi::MPI_Op` that is carried between threads.
    sum_bf16: c_int,
}

impl Mpi {
    /// Enters MPI and checks that it agrees with the launcher's environment. Afterwards a panic of any thread ends all processes:
    /// otherwise the others would wait for this one for ever.
    ///
    /// # Errors
    /// MPI was entered before, or sees another rank or world than `place`.
    pub fn connect(place: Place) -> Result<Self, CollectiveError> {
        let Some((universe, _)) = mpi::initialize_with_threading(mpi::Threading::Multiple) else {
            return Err(CollectiveError::Transport { operation: "MPI_Init", cause: "MPI was already initialised".into() });
        };
        let default_hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            default_hook(panic);
            abort_all(1);
        }));
        let communicator = universe.world();
        let (rank, world) = (communicator.rank() as usize, communicator.size() as usize);
        if (rank, world) != (place.rank, place.world) {
            return Err(CollectiveError::WrongPlace { rank: place.rank, world: place.world, mpi_rank: rank, mpi_world: world });
        }
        Ok(Self { universe, rank, world, sum_bf16: create_sum_bf16()? })
    }

    fn communicator(&self) -> MPI_Comm {
        self.universe.world().as_raw()
    }

    /// MPI's sum for the elements of a tensor.
    fn sum(&self, tensor: &Tensor) -> MPI_Op {
        // SAFETY: the first is a handle that `create_sum_bf16` has made, the other a constant of the MPI library.
        unsafe { if tensor.kind() == Kind::BFloat16 { ffi::RSMPI_Op_f2c(self.sum_bf16) } else { ffi::RSMPI_SUM } }
    }
}

/// Registers the sum of bf16 numbers, of which MPI only knows that they are 16 bits wide.
fn create_sum_bf16() -> Result<c_int, CollectiveError> {
    let mut operation = std::mem::MaybeUninit::<MPI_Op>::uninit();
    // SAFETY: MPI is initialised, and `add_bf16` is a function of MPI's signature that does not unwind; after success `operation` is set.
    unsafe {
        check("MPI_Op_create", ffi::MPI_Op_create(Some(add_bf16), 1, operation.as_mut_ptr()))?;
        Ok(ffi::RSMPI_Op_c2f(operation.assume_init()))
    }
}

/// `sums[i] += addends[i]`, in f32 and rounded once.
///
/// # Safety
/// As MPI calls it: both point at `*length` elements of 16 bits each, which do not overlap.
unsafe extern "C" fn add_bf16(addends: *mut c_void, sums: *mut c_void, length: *mut c_int, _: *mut MPI_Datatype) {
    // SAFETY: the caller's promise.
    let (addends, sums) = unsafe {
        let length = usize::try_from(*length).unwrap_or_default();
        (std::slice::from_raw_parts(addends.cast::<bf16>(), length), std::slice::from_raw_parts_mut(sums.cast::<bf16>(), length))
    };
    for (sum, addend) in sums.iter_mut().zip(addends) {
        *sum = bf16::from_f32(sum.to_f32() + addend.to_f32());
    }
}

/// Ends all processes of MPI's world.
fn abort_all(exit_code: u8) {
    // SAFETY: MPI is initialised, as only `Mpi::connect` and its owner lead here, and this call does not return.
    unsafe { ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, exit_code.into()) };
}

/// MPI's type for the elements of a tensor that [`check_cpu_tensor`] has accepted.
fn datatype(tensor: &Tensor) -> MPI_Datatype {
    // SAFETY: these are constants of the MPI library, initialised before `main`.
    unsafe {
        match tensor.kind() {
            Kind::Double => ffi::RSMPI_DOUBLE,
            Kind::Int64 => ffi::RSMPI_INT64_T,
            Kind::BFloat16 => ffi::RSMPI_UINT16_T,
            _ => ffi::RSMPI_FLOAT,
        }
    }
}

/// Start and number of elements of each chunk of a tensor.
fn chunks(tensor: &Tensor) -> impl Iterator<Item = (*mut u8, usize)> + use<> {
    let (element, total) = (tensor.kind().elt_size_in_bytes(), tensor.numel());
    let (start, step) = (tensor.data_ptr().cast::<u8>(), CHUNK / element);
    // `wrapping_add` stays inside of the tensor's memory: the offset is below `total` elements.
    (0..total).step_by(step).map(move |first| (start.wrapping_add(first * element), step.min(total - first)))
}

fn check(operation: &'static str, code: c_int) -> Result<(), CollectiveError> {
    if code == 0 { Ok(()) } else { Err(CollectiveError::Transport { operation, cause: format!("MPI error {code}") }) }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_reduce_sum(&mut self, tensor: &Tensor) -> Result<(), CollectiveError> {
        check_cpu_tensor("all_reduce", tensor)?;
        let (communicator, datatype, sum) = (self.communicator(), datatype(tensor), self.sum(tensor));
        for (chunk, count) in chunks(tensor) {
            // SAFETY: `chunk` points at `count` elements of a contiguous CPU tensor that outlives this call and that no other thread
            // uses meanwhile.
            let code = unsafe { ffi::MPI_Allreduce(lsd_mpi_in_place(), chunk.cast(), count as c_int, datatype, sum, communicator) };
            check("all_reduce", code)?;
        }
        Ok(())
    }

    fn broadcast(&mut self, tensor: &Tensor, root: usize) -> Result<(), CollectiveError> {
        check_cpu_tensor("broadcast", tensor)?;
        check_root(root, self.world)?;
        for (chunk, count) in chunks(tensor) {
            // SAFETY: as in `all_reduce_sum`.
            let code =
                unsafe { ffi::MPI_Bcast(chunk.cast(), count as c_int, datatype(tensor), root as c_int, self.communicator()) };
            check("broadcast", code)?;
        }
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        // SAFETY: MPI is initialised as long as `self.universe` lives.
        check("barrier", unsafe { ffi::MPI_Barrier(self.communicator()) })
    }

    fn aborter(&self) -> Aborter {
        Arc::new(abort_all)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Starts two processes of this test binary through `mpirun`, which run the test below.
    #[test]
    fn two_processes_reduce_and_broadcast() {
        let mut mpirun = Command::new("mpirun");
        mpirun.args(["--oversubscribe", "--bind-to", "none", "-np", "2"]).arg(std::env::current_exe().unwrap());
        mpirun.args(["--exact", "collectives::mpi::tests::one_of_two", "--ignored", "--test-threads", "1"]);
        mpirun.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1").env("OMP_NUM_THREADS", "1");
        let output = mpirun.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(text.matches("1 passed").count(), 2, "both processes must have run: {text}");
    }

    #[test]
    #[ignore = "one process of `two_processes_reduce_and_broadcast`"]
    fn one_of_two() {
        let place = Place::detect(|name| std::env::var(name).ok(), 1).unwrap();
        let mut mpi = Mpi::connect(place).unwrap();
        assert_eq!(mpi.world(), 2);
        let rank = mpi.rank() as f64;
        // More than one chunk, and a last chunk that is not full.
        let length = (CHUNK / 4) as i64 + 1000;
        for (kind, length) in [(Kind::Float, length), (Kind::Double, 7), (Kind::Int64, 3), (Kind::BFloat16, 100)] {
            let ramp = Tensor::arange(length, (kind, tch::Device::Cpu));
            let tensor = (&ramp + rank).to_kind(kind);
            mpi.all_reduce_sum(&tensor).unwrap();
            assert_eq!(tensor, (&ramp * 2.0 + 1.0).to_kind(kind));
            let tensor = (&ramp + 5.0 * rank).to_kind(kind);
            mpi.broadcast(&tensor, 1).unwrap();
            assert_eq!(tensor, (&ramp + 5.0).to_kind(kind));
        }
        mpi.barrier().unwrap();
    }
}
