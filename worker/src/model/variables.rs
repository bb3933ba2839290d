//! The named tensors of a network: created once, in the order of construction, under the names of the official checkpoints.
//!
//! A network keeps shallow copies of the tensors registered here. They share one variable, so whoever rebinds the storage of a
//! [`Variable`] (`set_data`), as the training arena does, rebinds it for the network too.

use std::{cell::RefCell, fmt::Display, ops::Div};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::Module;

/// A named tensor of a network.
#[derive(Debug)]
pub struct Variable {
    /// Official name within its module, as `down_blocks.0.resnets.0.conv1.weight`.
    pub name: String,
    /// The values, f32 as created; a leaf of the graph that requires gradients when `trainable`.
    pub tensor: Tensor,
    /// False for constants that only belong to the file format (position grids).
    pub trainable: bool,
}

impl Variable {
    /// Another handle on the same variable.
    pub fn shallow_clone(&self) -> Self {
        Self { name: self.name.clone(), tensor: self.tensor.shallow_clone(), trainable: self.trainable }
    }
}

/// Where initial values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initial {
    /// Random values that depend on this seed and the variable's name alone, not on the order of construction.
    Seed(u64),
    /// None: the values will be loaded, and memory is not even touched before.
    Unset,
}

/// Distribution of a variable's initial values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Distribution {
    /// One value everywhere.
    Constant(f64),
    /// Even between -bound and bound.
    Uniform(f64),
    /// Normal around 0 with this standard deviation.
    Normal(f64),
}

impl Distribution {
    /// PyTorch's default for weights and biases of linear and convolution layers: Kaiming-uniform with a = sqrt(5).
    pub(crate) fn fan_in(fan_in: i64) -> Self {
        Self::Uniform(1.0 / (fan_in as f64).sqrt())
    }
}

/// Collects the variables of one module while it is built.
#[derive(Debug)]
pub(crate) struct Variables {
    module: &'static str,
    initial: Initial,
    device: Device,
    list: RefCell<Vec<Variable>>,
}

impl Variables {
    /// An empty set for `module`, whose name keeps modules with equal variable names apart in the random numbers.
    pub(crate) fn new(module: &'static str, initial: Initial, device: Device) -> Self {
        Self { module, initial, device, list: RefCell::default() }
    }

    /// The scope without prefix.
    pub(crate) fn root(&self) -> Scope<'_> {
        Scope { variables: self, prefix: String::new() }
    }

    /// The finished module.
    pub(crate) fn into_module(self) -> Module {
        Module { name: self.module, variables: self.list.into_inner() }
    }

    fn values(&self, name: &str, shape: &[i64], distribution: Distribution) -> Tensor {
        match (self.initial, distribution) {
            (Initial::Unset, _) => Tensor::empty(shape, (Kind::Float, self.device)),
            (_, Distribution::Constant(value)) => Tensor::full(shape, value, (Kind::Float, self.device)),
            (Initial::Seed(seed), Distribution::Uniform(bound)) => {
                let mut random = self.random(seed, name);
                let unit = 2.0_f64.powi(-31);
                self.filled(shape, || bound * (f64::from(random.next_u32()) * unit - 1.0))
            }
            (Initial::Seed(seed), Distribution::Normal(deviation)) => {
                let mut random = self.random(seed, name);
                // Box and Muller (1958), one of each pair; in (0, 1], so that the logarithm is finite.
                let mut unit = || (f64::from(random.next_u32()) + 1.0) * 2.0_f64.powi(-32);
                self.filled(shape, || deviation * (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos())
            }
        }
    }

    /// The random numbers of one variable.
    fn random(&self, seed: u64, name: &str) -> ChaCha8Rng {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(hash(self.module, name));
        random
    }

    fn filled(&self, shape: &[i64], mut next: impl FnMut() -> f64) -> Tensor {
        let count = shape.iter().product::<i64>().unsigned_abs() as usize;
        let values: Vec<f32> = (0..count).map(|_| next() as f32).collect();
        Tensor::from_slice(&values).view(shape).to_device(self.device)
    }
}

/// FNV-1a over module and name: a stable 64-bit stream number.
fn hash(module: &str, name: &str) -> u64 {
    let bytes = module.bytes().chain([b'.']).chain(name.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A prefix under which variables are registered; `scope / "resnets" / 0` is the scope `….resnets.0`.
#[derive(Debug, Clone)]
pub(crate) struct Scope<'a> {
    variables: &'a Variables,
    prefix: String,
}

impl Scope<'_> {
    /// Registers a trainable variable.
    pub(crate) fn parameter(&self, name: &str, shape: &[i64], distribution: Distribution) -> Tensor {
        let name = self.name(name);
        let tensor = self.variables.values(&name, shape, distribution).set_requires_grad(true);
        self.register(name, tensor, true)
    }

    /// Registers a constant that the file format lists among the weights.
    pub(crate) fn constant(&self, name: &str, value: Tensor) -> Tensor {
        self.register(self.name(name), value.to_device(self.variables.device), false)
    }

    /// Where this scope's variables live.
    pub(crate) fn device(&self) -> Device {
        self.variables.device
    }

    fn register(&self, name: String, tensor: Tensor, trainable: bool) -> Tensor {
        self.variables.list.borrow_mut().push(Variable { name, tensor: tensor.shallow_clone(), trainable });
        tensor
    }

    fn name(&self, last: &str) -> String {
        if self.prefix.is_empty() { last.to_owned() } else { format!("{}.{last}", self.prefix) }
    }
}

impl<'a, T: Display> Div<T> for &Scope<'a> {
    type Output = Scope<'a>;

    fn div(self, name: T) -> Scope<'a> {
        Scope { variables: self.variables, prefix: self.name(&name.to_string()) }
    }
}

impl<'a, T: Display> Div<T> for Scope<'a> {
    type Output = Scope<'a>;

    fn div(self, name: T) -> Scope<'a> {
        &self / name
    }
}
