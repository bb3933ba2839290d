//! The diffusion process: how noise is added ([`NoiseSchedule`]) and taken away ([`ddim`], [`ddpm`], [`dpm_solver`], [`guidance`]).

pub mod ddim;
pub mod ddpm;
pub mod dpm_solver;
pub mod guidance;
mod schedule;
mod timesteps;

pub use schedule::NoiseSchedule;
