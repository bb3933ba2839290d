//! What this worker computes on: chosen once, before the first tensor.

use crate::jobs::BadInput;
use common::backend;
use common::config::{Precision, TrainConfig};
use common::place::Place;
use tch::{Cuda, Device};
use torch_shim::cuda::CudaStatus;
use torch_shim::numerics::{Determinism, MatmulPrecision, set_determinism, set_matmul_precision, set_tf32_convolutions};

/// The device of the worker at `place`: the CPU, or the GPU with the number of its local rank. A launcher that shows each worker a single
/// GPU, as srun can, has chosen already.
///
/// # Errors
/// A GPU is wanted and there is none for this worker; says what stands in the way.
pub fn select(device: backend::Device, place: Place) -> Result<Device, BadInput> {
    if device == backend::Device::Cpu {
        return Ok(Device::Cpu);
    }
    let status = CudaStatus::of_this_process();
    let CudaStatus::Devices(count) = status else {
        return Err(BadInput::message(format!("rank {} is to compute on a GPU: {status}", place.rank)));
    };
    let chosen_already = count == 1 && std::env::var_os("CUDA_VISIBLE_DEVICES").is_some();
    index(place.local_rank, count, chosen_already || backend::gpus_are_shared()).map(Device::Cuda).ok_or_else(|| {
        BadInput::message(format!(
            "rank {} needs GPU {} of its host, which shows it {count}; start fewer workers per host (--workers {count})",
            place.rank, place.local_rank
        ))
    })
}

/// Which of `count` GPUs is that of the worker with this local rank.
fn index(local_rank: usize, count: usize, shared: bool) -> Option<usize> {
    if shared { local_rank.checked_rem(count) } else { (local_rank < count).then_some(local_rank) }
}

/// Sets libtorch's switches for the numbers that `train` asks for. All of them are about GPUs.
///
/// # Errors
/// libtorch refuses.
pub fn set_numerics(train: &TrainConfig, device: Device) -> Result<(), torch_shim::ShimError> {
    if device == Device::Cpu {
        return Ok(());
    }
    let tensor_cores = train.precision != Precision::Fp32;
    set_matmul_precision(if tensor_cores { MatmulPrecision::High } else { MatmulPrecision::Highest })?;
    set_tf32_convolutions(tensor_cores)?;
    set_determinism(if train.deterministic { Determinism::Preferred } else { Determinism::Off })?;
    Cuda::cudnn_set_benchmark(!train.deterministic);
    Ok(())
}

/// In a sentence: what this process computes on, or why not on a GPU.
pub fn describe(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => format!("the CPU with {} threads ({})", tch::get_num_threads(), CudaStatus::of_this_process()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_has_a_gpu_of_its_own_unless_they_share() {
        assert_eq!([0, 3, 4].map(|rank| index(rank, 4, false)), [Some(0), Some(3), None]);
        assert_eq!([0, 3, 4].map(|rank| index(rank, 1, true)), [Some(0); 3]);
        assert_eq!(index(0, 0, true), None);
    }

    /// On a machine with a GPU this says nothing.
    #[test]
    fn a_gpu_that_is_not_there_is_said_to_be_missing() {
        if let Err(error) = select(backend::Device::Cuda, Place::alone(1)) {
            assert!(error.to_string().contains("rank 0 is to compute on a GPU: "), "{error}");
        } else {
            println!("skipped: there is a GPU");
        }
        assert_eq!(select(backend::Device::Cpu, Place::alone(1)).ok(), Some(Device::Cpu));
    }
}
