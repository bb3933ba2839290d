//! Train backbone, Slot Attention and UNet together on an encoded data set.

use super::{JobContext, checkup};
use crate::checkpointing::{Identity, Restorer, SaveTo, Saver, draw_nonce, open_stores};
use crate::data::{Slice, Supply, Transfer, open_split};
use crate::metrics::MetricsWriter;
use crate::model::weights::load_official;
use crate::model::{Initial, LatentSlotDiffusion, Sizes};
use crate::training::graph::{CudaGraphs, StepGraph, Trial};
use crate::training::held_out::HeldOut;
use crate::training::profile::Profile;
use crate::training::reduction::Reducer;
use crate::training::rehearsal::Rehearsal;
use crate::training::run::Training;
use crate::training::step::{StepRecipe, TrainingState};
use anyhow::Context;
use common::checkpoint::CheckpointStore;
use common::config::Config;
use common::shards::{Dataset, scaling_factor};
use serde_json::json;
use std::sync::Arc;
use tokio::runtime::Handle;

pub(super) fn run(context: &mut JobContext) -> anyhow::Result<serde_json::Value> {
    let config = context.config.clone();
    let (place, runtime) = (context.place, context.runtime.clone());
    checkup::run(context)?;
    let url = &config.data.latents;
    let dataset = open_split(&runtime, &config.data, url, "train")?;
    let scaling_factor = scaling_factor(config.autoencoder.scaling_factor, &dataset)?;

    let model = LatentSlotDiffusion::new(&config.model, Sizes::of(&config), Initial::Seed(config.run.seed), context.device);
    let stores = open_stores(&config, &context.run)?;
    if place.is_leader() && is_new(&stores, &runtime)? {
        start_from(&config, &model, &runtime)?;
    }
    let mut state = TrainingState::new(model, &config)?;
    let identity = Identity::new(&config, dataset.manifest().fingerprint(), scaling_factor, place.generation, place.world);
    let restorer = Restorer::new(stores.clone(), identity.clone(), runtime.clone());
    let restored = restorer.restore(&state, &mut context.collective)?;
    let reducer = Reducer::new(&state.parameters, &context.collective, &config.train.reduction)?;
    let held_out = HeldOut::open(context, &state, scaling_factor)?;
    tracing::info!(step = restored.step, parameters = state.parameters.count(), "training starts");

    let slice = Slice { global_batch: config.train.global_batch, rank: place.rank, world: place.world };
    let supply = Supply::new(&config, url, dataset.clone(), slice, &runtime);
    let nonce = draw_nonce(&mut context.collective)?;
    let to = SaveTo { stores, identity, nonce, place: (place.rank, place.world) };
    let saver = Saver::start(to, &state, &config.checkpoint, context.device, runtime, context.reporter.clone())?;
    let open = || {
        let writer = MetricsWriter::open(&context.run, place.generation, restored.step)?;
        Ok::<_, std::io::Error>(writer.beside(reading_figures(dataset)))
    };
    let metrics = place.is_leader().then(open).transpose().with_context(|| format!("{}", context.run.path().display()))?;
    let rehearsal = Rehearsal::from_environment(context)?;
    let recipe = StepRecipe::new(&config, scaling_factor, context.device);
    let trial = Trial::new(place.is_leader().then(|| context.run.sums_trial()));
    let steps = StepGraph::new(recipe, CudaGraphs::new(config.train.cuda_graph, context.device), trial);
    let trace = context.run.path().join(format!("profile/gen-{:03}-rank-{:05}.json", place.generation, place.rank));
    let profile = Profile::new(context.profile, trace, context.device);
    let detours = restored.detours;
    let transfer = Transfer::new(context.device)?;
    let training = Training {
        steps,
        state: &mut state,
        reducer,
        supply,
        transfer,
        metrics,
        saver,
        restorer,
        detours,
        rehearsal,
        profile,
        held_out,
    };
    let ended = training.run(restored.step, context)?;
    Ok(json!({
        "steps": ended.step,
        "stopped": ended.stopped,
        "loss": ended.loss,
        "images_per_second": ended.images_per_second,
        "parameters": state.parameters.count(),
    }))
}

/// What this worker has read of the data set since it was asked last: MiB from where the data set lies, and the share of its blocks that
/// were in memory or in the cache of its host.
fn reading_figures(dataset: Arc<Dataset>) -> impl FnMut() -> Vec<(&'static str, f64)> + Send + 'static {
    let mut before = dataset.traffic();
    move || {
        let now = dataset.traffic();
        let recent = now.since(&before);
        before = now;
        vec![("data_fetched_mib", recent.fetched_bytes as f64 / f64::from(1 << 20)), ("cache_hit_rate", recent.hit_rate())]
    }
}

/// Whether the run has no checkpoint yet.
fn is_new(stores: &[CheckpointStore], runtime: &Handle) -> anyhow::Result<bool> {
    for store in stores {
        if !runtime.block_on(store.list())?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Loads the weights that a new run starts from, if it names any. The other workers will get them from this one.
fn start_from(config: &Config, model: &LatentSlotDiffusion, runtime: &Handle) -> anyhow::Result<()> {
    let Some(url) = &config.model.initial_weights else { return Ok(()) };
    load_official(url, config, &model.modules, runtime)?;
    tracing::info!("initial weights from {url}");
    Ok(())
}
