//! `[train]` and `[evaluate]`: the recipe, and how what comes of it is judged.

use serde::{Deserialize, Serialize};

/// `[train]`: the recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimizer steps.
    pub steps: u64,
    /// Images per optimizer step over all workers; must divide by the number of workers.
    pub global_batch: usize,
    /// Most images per forward and backward pass of a worker, for less memory: a larger share of the global batch is taken in several
    /// passes, whose gradients add up to the same mean. Absent: all at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// `[train.groups]`: learning rates and warm-ups per module.
    pub groups: Groups,
    /// What happens to the learning rates after warm-up.
    #[serde(default)]
    pub decay: Decay,
    /// `[train.optimizer]`: AdamW.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// Largest global gradient norm over all modules; 0 switches clipping off.
    #[serde(default = "defaults::clip_norm")]
    pub clip_norm: f64,
    /// Decay of the exponential moving average of the weights; 0 switches it off.
    #[serde(default)]
    pub ema_decay: f64,
    /// Probability that an image is denoised without its slots, so that `evaluate.guidance` has something to lead away from (Ho and
    /// Salimans 2022). 0 for never, as in the paper.
    #[serde(default)]
    pub slot_dropout: f64,
    /// In what numbers the networks compute.
    #[serde(default)]
    pub precision: Precision,
    /// On GPUs: only algorithms that give the same bits in every run. Slower; and cuBLAS wants `CUBLAS_WORKSPACE_CONFIG=:4096:8` in the
    /// environment for it.
    #[serde(default)]
    pub deterministic: bool,
    /// On GPUs: whether steps are launched as CUDA graphs.
    #[serde(default)]
    pub cuda_graph: CudaGraph,
    /// What happens when the gradients of a step are no numbers.
    #[serde(default)]
    pub not_finite: NotFinitePolicy,
    /// `[train.reduction]`: how gradients are summed over the workers.
    #[serde(default)]
    pub reduction: ReductionConfig,
    /// Steps between metric records.
    #[serde(default = "defaults::log_every")]
    pub log_every: u64,
    /// Steps between picture grids in TensorBoard; 0 for none.
    #[serde(default)]
    pub picture_every: u64,
    /// `[train.evaluation]`: held-out images, looked at while training.
    #[serde(default)]
    pub evaluation: TrainEvaluationConfig,
    /// So many steps are profiled, a few steps after the workers have started: a trace and a table of where the time goes. 0 for none.
    #[serde(default)]
    pub profile_steps: u64,
}

/// In what numbers the networks compute. Weights, their gradients and the optimizer's state are f32 in any case, as are the softmax over
/// the slots, the normalisation over the tokens, the noise schedule and the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32 throughout.
    #[default]
    Fp32,
    /// f32, with the products of matrices and convolutions on the tensor cores of a GPU, which drop 13 of the 23 bits of their inputs.
    Tf32,
    /// Products of matrices, convolutions and attention in bf16 (autocast).
    Bf16,
}

/// Whether steps are launched as CUDA graphs: all kernels of a step at once, without the host's work for each of them. It changes how
/// fast small networks train, and no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CudaGraph {
    /// Kernel by kernel.
    #[default]
    Off,
    /// After a few steps kernel by kernel, if CUDA agrees; where it does not, one line in the log says why. On the CPU there is nothing to
    /// capture. Takes the memory of a step's intermediate results for good.
    Auto,
}

/// What happens when the gradients of a step are no numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NotFinitePolicy {
    /// The run ends and names the step; the checkpoints before it stay.
    #[default]
    Stop,
    /// The step changes nothing, and training goes on with the next.
    Skip,
    /// Training goes back to the newest checkpoint and tries the steps since with other noise, as often as `cluster.max_restarts` says
    /// without a new checkpoint in between.
    Back,
}

/// `[train.reduction]`: how gradients are summed over the workers. They travel in buckets, the last layers' first, while the gradients
/// of the layers before are still being computed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReductionConfig {
    /// MiB of gradients per bucket.
    pub bucket_mib: f64,
    /// MiB of the first bucket: the smaller, the earlier the first bytes travel.
    pub first_bucket_mib: f64,
    /// In what numbers gradients travel and are summed.
    pub wire: Wire,
}

impl Default for ReductionConfig {
    fn default() -> Self {
        Self { bucket_mib: 25.0, first_bucket_mib: 1.0, wire: Wire::Fp32 }
    }
}

/// In what numbers gradients travel and are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// As they are.
    #[default]
    Fp32,
    /// Rounded to bf16: half the bytes, and 8 bits of each sum.
    Bf16,
}

/// `[train.evaluation]`: held-out images, looked at while training by all workers, each of which takes its share. It changes no step.
///
/// An evaluation costs about a forward pass of each of the `samples`, and 2 `sampling_steps` passes of the UNet for each of the
/// `pictures`: with the defaults as much arithmetic as one step of the published experiment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainEvaluationConfig {
    /// Steps between evaluations (the last step has one in any case); 0 for none at all.
    pub every_steps: u64,
    /// Held-out images that the figures are about: the first ones of the validation split.
    pub samples: usize,
    /// So many of them are painted from their slots, and as many scenes from slots of all of these; 0 for none.
    pub pictures: usize,
    /// Steps of `evaluate.sampler` for each picture.
    pub sampling_steps: usize,
}

impl Default for TrainEvaluationConfig {
    fn default() -> Self {
        Self { every_steps: 0, samples: 64, pictures: 8, sampling_steps: 20 }
    }
}

/// `[train.groups]`: one entry per module group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// The CNN backbone.
    pub backbone: GroupConfig,
    /// Slot Attention.
    pub slot_attention: GroupConfig,
    /// The UNet.
    pub unet: GroupConfig,
}

/// Learning rate of one module group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up from 0 to the peak.
    #[serde(default)]
    pub warmup_steps: u64,
}

/// Learning-rate schedule after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Stay at the peak (the reference).
    #[default]
    Constant,
    /// Half a cosine from the peak to 0 at the last step.
    Cosine,
}

/// `[train.optimizer]`: AdamW.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, on every parameter as in the reference.
    pub weight_decay: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 }
    }
}

/// `[evaluate]`: held-out figures and pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateConfig {
    /// Held-out images to evaluate; 0 for all.
    pub samples: usize,
    /// Images per forward pass and worker.
    pub batch: usize,
    /// Use the moving average of the weights when there is one.
    pub ema: bool,
    /// Sampler of reconstructions and compositions.
    pub sampler: Sampler,
    /// Steps of the sampler: fewer than `diffusion.timesteps` for `dpm-solver++`, at most as many for `ddim`.
    pub sampling_steps: usize,
    /// Classifier-free guidance: how far predictions are led away from those without slots. 1 for none, and then those are not computed;
    /// otherwise every step of the sampler costs twice as much. Needs a model trained with `train.slot_dropout`.
    pub guidance: f64,
    /// Rows of the picture grids.
    pub pictures: usize,
}

impl Default for EvaluateConfig {
    fn default() -> Self {
        Self { samples: 0, batch: 20, ema: true, sampler: Sampler::Ddim, sampling_steps: 25, guidance: 1.0, pictures: 8 }
    }
}

/// Sampler of the reverse diffusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sampler {
    /// Denoising diffusion implicit models, eta 0.
    Ddim,
    /// Ancestral sampling over all T steps, whatever `sampling_steps` says.
    Ddpm,
    /// DPM-Solver++ of second order, multistep (the reference's validation, in 25 steps).
    #[serde(rename = "dpm-solver++")]
    DpmSolver,
}

mod defaults {
    pub(super) fn clip_norm() -> f64 {
        1.0
    }
    pub(super) fn log_every() -> u64 {
        10
    }
}
