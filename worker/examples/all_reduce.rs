//! Our side of `tests/peers/all_reduce.py`: sums over all workers as a training step asks for them, through the communication thread.
//!
//! Usage: `mpirun -np 2 all_reduce MIB REPEATS`; rank 0 prints the seconds of each, from asking to the answer, and within the
//! communication thread alone.

use anyhow::{Context, Result};
use common::backend;
use common::config::Wire;
use common::place::Place;
use std::sync::Arc;
use std::time::Instant;
use tch::{Device, Kind, Tensor};
use worker::collectives::{self, Collective, CollectiveError, Communicator};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, mib, repeats] = &arguments[..] else { anyhow::bail!("usage: all_reduce MIB REPEATS") };
    let (mib, repeats): (f64, usize) = (mib.parse().context("MIB")?, repeats.parse().context("REPEATS")?);
    tch::set_num_threads(1);
    let place = Place::detect(|name| std::env::var(name).ok(), 1)?;
    let mut communicator = Communicator::start(
        move || collectives::connect(backend::Collective::Mpi, place, Device::Cpu, Box::new(|_| Err(CollectiveError::WithoutMpi))),
        Device::Cpu,
        Arc::default(),
    )?;
    let submitter = communicator.submitter();
    let tensor = Tensor::ones([(mib * f64::from(1 << 18)) as i64], (Kind::Float, Device::Cpu));
    let (mut seconds, mut within) = (Vec::new(), Vec::new());
    for _ in 0..repeats {
        let _ = tch::no_grad(|| tensor.shallow_clone().fill_(1.0));
        communicator.barrier()?;
        let (start, busy) = (Instant::now(), communicator.busy());
        submitter.wait(submitter.sum(&tensor, Wire::Fp32))?;
        seconds.push(start.elapsed().as_secs_f64());
        within.push((communicator.busy() - busy).as_secs_f64());
    }
    anyhow::ensure!(tensor.double_value(&[0]) == place.world as f64, "the sum is {}", tensor.double_value(&[0]));
    if place.is_leader() {
        println!("[{seconds:?}, {within:?}]");
    }
    Ok(())
}
