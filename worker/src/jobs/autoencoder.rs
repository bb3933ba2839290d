//! Train a KL autoencoder for one's own images, for whoever has no public weights that fit.
//!
//! The objective is latent diffusion's (Rombach et al. 2022, section 3.1) without its perceptual and adversarial terms: reconstruction
//! error plus a slight pull of the posterior towards the unit Gaussian.

use super::{BadInput, JobContext};
use crate::collectives::Collective;
use crate::data::{Images, to_unit_range};
use crate::model::{Autoencoder, Initial, weights};
use crate::training::optimizer::{AdamW, clip, rate_kind};
use crate::training::parameters::{FlatParameters, Group};
use crate::training::random::{Draws, Purpose};
use crate::training::reduction::Reducer;
use crate::training::schedule::LearningRate;
use anyhow::{Context, Result};
use common::config::{Decay, GroupConfig, OptimizerConfig};
use common::sampler::{SampleOrder, rank_positions};
use common::storage::Store;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tch::{Kind, Reduction, Tensor};
use tokio::task::JoinHandle;

/// Images on which the scaling factor and the held-out error are measured.
const MEASURED_IMAGES: u64 = 1024;
/// Images per forward pass while measuring.
const MEASURED_BATCH: u64 = 32;
/// Largest global norm of the gradients.
const CLIP_NORM: f64 = 1.0;
/// Steps between progress reports.
const REPORT_EVERY: u64 = 10;

pub(super) fn run(context: &mut JobContext) -> Result<Value> {
    let recipe = recipe(context)?;
    if let Some(summary) = finished(context, &recipe)? {
        tracing::info!("the autoencoder is trained already");
        return Ok(summary);
    }
    let mut training = Training::new(context)?;
    let Some(loss) = training.train(context)? else { return Ok(json!({"stopped": true})) };

    let autoencoder = &mut training.autoencoder;
    if context.config.autoencoder.scaling_factor.is_none() {
        autoencoder.scaling_factor = measure_scaling_factor(context, autoencoder, &training.images)?;
    }
    let error = measure_reconstruction(context, autoencoder)?;
    let summary = json!({
        "weights": context.config.autoencoder.weights,
        "training_loss": loss,
        "reconstruction_mse": error,
        "scaling_factor": autoencoder.scaling_factor,
    });
    if context.place.is_leader() {
        save(context, autoencoder, &json!({"digest": digest(&recipe), "recipe": recipe, "summary": summary}))?;
    }
    context.collective.barrier()?;
    Ok(summary)
}

/// Everything that determines the trained weights.
fn recipe(context: &JobContext) -> Result<Value> {
    let config = &context.config;
    let images = Images::open(&context.runtime, &config.data, "train")?;
    let mut architecture = serde_json::to_value(&config.autoencoder)?;
    // Where the weights lie, and which they shall be, does not change them.
    for key in ["weights", "sha256"] {
        architecture.as_object_mut().and_then(|fields| fields.remove(key));
    }
    Ok(json!({"seed": config.run.seed, "images": images.dataset().manifest().fingerprint(), "autoencoder": architecture}))
}

/// Digest of a recipe's text: numbers need not survive being printed and read.
fn digest(recipe: &Value) -> String {
    blake3::hash(recipe.to_string().as_bytes()).to_hex().to_string()
}

/// The folder for the weights.
fn folder(context: &JobContext) -> Result<PathBuf, BadInput> {
    let url = &context.config.autoencoder.weights;
    let local = Store::open(url).map_err(BadInput::new)?.local_path().filter(|_| !url.ends_with(".safetensors"));
    local.ok_or_else(|| BadInput::message(format!("autoencoder.weights = {url:?} is no local folder, and this job writes to one")))
}

/// Beside the weights: the recipe they came from, and how good they are.
fn record_file(folder: &Path) -> PathBuf {
    folder.join("training.json")
}

/// The summary of the complete autoencoder in the folder, if it was trained by this recipe; any other is not overwritten.
fn finished(context: &JobContext, recipe: &Value) -> Result<Option<Value>> {
    let folder = folder(context)?;
    if !folder.join(weights::CONFIG_FILE).exists() {
        return Ok(None);
    }
    let record = std::fs::read(record_file(&folder)).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    match record {
        Some(record) if record["digest"] == digest(recipe) => Ok(Some(record["summary"].clone())),
        _ => Err(BadInput::message(format!(
            "{}: already holds an autoencoder that was not trained by this configuration on these images; set autoencoder.weights to \
             another folder, or delete this one",
            folder.display()
        ))
        .into()),
    }
}

/// The record first, then the weights, and `config.json` last: where it is, the folder is complete.
fn save(context: &JobContext, autoencoder: &Autoencoder, record: &Value) -> Result<()> {
    let folder = folder(context)?;
    let file = record_file(&folder);
    let create = || std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, format!("{record:#}\n")));
    create().with_context(|| file.display().to_string())?;
    autoencoder.save(&folder, &context.config.autoencoder, context.config.data.resolution)?;
    Ok(())
}

/// An autoencoder in training.
struct Training {
    autoencoder: Autoencoder,
    parameters: FlatParameters,
    reducer: Reducer,
    adamw: AdamW,
    learning_rate: LearningRate,
    draws: Draws,
    images: Images,
    order: SampleOrder,
}

impl Training {
    fn new(context: &JobContext) -> Result<Self> {
        let config = &context.config;
        let recipe = &config.autoencoder.train;
        let images = Images::open(&context.runtime, &config.data, "train")?;
        if images.dataset().rows() < recipe.global_batch as u64 {
            let rows = images.dataset().rows();
            let url = &config.data.images;
            let batch = recipe.global_batch;
            return Err(BadInput::message(format!(
                "{url}/train: {rows} samples are fewer than one global batch of {batch}; lower autoencoder.train.global_batch or add data"
            ))
            .into());
        }
        let order = SampleOrder::new(config.run.seed, &images.dataset().manifest().shard_rows(), config.data.shuffle_window)?;
        let autoencoder = Autoencoder::new(&config.autoencoder, Initial::Seed(config.run.seed), context.device);
        let variables =
            autoencoder.module.variables.iter().map(|variable| (variable.name.clone(), variable.tensor.shallow_clone()));
        let group = Group { name: autoencoder.module.name.to_owned(), variables: variables.collect() };
        let parameters = FlatParameters::new(vec![group])?;
        let reducer = Reducer::new(&parameters, &context.collective, &config.train.reduction)?;
        let adamw = AdamW::new(&parameters, OptimizerConfig::default());
        let group = GroupConfig { learning_rate: recipe.learning_rate, warmup_steps: recipe.warmup_steps };
        let learning_rate = LearningRate::new(&group, Decay::Cosine, recipe.steps);
        Ok(Self { autoencoder, parameters, reducer, adamw, learning_rate, draws: Draws::new(config.run.seed), images, order })
    }

    /// All steps. The last reported loss, or nothing when a worker was asked to stop.
    fn train(&mut self, context: &mut JobContext) -> Result<Option<f64>> {
        let steps = context.config.autoencoder.train.steps;
        let mut loss = f64::NAN;
        let mut next = self.fetch(context, 0);
        for step in 0..steps {
            let images = context.runtime.block_on(next)??;
            next = self.fetch(context, step + 1);
            let passengers = self.step(context, step, &images)?;
            if passengers.double_value(&[1]) > 0.0 {
                return Ok(None);
            }
            if (step + 1) % REPORT_EVERY == 0 || step + 1 == steps {
                loss = passengers.double_value(&[0]);
                context.reporter.progress(step + 1, steps, "steps", &[("loss", loss)]);
            }
        }
        Ok(Some(loss))
    }

    /// Starts to fetch this worker's images of `step`.
    fn fetch(&self, context: &JobContext, step: u64) -> JoinHandle<Result<Tensor, crate::data::DataError>> {
        let place = context.place;
        let batch = context.config.autoencoder.train.global_batch as u64;
        let rows = self.order.samples(rank_positions(step, batch, place.rank as u64, place.world as u64));
        let images = self.images.clone();
        context.runtime.spawn(async move { images.read(&rows).await })
    }

    /// One optimizer step on images u8 [B, H, W, 3]. Returns the global batch's loss, and whether any worker was asked to stop.
    fn step(&mut self, context: &mut JobContext, step: u64, images: &Tensor) -> Result<Tensor> {
        let recipe = &context.config.autoencoder.train;
        let (place, batch) = (context.place, recipe.global_batch);
        let rows = rank_positions(0, batch as u64, place.rank as u64, place.world as u64);
        let rows = rows.start as usize..rows.end as usize;
        let share = rows.len() as f64 / batch as f64;
        self.parameters.zero_gradients();
        let images = to_unit_range(&images.to_device(context.device));
        let moments = self.autoencoder.encode_moments(&images);
        let [_, channels, height, width] = *moments.size() else { anyhow::bail!("moments of shape {:?}", moments.size()) };
        let noise = self.draws.normal(step, Purpose::PosteriorNoise, rows, &[channels / 2, height, width]);
        let decoded = self.autoencoder.decode(&Autoencoder::sample(&moments, &noise.to_device(context.device)));
        let loss = (decoded.mse_loss(&images, Reduction::Mean) + kl_divergence(&moments) * recipe.kl_weight) * share;
        let passengers = self.parameters.passengers();
        tch::no_grad(|| {
            passengers.get(0).copy_(&loss.detach());
            let _ = passengers.get(1).fill_(f64::from(u8::from(context.stop.requested())));
        });
        self.reducer.arm();
        loss.backward();
        self.reducer.finish()?;
        let divisor = clip(&self.parameters.gradients(), CLIP_NORM).divisor;
        let number = |value| Tensor::full([1], value, (rate_kind(context.device), context.device));
        let (rate, done) = (number(self.learning_rate.at(step)), number(step as f64));
        self.adamw.step(&self.parameters, &rate, &done, divisor.as_ref(), None)?;
        Ok(passengers)
    }
}

/// Divergence of the posterior from the unit Gaussian, per element of the latent.
fn kl_divergence(moments: &Tensor) -> Tensor {
    let moments = moments.chunk(2, 1);
    let (mean, log_variance) = (&moments[0], &moments[1]);
    (mean.square() + log_variance.exp() - 1.0 - log_variance).mean(Kind::Float) * 0.5
}

/// 1 / standard deviation of sampled latents of training images, rounded so that it does not depend on the number of workers.
fn measure_scaling_factor(context: &mut JobContext, autoencoder: &Autoencoder, images: &Images) -> Result<f64> {
    let draws = Draws::new(context.config.run.seed);
    let [count, sum, squares] = measure(context, images, |first, images| {
        let moments = autoencoder.encode_moments(&images);
        let size = moments.size();
        let rows = first as usize..first as usize + size[0] as usize;
        let noise = draws.normal(0, Purpose::SamplingNoise, rows, &[size[1] / 2, size[2], size[3]]).to_device(images.device());
        let z = Autoencoder::sample(&moments, &noise).to_kind(Kind::Double);
        [z.numel() as f64, z.sum(Kind::Double).double_value(&[]), z.square().sum(Kind::Double).double_value(&[])]
    })?;
    let deviation = (squares / count - (sum / count).powi(2)).sqrt();
    if !(deviation.is_finite() && deviation > 0.0) {
        anyhow::bail!("the latents have standard deviation {deviation}; lower autoencoder.train.learning_rate");
    }
    Ok((1e5 / deviation).round() / 1e5)
}

/// Mean squared error of held-out images, in [-1, 1], decoded from their mean latents.
fn measure_reconstruction(context: &mut JobContext, autoencoder: &Autoencoder) -> Result<f64> {
    let images = Images::open(&context.runtime, &context.config.data, "validation")?;
    let [count, sum, _] = measure(context, &images, |_, images| {
        let decoded = autoencoder.decode(&autoencoder.encode_moments(&images).chunk(2, 1)[0]);
        let error = decoded.mse_loss(&images, Reduction::Sum).double_value(&[]);
        [images.numel() as f64, error, 0.0]
    })?;
    Ok(sum / count)
}

/// Sums `figures(first row, images in [-1, 1])` over the batches of the first images of a split, shared among the workers.
fn measure(context: &mut JobContext, images: &Images, figures: impl Fn(u64, Tensor) -> [f64; 3]) -> Result<[f64; 3]> {
    let _guard = tch::no_grad_guard();
    let rows = images.dataset().rows().min(MEASURED_IMAGES);
    let mut sums = [0.0; 3];
    for first in (0..rows).step_by(MEASURED_BATCH as usize).skip(context.place.rank).step_by(context.place.world) {
        let batch: Vec<u64> = (first..(first + MEASURED_BATCH).min(rows)).collect();
        let batch = context.runtime.block_on(images.read(&batch))?.to_device(context.device);
        let found = figures(first, to_unit_range(&batch));
        sums.iter_mut().zip(found).for_each(|(sum, figure)| *sum += figure);
    }
    let sums = Tensor::from_slice(&sums);
    context.collective.all_reduce_sum(&sums)?;
    Ok([0, 1, 2].map(|i| sums.double_value(&[i])))
}
