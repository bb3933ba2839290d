//! Our side of `tests/peers/fid.py`, in a folder with what the peer made: features of images, distances of given features, and how
//! fast the features are.
//!
//! Usage: `fid features FOLDER`, `fid distances FOLDER SUBSET_SIZE`, `fid speed FOLDER THREADS ROUNDS`

use anyhow::{Context, Result, bail};
use common::config::{FidConfig, Split};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use tch::{Device, Tensor};
use tokio::runtime::Runtime;
use worker::evaluation::fid::{Inception, Moments, frechet_distance, kernel_distance};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["features", folder] => {
            let features = inception(Path::new(folder))?.features(&input(Path::new(folder), "images")?);
            Ok(Tensor::write_safetensors(&[("features", features)], Path::new(folder).join("features.safetensors"))?)
        }
        ["distances", folder, size] => distances(Path::new(folder), size.parse()?),
        ["speed", folder, threads, rounds] => speed(Path::new(folder), threads.parse()?, rounds.parse()?),
        _ => bail!("usage: fid features FOLDER | fid distances FOLDER SUBSET_SIZE | fid speed FOLDER THREADS ROUNDS"),
    }
}

/// Prints FID and KID of `a` and `b`, features f64 [n, D] and [m, D].
fn distances(folder: &Path, size: usize) -> Result<()> {
    let [a, b] = [input(folder, "a")?, input(folder, "b")?];
    let [of_a, of_b] = [&a, &b].map(|features| {
        let mut moments = Moments::new(features.size()[1]);
        features.split(64, 0).iter().for_each(|batch| moments.add(batch));
        moments
    });
    println!("{:?} {:?}", frechet_distance(&of_a, &of_b), kernel_distance(&a, &b, 1, size, 0).mean);
    Ok(())
}

/// Prints the seconds that each round takes.
fn speed(folder: &Path, threads: i32, rounds: usize) -> Result<()> {
    tch::set_num_threads(threads);
    let (inception, images) = (inception(folder)?, input(folder, "images")?);
    for _ in 0..rounds {
        let start = Instant::now();
        drop(inception.features(&images));
        println!("{}", start.elapsed().as_secs_f64());
    }
    Ok(())
}

fn inception(folder: &Path) -> Result<Inception> {
    let weights = folder.join("inception.safetensors").display().to_string();
    let config = FidConfig { weights, sha256: None, images: 2, real: 0, split: Split::Train, subsets: 1, subset_size: 2 };
    Ok(Inception::load(&config, Device::Cpu, Runtime::new()?.handle())?)
}

fn input(folder: &Path, name: &str) -> Result<Tensor> {
    let inputs: BTreeMap<String, Tensor> = Tensor::read_safetensors(folder.join("inputs.safetensors"))?.into_iter().collect();
    inputs.get(name).map(Tensor::shallow_clone).with_context(|| format!("inputs.safetensors has no {name}"))
}
