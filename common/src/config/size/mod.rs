//! How large a configuration is, known without building anything: the parameters of its networks, the operations of an image, and the
//! memory of a worker that trains them.
//!
//! Parameters and operations are counted exactly. Memory is an estimate for f32: what is allocated for good follows from the parameters; for what a
//! step needs on top, the maps are summed up that autograd keeps for the backward pass. On CPUs it is within a tenth of the largest
//! resident size of real workers, from the smallest experiment to the published networks with 16 images per worker, with micro batches
//! and gradient checkpointing too (the figures are in the tests). On GPUs it is untested.

mod flops;
mod layers;
mod networks;
#[cfg(test)]
mod tests;

pub use flops::{Flops, flops, utilisation};
use layers::{Layers, product};
use networks::{Part, latent_side, size};

use super::Config;

/// Bytes of a number.
const F32: u64 = 4;
/// Resident bytes of a worker before it has a network: libtorch and its libraries, half of it as pages of their files.
const PROCESS: u64 = 390 << 20;

/// Trained numbers of each network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// The CNN that turns an image into tokens.
    pub backbone: u64,
    /// Tokens to slots.
    pub slot_attention: u64,
    /// The denoiser.
    pub unet: u64,
}

impl Parameters {
    /// Those of all networks.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.backbone.saturating_add(self.slot_attention).saturating_add(self.unet)
    }
}

/// The trained numbers of the networks that `config` describes; the frozen autoencoder takes no part in training.
#[must_use]
pub fn parameters(config: &Config) -> Parameters {
    Parameters {
        backbone: networks::backbone(config).parameters,
        slot_attention: networks::slot_attention(config).parameters,
        unet: sum(&networks::unet(config)).parameters,
    }
}

/// Bytes of a worker in the `train` job at its largest, part by part. On a GPU `weights` to `activations` are the device's, the others the
/// host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All parameters.
    pub weights: u64,
    /// Their gradients.
    pub gradients: u64,
    /// AdamW's two moments.
    pub moments: u64,
    /// The moving average of the weights, with `train.ema_decay`.
    pub average: u64,
    /// What one pass over a micro batch needs; at least what was needed to build the networks, which a worker does not give back.
    pub activations: u64,
    /// The batch of the present step and those prepared ahead.
    pub batches: u64,
    /// Blocks of the data set, as many as `data.cache_mib` allows; fewer if the data set is smaller.
    pub cache: u64,
    /// The copy of the worker's share of the state that becomes a checkpoint.
    pub checkpoint: u64,
    /// Libraries and their own tables.
    pub process: u64,
}

impl Memory {
    /// All parts.
    #[must_use]
    pub fn total(&self) -> u64 {
        let state = [self.weights, self.gradients, self.moments, self.average, self.activations];
        let host = [self.batches, self.cache, self.checkpoint, self.process];
        state.into_iter().chain(host).fold(0, u64::saturating_add)
    }
}

/// The memory of rank 0 when its share of the global batch is `rows_per_worker` images.
#[must_use]
pub fn memory(config: &Config, rows_per_worker: usize) -> Memory {
    let (rows, train) = (rows_per_worker as u64, &config.train);
    let pass = train.micro_batch.map_or(rows, |most| rows.min(most as u64));
    let weights = product(&[F32, parameters(config).total()]);
    let average = if train.ema_decay > 0.0 { weights } else { 0 };
    let prepared = (config.data.prefetch.max(1) as u64).saturating_add(1);
    Memory {
        weights,
        gradients: weights,
        moments: weights.saturating_mul(2),
        average,
        activations: product(&[2, weights]).max(activations(config, pass).saturating_add(weights)),
        batches: product(&[prepared, rows, sample(config)]),
        cache: product(&[config.data.cache_mib as u64, 1 << 20]),
        checkpoint: share_of_checkpoint(config, weights.saturating_mul(3).saturating_add(average)),
        process: PROCESS,
    }
}

/// The largest `train.micro_batch` with which a worker with a share of `rows_per_worker` images stays within `bytes`; none if a single
/// image is too much.
#[must_use]
pub fn micro_batch_within(config: &Config, rows_per_worker: usize, bytes: u64) -> Option<usize> {
    let fits = |rows: usize| {
        let mut config = config.clone();
        config.train.micro_batch = Some(rows);
        memory(&config, rows_per_worker).total() <= bytes
    };
    // What fits grows with the memory, so the border is found by halving.
    let (mut fitting, mut too_many) = (0, rows_per_worker + 1);
    while too_many - fitting > 1 {
        let middle = fitting.midpoint(too_many);
        if fits(middle) { fitting = middle } else { too_many = middle }
    }
    (fitting > 0).then_some(fitting)
}

/// Bytes of the largest share when all workers share a state of `total` bytes. What is shared are parts, the largest of which are those of
/// the UNet.
fn share_of_checkpoint(config: &Config, total: u64) -> u64 {
    let workers = config.cluster.nodes.saturating_mul(config.cluster.workers_per_node).max(1) as u64;
    total.div_ceil(workers).max(product(&[F32, parameters(config).unet]))
}

/// Bytes of an image and its moments as they come from the data set.
fn sample(config: &Config) -> u64 {
    let (resolution, side) = (config.data.resolution as u64, latent_side(config));
    let moments = product(&[2, 2, size(config.autoencoder.latent_channels), side, side]);
    product(&[3, resolution, resolution]).saturating_add(moments)
}

fn sum(parts: &[Part]) -> Layers {
    let mut layers = Layers::default();
    parts.iter().for_each(|part| layers.add(part.layers));
    layers
}

/// Bytes that a pass over `rows` images needs at its largest. To what autograd keeps, measured workers add a fifth: gradients of maps, the
/// work space of convolutions, gaps in the heap. (And one more copy of the weights, which is added elsewhere.)
fn activations(config: &Config, rows: u64) -> u64 {
    let unet = networks::unet(config);
    let between = unet.iter().fold(0_u64, |sum, part| sum.saturating_add(part.outputs));
    let mut layers = if config.model.unet.gradient_checkpointing {
        // The maps between the parts, and one part at a time.
        let largest = unet.iter().map(|part| part.layers).max_by_key(|layers| layers.kept).unwrap_or_default();
        Layers { kept: largest.kept.saturating_add(between), ..largest }
    } else {
        sum(&unet)
    };
    layers.add(networks::backbone(config));
    layers.add(networks::slot_attention(config));
    let kept = product(&[F32, layers.kept, rows]);
    kept.saturating_add(kept / 5).saturating_add(product(&[F32, layers.derived]))
}
