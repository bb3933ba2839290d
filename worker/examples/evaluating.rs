//! Our side of `tests/peers/evaluating.py`: reads masks of instances and what slots attend to from a folder, judges all images as the
//! `evaluate` job does, several times, on one thread, and prints the seconds of each time, by the clock and of the
//! processor, and the figures of every image.
//!
//! Usage: `evaluating FOLDER BATCH ROUNDS`; `inputs.safetensors` there holds `masks` u8 [N, S, S], and `attention` f32 [N, K, h, w] or
//! `predicted` u8 [N, S, S]

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use tch::Tensor;
use worker::evaluation::{ImageFigures, Sums, score};
use worker::inference::{enlarge, segment, to_vec};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, batch, rounds] = &arguments[..] else { anyhow::bail!("usage: evaluating FOLDER BATCH ROUNDS") };
    let (batch, rounds): (usize, usize) = (batch.parse().context("BATCH")?, rounds.parse().context("ROUNDS")?);
    tch::set_num_threads(1);
    let file = Path::new(folder).join("inputs.safetensors");
    let inputs: BTreeMap<String, Tensor> = Tensor::read_safetensors(file)?.into_iter().collect();
    let masks = inputs.get("masks").context("inputs.safetensors has no masks")?;
    let (count, side) = (masks.size()[0], masks.size()[2] as usize);

    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    let (mut images, mut sums) = (Vec::new(), Sums::default());
    for _ in 0..rounds {
        let (start, busy) = (Instant::now(), processor_seconds()?);
        (images, sums) = (Vec::new(), Sums::default());
        for first in (0..count).step_by(batch) {
            let of_batch = |tensor: &Tensor| tensor.narrow(0, first, (batch as i64).min(count - first));
            let predicted = match inputs.get("attention") {
                Some(attention) => segment(&enlarge(&of_batch(attention), side))?,
                None => labels(&of_batch(inputs.get("predicted").context("neither attention nor predicted labels")?))?,
            };
            for (truth, predicted) in labels(&of_batch(masks))?.iter().zip(predicted) {
                images.push(score(truth, &predicted));
            }
        }
        images.iter().for_each(|image| sums.add(image));
        wall.push(start.elapsed().as_secs_f64());
        cpu.push(processor_seconds()? - busy);
    }
    let images: Vec<Value> = images.iter().map(figures).collect();
    println!("{}", json!({"wall": wall, "cpu": cpu, "images": images, "figures": sums.figures()}));
    Ok(())
}

/// What this thread, which does all the work, has had of a processor.
fn processor_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split_whitespace().next().context("schedstat is empty")?.parse::<f64>()? / 1e9)
}

/// Label maps u8 [B, S, S], one by one.
fn labels(maps: &Tensor) -> Result<Vec<Vec<u8>>> {
    maps.unbind(0).iter().map(|map| Ok(to_vec(map)?)).collect()
}

fn figures(image: &ImageFigures) -> Value {
    let of_objects = |figure: fn(&worker::evaluation::ObjectFigures) -> f64| image.objects.iter().map(figure).collect::<Vec<_>>();
    json!({
        "ari": image.ari,
        "fg_ari": image.foreground_ari,
        "matched": of_objects(|object| object.matched),
        "best": of_objects(|object| object.best),
    })
}
