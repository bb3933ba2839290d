//! What a value may be: pure checks over a whole [`Config`], each error naming key, value and what is allowed.

use std::fmt::Display;

use super::error::OutOfRange;
use super::{
    AutoencoderConfig, BackboneConfig, CONVERSION, ClusterConfig, CollectiveKind, Config, DataConfig, DiffusionConfig, FidConfig,
    ImportConfig, PositionEmbedding, ProbeConfig, RunConfig, Sampler, ScenesConfig, SlotAttentionStart, SlotInitialisation,
    TrainConfig, UnetConfig,
};
use super::{compositions, recipes};

type Checked = Result<(), OutOfRange>;

/// Most objects in a scene: the rows of the `attributes` column.
const MOST_OBJECTS: usize = 10;

/// Checks every value on its own and against the values that it has to fit.
///
/// # Errors
/// The first value that no run can use.
pub fn check(config: &Config) -> Checked {
    run(&config.run)?;
    data(&config.data)?;
    scenes(&config.scenes)?;
    config.import.as_ref().map_or(Ok(()), import)?;
    autoencoder(&config.autoencoder)?;
    backbone(&config.model.backbone)?;
    slot_attention(config)?;
    unet(&config.model.unet)?;
    if let Some(url) = &config.model.initial_weights {
        not_empty("model.initial_weights", url)?;
    }
    sides(config)?;
    diffusion(&config.diffusion)?;
    train(&config.train)?;
    cluster(&config.cluster)?;
    batches(config)?;
    checkpoint_and_evaluate(config)?;
    probe(&config.probe)?;
    config.fid.as_ref().map_or(Ok(()), fid)?;
    config.edit.as_ref().map_or(Ok(()), |edit| recipes::tasks_of(edit, config.model.slot_attention.slots).map(drop))?;
    concepts(config)?;
    config.compose.as_ref().map_or(Ok(()), |compose| compositions::tasks_of(config, compose).map(drop))
}

fn run(run: &RunConfig) -> Checked {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let folder = !run.name.is_empty() && !run.name.starts_with('.') && run.name.chars().all(plain);
    require(folder, "run.name", format!("{:?}", run.name), "a folder name of letters, digits, '-', '_' and '.'")?;
    not_empty("run.root", &run.root)?;
    require(run.seed <= i64::MAX as u64, "run.seed", run.seed, "2^63 - 1 or less")
}

fn data(data: &DataConfig) -> Checked {
    not_empty("data.images", &data.images)?;
    not_empty("data.latents", &data.latents)?;
    at_least("data.resolution", data.resolution, 8)?;
    at_least("data.rows_per_shard", data.rows_per_shard, 1)?;
    at_least("data.prefetch", data.prefetch, 1)?;
    at_least("data.cache_mib", data.cache_mib, 1)?;
    if let Some(folder) = &data.cache_folder {
        not_empty("data.cache_folder", folder)?;
    }
    let place = data.cache_folder.is_some() || !data.cache_decoded;
    require(place, "data.cache_decoded", data.cache_decoded, "true only with data.cache_folder, a folder on a local disk")?;
    positive("data.cache_gib", data.cache_gib)?;
    let quality = data.image_quality;
    require((1..=100).contains(&quality), "data.image_quality", quality, "1 to 100")
}

fn scenes(scenes: &ScenesConfig) -> Checked {
    at_least("scenes.train", scenes.train, 1)?;
    at_least("scenes.validation", scenes.validation, 1)?;
    at_least("scenes.min_objects", scenes.min_objects, 1)?;
    let most = scenes.min_objects..=MOST_OBJECTS;
    let allowed = format!("from scenes.min_objects ({}) to {MOST_OBJECTS}", scenes.min_objects);
    require(most.contains(&scenes.max_objects), "scenes.max_objects", scenes.max_objects, allowed)?;
    require(scenes.seed <= i64::MAX as u64, "scenes.seed", scenes.seed, "2^63 - 1 or less")
}

fn import(import: &ImportConfig) -> Checked {
    not_empty("import.source", &import.source)?;
    require(import.crop > 0.0 && import.crop <= 1.0, "import.crop", import.crop, "more than 0, and 1 or less")?;
    // Masks hold one byte per pixel, and 0 is the background.
    let objects = import.max_objects();
    require((1..=255).contains(&objects), "import.max_objects", objects, "from 1 to 255")?;
    at_least("import.frame_stride", import.frame_stride, 1)?;
    let share = import.validation_share.unwrap_or(0.5);
    require(share > 0.0 && share < 1.0, "import.validation_share", share, "more than 0 and less than 1")?;
    at_least("import.train", import.train.unwrap_or(1), 1)?;
    at_least("import.validation", import.validation.unwrap_or(1), 1)
}

fn autoencoder(autoencoder: &AutoencoderConfig) -> Checked {
    not_empty("autoencoder.weights", &autoencoder.weights)?;
    sha256("autoencoder.sha256", autoencoder.sha256.as_deref())?;
    at_least("autoencoder.layers_per_block", autoencoder.layers_per_block, 1)?;
    at_least("autoencoder.latent_channels", autoencoder.latent_channels, 1)?;
    grouped_channels("autoencoder", &autoencoder.block_channels, autoencoder.norm_groups)?;
    if let Some(factor) = autoencoder.scaling_factor {
        positive("autoencoder.scaling_factor", factor)?;
    }
    let train = &autoencoder.train;
    at_least("autoencoder.train.steps", train.steps, 1)?;
    at_least("autoencoder.train.global_batch", train.global_batch, 1)?;
    positive("autoencoder.train.learning_rate", train.learning_rate)?;
    not_negative("autoencoder.train.kl_weight", train.kl_weight)
}

fn backbone(backbone: &BackboneConfig) -> Checked {
    at_least("model.backbone.stride", backbone.stride, 1)?;
    at_least("model.backbone.layers_per_block", backbone.layers_per_block, 1)?;
    at_least("model.backbone.out_channels", backbone.out_channels, 1)?;
    grouped_channels("model.backbone", &backbone.block_channels, backbone.norm_groups)?;
    let head = backbone.mid_attention_head_dim;
    at_least("model.backbone.mid_attention_head_dim", head, 0)?;
    let last = backbone.block_channels.last().copied().unwrap_or_default();
    let allowed = format!("0, or a divisor of the last of model.backbone.block_channels ({last})");
    require(head == 0 || last % head == 0, "model.backbone.mid_attention_head_dim", head, allowed)
}

fn slot_attention(config: &Config) -> Checked {
    let (slots, tokens) = (&config.model.slot_attention, config.model.backbone.out_channels);
    at_least("model.slot_attention.slots", slots.slots, 1)?;
    at_least("model.slot_attention.slot_size", slots.slot_size, 1)?;
    at_least("model.slot_attention.heads", slots.heads, 1)?;
    at_least("model.slot_attention.iterations", slots.iterations, 1)?;
    at_least("model.slot_attention.mlp_hidden", slots.mlp_hidden, 1)?;
    at_least("model.slot_attention.out_size", slots.out_size, 1)?;
    let allowed = format!("a divisor of model.slot_attention.slot_size ({})", slots.slot_size);
    require(slots.slot_size % slots.heads == 0, "model.slot_attention.heads", slots.heads, allowed)?;
    let learned = slots.initialisation == SlotInitialisation::Learned;
    let allowed = "false, or model.slot_attention.initialisation must be \"learned\"";
    require(learned || !slots.bi_level, "model.slot_attention.bi_level", slots.bi_level, allowed)?;
    let one_size = slots.slot_size == tokens && slots.slot_size == slots.out_size;
    let allowed = format!(
        "\"random\", or model.backbone.out_channels ({tokens}), model.slot_attention.slot_size ({}) and model.slot_attention.out_size ({}) \
         must be the same",
        slots.slot_size, slots.out_size
    );
    require(one_size || slots.start == SlotAttentionStart::Random, "model.slot_attention.start", "\"k-means\"", allowed)?;
    let waves = waves(slots.position_embedding);
    let allowed = format!("another one, or model.backbone.out_channels ({tokens}) must be a multiple of 4");
    require(waves.is_none() || tokens % 4 == 0, "model.slot_attention.position_embedding", waves.unwrap_or_default(), allowed)
}

fn unet(unet: &UnetConfig) -> Checked {
    at_least("model.unet.layers_per_block", unet.layers_per_block, 1)?;
    at_least("model.unet.heads", unet.heads, 1)?;
    grouped_channels("model.unet", &unet.block_channels, unet.norm_groups)?;
    let levels = unet.block_channels.len();
    let allowed = format!("one entry for each of model.unet.block_channels ({levels})");
    require(unet.attention.len() == levels, "model.unet.attention", format!("{:?}", unet.attention), allowed)?;
    // The middle block always attends, at the channels of the last level.
    let attends = |level: usize| level + 1 == levels || unet.attention[level];
    for channels in (0..levels).filter(|level| attends(*level)).map(|level| unet.block_channels[level]) {
        let allowed = format!("a divisor of the channels in model.unet.block_channels that attend ({channels})");
        require(channels % unet.heads == 0, "model.unet.heads", unet.heads, allowed)?;
        let waves = waves(unet.position_embedding);
        let allowed =
            format!("another one, or the channels in model.unet.block_channels that attend ({channels}) must be multiples of 4");
        require(waves.is_none() || channels % 4 == 0, "model.unet.position_embedding", waves.unwrap_or_default(), allowed)?;
    }
    Ok(())
}

/// The value of a position embedding that is made of sines and cosines of row and column, which fill four equal parts of the channels.
fn waves(choice: PositionEmbedding) -> Option<&'static str> {
    match choice {
        PositionEmbedding::Sincos => Some("\"sincos\""),
        PositionEmbedding::Fourier => Some("\"fourier\""),
        PositionEmbedding::Cartesian | PositionEmbedding::Learned | PositionEmbedding::None => None,
    }
}

/// Every level halves the side of its input, so sides have to divide.
fn sides(config: &Config) -> Checked {
    let side = config.data.resolution as u64;
    let halvings = |levels: usize| 1u64.checked_shl(levels as u32 - 1).unwrap_or(u64::MAX);
    let latent = halvings(config.autoencoder.block_channels.len());
    let unet = latent.saturating_mul(halvings(config.model.unet.block_channels.len()));
    let stride = config.model.backbone.stride as u64;
    let backbone = stride.saturating_mul(halvings(config.model.backbone.block_channels.len()));
    for (factor, cause) in [
        (latent, "the levels of autoencoder.block_channels"),
        (unet, "the levels of autoencoder.block_channels and model.unet.block_channels"),
        (stride, "model.backbone.stride"),
        (backbone, "model.backbone.stride and the levels of model.backbone.block_channels"),
    ] {
        let allowed = format!("a multiple of {factor}, for {cause}");
        require(side.is_multiple_of(factor), "data.resolution", side, allowed)?;
    }
    Ok(())
}

fn diffusion(diffusion: &DiffusionConfig) -> Checked {
    at_least("diffusion.timesteps", diffusion.timesteps, 1)?;
    let (start, end) = (diffusion.beta_start, diffusion.beta_end);
    require(start > 0.0 && start < 1.0, "diffusion.beta_start", start, "more than 0 and less than 1")?;
    let allowed = format!("diffusion.beta_start ({start}) or more, and less than 1");
    require(end >= start && end < 1.0, "diffusion.beta_end", end, allowed)?;
    positive("diffusion.latent_scale", diffusion.latent_scale)?;
    not_negative("diffusion.snr_gamma", diffusion.snr_gamma)?;
    not_negative("diffusion.offset_noise", diffusion.offset_noise)
}

fn train(train: &TrainConfig) -> Checked {
    at_least("train.steps", train.steps, 1)?;
    at_least("train.global_batch", train.global_batch, 1)?;
    at_least("train.micro_batch", train.micro_batch.unwrap_or(1), 1)?;
    at_least("train.log_every", train.log_every, 1)?;
    positive("train.reduction.bucket_mib", train.reduction.bucket_mib)?;
    positive("train.reduction.first_bucket_mib", train.reduction.first_bucket_mib)?;
    let groups = &train.groups;
    not_negative("train.groups.backbone.learning_rate", groups.backbone.learning_rate)?;
    not_negative("train.groups.slot_attention.learning_rate", groups.slot_attention.learning_rate)?;
    not_negative("train.groups.unet.learning_rate", groups.unet.learning_rate)?;
    not_negative("train.clip_norm", train.clip_norm)?;
    decay("train.ema_decay", train.ema_decay)?;
    let sometimes = (0.0..1.0).contains(&train.slot_dropout);
    require(sometimes, "train.slot_dropout", train.slot_dropout, "0 or more and less than 1")?;
    decay("train.optimizer.beta1", train.optimizer.beta1)?;
    decay("train.optimizer.beta2", train.optimizer.beta2)?;
    positive("train.optimizer.epsilon", train.optimizer.epsilon)?;
    not_negative("train.optimizer.weight_decay", train.optimizer.weight_decay)
}

/// Every global batch is shared out among the workers; each has at least one sample.
fn batches(config: &Config) -> Checked {
    let cluster = &config.cluster;
    let workers = cluster.nodes.saturating_mul(cluster.workers_per_node);
    let alone = workers == 1 || cluster.collective != CollectiveKind::Solo;
    require(alone, "cluster.collective", "\"solo\"", format!("\"auto\", \"mpi\" or \"nccl\" for {workers} workers"))?;
    let allowed = format!("at least one for each of the {workers} workers (cluster.nodes * cluster.workers_per_node)");
    let (train, autoencoder) = (config.train.global_batch, config.autoencoder.train.global_batch);
    require(train >= workers, "train.global_batch", train, &allowed)?;
    require(autoencoder >= workers, "autoencoder.train.global_batch", autoencoder, &allowed)
}

fn cluster(cluster: &ClusterConfig) -> Checked {
    at_least("cluster.nodes", cluster.nodes, 1)?;
    at_least("cluster.workers_per_node", cluster.workers_per_node, 1)?;
    let least = 1..=cluster.nodes;
    require(least.contains(&cluster.min_nodes), "cluster.min_nodes", cluster.min_nodes, "from 1 to cluster.nodes")?;
    at_least("cluster.hang_after", cluster.hang_after, 1)?;
    let enough = cluster.hosts.is_empty() || cluster.hosts.len() >= cluster.nodes;
    let allowed = format!("none, or at least cluster.nodes ({})", cluster.nodes);
    require(enough, "cluster.hosts", format!("{:?}", cluster.hosts), allowed)
}

fn checkpoint_and_evaluate(config: &Config) -> Checked {
    if let Some(url) = &config.checkpoint.url {
        not_empty("checkpoint.url", url)?;
    }
    for url in &config.checkpoint.also {
        not_empty("checkpoint.also", url)?;
    }
    at_least("checkpoint.every_steps", config.checkpoint.every_steps, 1)?;
    not_negative("checkpoint.every_minutes", config.checkpoint.every_minutes)?;
    at_least("checkpoint.keep_last", config.checkpoint.keep_last, 2)?;
    let by = config.checkpoint.best_by;
    let looked_for = by.evaluation().is_none() || config.train.evaluation.every_steps > 0;
    require(looked_for, "checkpoint.best_by", by, "loss as long as train.evaluation.every_steps is 0")?;
    let evaluate = &config.evaluate;
    at_least("evaluate.batch", evaluate.batch, 1)?;
    at_least("evaluate.pictures", evaluate.pictures, 1)?;
    let total = config.diffusion.timesteps;
    let (most, allowed) = match evaluate.sampler {
        Sampler::DpmSolver => (total - 1, format!("1 or more and less than diffusion.timesteps ({total}) for dpm-solver++")),
        Sampler::Ddim | Sampler::Ddpm => (total, format!("from 1 to diffusion.timesteps ({total})")),
    };
    let training = &config.train.evaluation;
    at_least("train.evaluation.samples", training.samples, 1)?;
    for (key, steps) in
        [("evaluate.sampling_steps", evaluate.sampling_steps), ("train.evaluation.sampling_steps", training.sampling_steps)]
    {
        require((1..=most).contains(&steps), key, steps, &allowed)?;
    }
    not_negative("evaluate.guidance", evaluate.guidance)?;
    let learned = evaluate.guidance == 1.0 || config.train.slot_dropout > 0.0;
    let allowed = "1 as long as train.slot_dropout is 0: the network has not learned to do without slots";
    require(learned, "evaluate.guidance", evaluate.guidance, allowed)
}

fn concepts(config: &Config) -> Checked {
    let (concepts, slots) = (&config.concepts, config.model.slot_attention.slots.unsigned_abs());
    at_least("concepts.restarts", concepts.restarts, 1)?;
    let count = config.concept_count();
    at_least("concepts.count", count, 1)?;
    let most = if concepts.images == 0 { u64::MAX } else { concepts.images.saturating_mul(slots) };
    let allowed = format!("{most} or less, the slots of concepts.images ({}) images", concepts.images);
    require(count as u64 <= most, "concepts.count", count, allowed)?;
    let enough = concepts.batch == 0 || concepts.batch >= count as u64;
    let allowed = format!("0, or at least as many slots as there are concepts ({count})");
    require(enough, "concepts.batch", concepts.batch, allowed)
}

fn fid(fid: &FidConfig) -> Checked {
    not_empty("fid.weights", &fid.weights)?;
    let allowed = format!("a .safetensors file; of the published weights it is made by: {CONVERSION}");
    require(fid.weights.ends_with(".safetensors"), "fid.weights", format!("{:?}", fid.weights), allowed)?;
    sha256("fid.sha256", fid.sha256.as_deref())?;
    at_least("fid.images", fid.images, 2)?;
    require(fid.real == 0 || fid.real >= 4, "fid.real", fid.real, "0, or 4 or more: its halves are compared too")?;
    at_least("fid.subsets", fid.subsets, 1)?;
    at_least("fid.subset_size", fid.subset_size, 2)
}

fn probe(probe: &ProbeConfig) -> Checked {
    at_least("probe.steps", probe.steps, 1)?;
    positive("probe.learning_rate", probe.learning_rate)
}

/// At least one level, every level's channels a multiple of the groups.
fn grouped_channels(table: &str, channels: &[i64], groups: i64) -> Checked {
    let (key, groups_key) = (format!("{table}.block_channels"), format!("{table}.norm_groups"));
    at_least(&groups_key, groups, 1)?;
    require(!channels.is_empty() && channels.len() <= 16, &key, format!("{channels:?}"), "1 to 16 levels")?;
    let fit = channels.iter().all(|channels| *channels >= 1 && channels % groups == 0);
    require(fit, &key, format!("{channels:?}"), format!("multiples of {groups_key} ({groups}), 1 or more each"))
}

fn sha256(key: &str, digest: Option<&str>) -> Checked {
    let hexadecimal = digest.is_none_or(|digest| digest.len() == 64 && digest.bytes().all(|digit| digit.is_ascii_hexdigit()));
    require(hexadecimal, key, format!("{:?}", digest.unwrap_or_default()), "64 hexadecimal digits")
}

pub(super) fn require(holds: bool, key: &str, value: impl Display, allowed: impl Display) -> Checked {
    if holds { Ok(()) } else { Err(OutOfRange { key: key.into(), value: value.to_string(), allowed: allowed.to_string() }) }
}

fn at_least<T: PartialOrd + Display>(key: &str, value: T, least: T) -> Checked {
    require(value >= least, key, value, format!("{least} or more"))
}

fn positive(key: &str, value: f64) -> Checked {
    require(value > 0.0 && value.is_finite(), key, value, "more than 0")
}

fn not_negative(key: &str, value: f64) -> Checked {
    require(value >= 0.0 && value.is_finite(), key, value, "0 or more")
}

/// Decay of a moving average: 0 keeps nothing of the past, 1 would never move.
fn decay(key: &str, value: f64) -> Checked {
    require((0.0..1.0).contains(&value), key, value, "0 or more and less than 1")
}

fn not_empty(key: &str, value: &str) -> Checked {
    require(!value.trim().is_empty(), key, "\"\"", "not empty")
}
