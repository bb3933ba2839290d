//! The diffusion process: how noise is added ([`NoiseSchedule`]) and taken away ([`ddim`], [`ddpm`], [`guidance`]).

pub mod ddim;
pub mod ddpm;
pub mod guidance;
mod schedule;

pub use schedule::NoiseSchedule;
