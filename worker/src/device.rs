//! What this worker computes on: chosen once, before the first tensor.

use crate::jobs::BadInput;
use common::backend;
use common::config::{Config, Precision, TrainConfig, size};
use common::place::Place;
use std::path::Path;
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

/// The largest `train.micro_batch` for which there should be room: in the GPU's memory, or in this worker's share of the host's.
pub fn micro_batch_that_fits(config: &Config, device: Device, place: Place) -> Option<usize> {
    let bytes = match device {
        Device::Cuda(index) => torch_shim::cuda::memory(index).ok()?.total,
        _ => host_memory()[0].min(allowed_memory()) / config.cluster.workers_per_node.max(1) as u64,
    };
    size::micro_batch_within(config, config.train.global_batch.div_ceil(place.world.max(1)), bytes)
}

/// Bytes of the host's memory: all there is, and what is free.
pub fn host_memory() -> [u64; 2] {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    ["MemTotal:", "MemAvailable:"].map(|name| kibibytes(&text, name).unwrap_or_default() << 10)
}

/// Bytes that the control group of this process, as Slurm makes one for a job, allows it and its siblings.
fn allowed_memory() -> u64 {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(group) = groups.lines().find_map(|line| line.strip_prefix("0::/")) else { return u64::MAX };
    let group = Path::new("/sys/fs/cgroup").join(group);
    let limit = |folder: &Path| std::fs::read_to_string(folder.join("memory.max")).ok()?.trim().parse().ok();
    group.ancestors().take_while(|folder| folder.starts_with("/sys/fs/cgroup")).filter_map(limit).min().unwrap_or(u64::MAX)
}

/// The number in a line of `/proc/meminfo`.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
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
    fn memory_is_read_by_its_name() {
        let text = "MemTotal:       24567890 kB\nMemFree: 1 kB\nMemAvailable:   20000000 kB\n";
        assert_eq!(kibibytes(text, "MemAvailable:"), Some(20_000_000));
        assert_eq!(kibibytes(text, "Swap:"), None);
        let [total, free] = host_memory();
        assert!(total >= free && free > 0);
    }

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
