//! The networks of Latent Slot Diffusion, sized by the configuration and named as in the official checkpoints.
//!
//! [`Backbone`] turns an image into tokens, [`SlotAttention`] the tokens into slots, and [`Unet`] denoises the image's latent given
//! the slots; the three are trained together as [`LatentSlotDiffusion`]. The latent comes from a frozen [`Autoencoder`].
//!
//! Sizes are taken as validated by `common::config::validate`.

pub mod autoencoder;
pub mod backbone;
mod blocks;
pub(crate) mod layers;
mod precision;
pub mod slot_attention;
pub mod unet;
pub(crate) mod variables;
pub mod weights;

pub use autoencoder::Autoencoder;
pub use backbone::Backbone;
pub use layers::without_gradients;
pub use precision::Mixed;
pub use slot_attention::{SlotAttention, SlotOutput};
pub use unet::Unet;
pub(crate) use variables::{Distribution, Scope, Variables};
pub use variables::{Initial, Variable};

use common::config::{Config, ModelConfig};
use tch::{Device, Kind, Tensor};

/// What the networks must fit: the image and its latent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Side of the square image in pixels.
    pub resolution: i64,
    /// Side of the square latent.
    pub latent_side: i64,
    /// Channels of the latent.
    pub latent_channels: i64,
}

impl Sizes {
    /// The sizes that a configuration implies.
    pub fn of(config: &Config) -> Self {
        let resolution = config.data.resolution as i64;
        let latent_side = resolution >> (config.autoencoder.block_channels.len() - 1);
        Self { resolution, latent_side, latent_channels: config.autoencoder.latent_channels }
    }
}

/// The variables of one module, which share a learning rate and a folder in a checkpoint.
#[derive(Debug)]
pub struct Module {
    /// `backbone`, `slot_attention` or `unet`.
    pub name: &'static str,
    /// In the order of construction.
    pub variables: Vec<Variable>,
}

impl Module {
    /// Takes over the memory of the variables of a module of the same networks.
    pub(crate) fn share(&self, other: &Self) {
        for (variable, other) in self.variables.iter().zip(&other.variables) {
            tch::no_grad(|| variable.tensor.shallow_clone().set_data(&other.tensor));
        }
    }
}

/// The trained networks.
#[derive(Debug)]
pub struct LatentSlotDiffusion {
    /// Image to tokens.
    pub backbone: Backbone,
    /// Tokens to slots.
    pub slot_attention: SlotAttention,
    /// The denoiser.
    pub unet: Unet,
    /// Their variables: backbone, slot attention, UNet, in this order.
    pub modules: [Module; 3],
}

impl LatentSlotDiffusion {
    /// Builds the three networks.
    pub fn new(config: &ModelConfig, sizes: Sizes, initial: Initial, device: Device) -> Self {
        let variables = Variables::new("backbone", initial, device);
        let backbone = Backbone::new(&variables.root(), &config.backbone, sizes.resolution);
        let backbone_module = variables.into_module();

        let variables = Variables::new("slot_attention", initial, device);
        let (channels, side) = (config.backbone.out_channels, sizes.resolution / config.backbone.stride);
        let slot_attention = SlotAttention::new(&variables.root(), &config.slot_attention, channels, side);
        let slot_attention_module = variables.into_module();

        let variables = Variables::new("unet", initial, device);
        let context = config.slot_attention.out_size;
        let unet = Unet::new(&variables.root(), &config.unet, sizes.latent_channels, sizes.latent_side, context);
        let modules = [backbone_module, slot_attention_module, variables.into_module()];
        Self { backbone, slot_attention, unet, modules }
    }

    /// The same networks for another thread, which share the memory of the weights. `config` and `sizes` are those of these networks.
    pub fn twin(&self, config: &ModelConfig, sizes: Sizes, device: Device) -> Self {
        let twin = Self::new(config, sizes, Initial::Unset, device);
        twin.modules.iter().zip(&self.modules).for_each(|(twin, module)| twin.share(module));
        twin
    }

    /// Adds the gradients of a loss to those of the parameters; with `model.unet.gradient_checkpointing` this computes the UNet again, in
    /// the precision of its forward pass.
    pub fn backward(&self, loss: &Tensor, mixed: Mixed) {
        loss.backward();
        self.unet.backward(mixed);
    }

    /// The kind of the weights: f32, and in tests f64.
    pub fn kind(&self) -> Kind {
        self.modules.iter().flat_map(|module| &module.variables).next().map_or(Kind::Float, |variable| variable.tensor.kind())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
