//! The numbers that differ from step to step, where the device reads them: work that was captured finds new ones at each replay.

use super::optimizer::rate_kind;
use super::step::Wishes;
use tch::{Device, Tensor};
use torch_shim::ShimError;
use torch_shim::memory::{copy_non_blocking, pin};

/// Modules with a learning rate of their own.
const GROUPS: usize = 3;
/// Learning rates, updates done, weight of the moving average, wishes.
const LENGTH: usize = GROUPS + 1 + 1 + 3;

/// What is particular to a step.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Of backbone, Slot Attention and UNet.
    pub learning_rates: [f64; GROUPS],
    /// Updates before this one.
    pub updates: u64,
    /// How far the moving average follows, from 0 to 1.
    pub average_weight: f64,
    /// What this worker wants all to know.
    pub wishes: Wishes,
}

/// The settings of the present step on a device, always in the same memory.
pub struct Dials {
    values: Tensor,
}

impl Dials {
    /// All zero, on `device`.
    pub fn new(device: Device) -> Self {
        Self { values: Tensor::zeros([LENGTH as i64], (rate_kind(device), device)) }
    }

    /// What the calling thread queues from now on finds these settings. Does not wait for the device.
    ///
    /// # Errors
    /// CUDA fails.
    pub fn set(&self, settings: &Settings) -> Result<(), ShimError> {
        let Settings { learning_rates: [backbone, slot_attention, unet], updates, average_weight, wishes } = *settings;
        let wishes = [wishes.stop, wishes.save, wishes.busy].map(|wish| f64::from(u8::from(wish)));
        let [stop, save, busy] = wishes;
        let numbers = [backbone, slot_attention, unet, updates as f64, average_weight, stop, save, busy];
        let mut fresh = Tensor::from_slice(&numbers).to_kind(self.values.kind());
        if self.values.device().is_cuda() {
            fresh = pin(&fresh)?;
        }
        copy_non_blocking(&mut self.values.shallow_clone(), &fresh)
    }

    /// Of each group, `[3]`.
    pub fn learning_rates(&self) -> Tensor {
        self.values.narrow(0, 0, GROUPS as i64)
    }

    /// How many updates were done before this one, `[1]`.
    pub fn updates(&self) -> Tensor {
        self.values.narrow(0, GROUPS as i64, 1)
    }

    /// How far the moving average follows, `[1]`.
    pub fn average_weight(&self) -> Tensor {
        self.values.narrow(0, GROUPS as i64 + 1, 1)
    }

    /// One for each wish that this worker has, `[3]`: to stop, to save, that it is busy.
    pub fn wishes(&self) -> Tensor {
        self.values.narrow(0, GROUPS as i64 + 2, 3)
    }
}
