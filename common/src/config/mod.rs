//! The one configuration of a run: what it is called, what it learns from, the network, the recipe, and the machines.
//!
//! A [`Config`] is read from a TOML file, refined by `--set key=value`, validated ([`validate`]), and written back, resolved, as
//! `run.toml` into the run folder, from where every worker reads it. Nothing here does I/O except [`load`], and [`edit_tasks`] and
//! [`compose_tasks`] for files of recipes and scenes.

mod autoencoder;
mod checkpoint;
mod cluster;
mod compositions;
mod concepts;
mod data;
mod edit;
mod error;
mod fid;
mod identity;
mod import;
mod keys;
pub mod load;
mod model;
mod probe;
mod recipes;
pub mod size;
mod train;
pub mod validate;

pub use autoencoder::{AutoencoderConfig, AutoencoderTraining};
pub use checkpoint::{BestBy, CheckpointConfig, WhenBusy};
pub use cluster::{ClusterConfig, CollectiveKind, DeviceKind, LauncherKind, SlurmConfig};
pub use compositions::{ComposeTask, compose_tasks};
pub use concepts::{ComposeConfig, ConceptsConfig, NamedSlot, SceneRecipe};
pub use data::{DataConfig, ImageFormat, ScenesConfig, Split};
pub use edit::{Background, Donor, EditConfig, Exchange, Interpolation, Recipe};
pub use error::{ConfigError, OutOfRange, Place};
pub use fid::{CONVERSION, FidConfig};
pub use identity::config_hash;
pub use import::{ImportConfig, ImportLayout};
pub use model::{
    BackboneConfig, Betas, DiffusionConfig, ModelConfig, PositionEmbedding, Prediction, SlotAttentionConfig, SlotAttentionStart,
    SlotInitialisation, UnetConfig,
};
pub use probe::{HoldOut, ProbeConfig};
pub use recipes::{Edit, EditImage, EditTask, edit_tasks};
pub use train::{
    CudaGraph, Decay, EvaluateConfig, GroupConfig, Groups, NotFinitePolicy, OptimizerConfig, Precision, ReductionConfig, Sampler,
    TrainConfig, TrainEvaluationConfig, Wire,
};

use serde::{Deserialize, Serialize};

/// Everything that defines a run. Each field is a table of the TOML file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[run]`: name, place and seed.
    pub run: RunConfig,
    /// `[data]`: the data sets and how they are read.
    pub data: DataConfig,
    /// `[scenes]`: the built-in data set of ray-traced rooms.
    #[serde(default)]
    pub scenes: ScenesConfig,
    /// `[import]`: the published data set that the `import` job turns into `data.images`; absent where nothing is imported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import: Option<ImportConfig>,
    /// `[autoencoder]`: the frozen KL autoencoder.
    pub autoencoder: AutoencoderConfig,
    /// `[model]`: backbone, slot attention and slot-conditioned UNet.
    pub model: ModelConfig,
    /// `[diffusion]`: noise schedule and training target.
    #[serde(default)]
    pub diffusion: DiffusionConfig,
    /// `[train]`: the recipe.
    pub train: TrainConfig,
    /// `[checkpoint]`: how often, where, how many.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    /// `[evaluate]`: held-out figures and pictures.
    #[serde(default)]
    pub evaluate: EvaluateConfig,
    /// `[probe]`: labels read off slots.
    #[serde(default)]
    pub probe: ProbeConfig,
    /// `[fid]`: by which network and how many images `compose` judges its scenes; absent where it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fid: Option<FidConfig>,
    /// `[edit]`: what the `edit` job does to which images; absent where nothing is edited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edit: Option<EditConfig>,
    /// `[concepts]`: the library of slots.
    #[serde(default)]
    pub concepts: ConceptsConfig,
    /// `[compose]`: the scenes of the `compose` job; absent where none is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compose: Option<ComposeConfig>,
    /// `[cluster]`: workers, hosts and what connects them.
    #[serde(default)]
    pub cluster: ClusterConfig,
}

/// `[run]`: name, place and seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The run's name; its folder is `<root>/<name>`.
    pub name: String,
    /// Folder that holds all runs; on a cluster, on the shared file system.
    #[serde(default = "default_root")]
    pub root: String,
    /// Seed of everything random: initial weights, sample order, noise, timesteps, initial slots.
    #[serde(default)]
    pub seed: u64,
}

fn default_root() -> String {
    "runs".into()
}
