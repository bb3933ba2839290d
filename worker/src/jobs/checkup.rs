//! Before the first step: what this worker's device is, and how fast it multiplies and reduces. The coordinator compares the workers and
//! names the one that would hold up all others.

use super::JobContext;
use crate::collectives::{Collective, CollectiveError};
use crate::device::host_memory;
use common::config::Precision;
use common::control::Checkup;
use std::time::Instant;
use tch::{Cuda, Device, Kind, Tensor};
use torch_shim::cuda;

/// Repetitions of each measurement, of which the fastest counts: what is looked for is a slow device, not a busy moment.
const ROUNDS: usize = 3;

/// Measures, and reports it.
///
/// # Errors
/// The other workers cannot be reached.
pub(super) fn run(context: &mut JobContext) -> Result<(), CollectiveError> {
    let device = context.device;
    let (name, driver, [memory_total, memory_free]) = describe(device);
    let kind = if context.config.train.precision == Precision::Bf16 { Kind::BFloat16 } else { Kind::Float };
    let matmul_tflops = matmul_tflops(device, kind);
    let all_reduce_gbps = all_reduce_gbps(context)?;
    let checkup = Checkup { device: name, driver, memory_total, memory_free, matmul_tflops, all_reduce_gbps };
    tracing::info!("{checkup:?}");
    context.reporter.checkup(checkup);
    Ok(())
}

/// Name, driver, and bytes of memory: all there is, and what was free.
fn describe(device: Device) -> (String, Option<String>, [u64; 2]) {
    let Device::Cuda(index) = device else { return ("cpu".into(), None, host_memory()) };
    let name = cuda::properties(index).map_or_else(|_| format!("cuda:{index}"), |properties| properties.name);
    let driver = std::fs::read_to_string("/sys/module/nvidia/version").ok().map(|version| version.trim().to_owned());
    let driver = driver.or_else(|| cuda::driver_version().map(|version| format!("for CUDA {version}")));
    let memory = cuda::memory(index).map_or([0; 2], |memory| [memory.total, memory.free]);
    (name, driver, memory)
}

/// 10^12 operations per second in the product of two square matrices.
fn matmul_tflops(device: Device, kind: Kind) -> f64 {
    let _guard = tch::no_grad_guard();
    let side: i64 = if device == Device::Cpu { 512 } else { 8192 };
    let matrix = Tensor::ones([side, side], (kind, device));
    let seconds = fastest(|| {
        let _ = matrix.matmul(&matrix);
        wait_for(device);
        Ok::<_, std::convert::Infallible>(())
    });
    seconds.map_or(0.0, |seconds| 2.0 * (side as f64).powi(3) / seconds / 1e12)
}

/// 10^9 bytes per second in a sum over all workers; none of a single one.
fn all_reduce_gbps(context: &mut JobContext) -> Result<Option<f64>, CollectiveError> {
    if context.place.world == 1 {
        return Ok(None);
    }
    let device = context.device;
    let elements: i64 = if device == Device::Cpu { 1 << 20 } else { 1 << 24 };
    let tensor = Tensor::zeros([elements], (Kind::Float, device));
    let collective = &mut context.collective;
    let seconds = fastest(|| {
        collective.all_reduce_sum(&tensor)?;
        wait_for(device);
        Ok(())
    })?;
    Ok(Some(elements as f64 * 4.0 / seconds / 1e9))
}

/// Seconds of the fastest round, after one that does not count.
fn fastest<E>(mut round: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    round()?;
    let mut fastest = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        round()?;
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    Ok(fastest.max(1e-9))
}

fn wait_for(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_product_has_a_plausible_rate() {
        let rate = matmul_tflops(Device::Cpu, Kind::Float);
        assert!((1e-4..1e3).contains(&rate), "{rate} Tflop/s");
    }
}
