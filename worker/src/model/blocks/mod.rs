//! Building blocks shared by the networks. Blocks of diffusers keep their names and the names of their parameters.

pub(crate) mod attention;
pub(crate) mod checkpoints;
pub(crate) mod layout;
pub(crate) mod levels;
pub(crate) mod position;
pub(crate) mod resnet;
pub(crate) mod time;
pub(crate) mod transformer;
pub(crate) mod unet_body;
