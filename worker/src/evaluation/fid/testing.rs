//! Test support: weights of Inception, and features that SciPy and NumPy can make too.
//!
//! ```python
//! def features(n, size, seed):
//!     i, j = np.arange(n)[:, None], np.arange(size)
//!     return np.sin(1.7 * i * (j + 1) + 0.9 * (i + 1) * seed + j ** 2) + 0.3 * np.cos(2.3 * i + seed) + 0.2 * seed
//! ```

use super::inception::Inception;
use crate::model::Variable;
use crate::model::weights::to_safetensors;
use tch::{Device, Kind, Tensor};

/// Features f64 [n, size].
pub(crate) fn features(n: i64, size: i64, seed: u8) -> Tensor {
    let seed = f64::from(seed);
    let i = Tensor::arange(n, (Kind::Double, Device::Cpu)).unsqueeze(1);
    let j = Tensor::arange(size, (Kind::Double, Device::Cpu));
    let wave = (&i * 1.7 * (&j + 1.0) + (&i + 1.0) * (0.9 * seed) + j.square()).sin();
    wave + (&i * 2.3 + seed).cos() * 0.3 + 0.2 * seed
}

/// A file of weights: the published ones cannot lie in a repository. Activations neither vanish nor explode.
pub(crate) fn random_weights() -> Vec<u8> {
    let variables = Inception::new(Device::Cpu).1;
    for (index, Variable { name, tensor, .. }) in variables.iter().enumerate() {
        let size = tensor.size();
        let fan_in = size.iter().skip(1).product::<i64>() as f64;
        // A chirp is as good as noise, and soon made.
        let numbers = Tensor::arange(tensor.numel() as i64, (Kind::Double, Device::Cpu)).square() * 0.37 + index as f64;
        let values = match name.rsplit('.').next() {
            Some("weight") if size.len() == 4 => numbers.sin() * (4.0 / fan_in).sqrt(),
            Some("weight" | "running_var") => numbers.sin() * 0.3 + 1.0,
            _ => numbers.sin() * 0.1,
        };
        tch::no_grad(|| tensor.shallow_clone().copy_(&values.view(&size[..])));
    }
    to_safetensors(&variables).unwrap()
}
