//! Our side of `tests/peers/probing.py`: reads slots and labels from a folder, trains probes on them, and writes there the weights before
//! and after, and what the probes say about the same slots.
//!
//! Usage: `probing FOLDER STEPS`; `inputs.safetensors` there holds `slots` f32 [N, D], and labels f32 [N, width]: `category/NAME` and
//! `figures/NAME`

use anyhow::{Context, Result};
use common::config::ProbeConfig;
use common::shards::{LabelKind, ObjectLabel};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Tensor};
use worker::probing::{Probe, Target};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, steps] = &arguments[..] else { anyhow::bail!("usage: probing FOLDER STEPS") };
    let recipe = ProbeConfig { steps: steps.parse().context("STEPS")?, ..ProbeConfig::default() };
    tch::set_num_threads(1);
    let folder = Path::new(folder);
    let inputs: BTreeMap<String, Tensor> = Tensor::read_safetensors(folder.join("inputs.safetensors"))?.into_iter().collect();
    let slots = inputs.get("slots").context("inputs.safetensors has no slots")?;
    let targets: Vec<Target> = inputs.iter().filter_map(|(name, rows)| target(name, rows)).collect();

    let probe = Probe::new(&targets, slots.size()[1], 1, Device::Cpu)?;
    let weights = |when: &str| {
        let copy = |tensor: &Tensor| tensor.detach().copy();
        probe.variables().iter().map(|one| (format!("{when}/{}", one.name), copy(&one.tensor))).collect::<Vec<_>>()
    };
    let mut outputs = weights("before");
    probe.train(slots, &targets, &recipe, |_, _| {})?;
    outputs.extend(weights("after"));
    outputs.extend(
        targets.iter().zip(probe.predict(slots)).map(|(target, said)| (format!("said/{}", target.name), said.contiguous())),
    );
    Tensor::write_safetensors(&outputs, folder.join("outputs.safetensors"))?;
    Ok(())
}

fn target(name: &str, rows: &Tensor) -> Option<Target> {
    let (kind, name) = name.split_once('/')?;
    let kind = if kind == "category" { LabelKind::Category(Vec::new()) } else { LabelKind::Figures };
    let label =
        ObjectLabel { name: name.to_owned(), kind, column: name.to_owned(), objects: 1, figures: 0..rows.size()[1] as usize };
    Some(Target::new(&label, rows))
}
