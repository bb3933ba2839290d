//! The diffusion process: how noise is added ([`NoiseSchedule`]) and taken away ([`ddim`], [`ddpm`]).

pub mod ddim;
pub mod ddpm;
mod schedule;

pub use schedule::NoiseSchedule;
