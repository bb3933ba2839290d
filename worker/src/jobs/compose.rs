//! Compose new scenes: sort the slots of many images into concepts, put together one slot of each, and decode.

use super::JobContext;
use super::fid::Judge;
use super::figure::{self, image_picture, share};
use crate::checkpointing::{load_weights, open_stores};
use crate::collectives::Collective;
use crate::concepts::{Clusters, k_means};
use crate::data::LabelledImages;
use crate::evaluation::{Picture, grid};
use crate::inference::{Decoder, enlarge, find_slots, to_vec};
use crate::model::{Autoencoder, Initial, LatentSlotDiffusion, Sizes};
use crate::training::random::Draws;
use anyhow::Result;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::ops::Range;
use tch::{Kind, Tensor};

/// Members of each concept in the picture of the library.
const SHOWN_MEMBERS: usize = 8;

pub(super) fn run(context: &mut JobContext) -> Result<Value> {
    let config = context.config.clone();
    let source = LabelledImages::open(&context.runtime, &config.data, "train")?;
    let autoencoder = Autoencoder::load(&config.autoencoder, context.device, &context.runtime)?;
    let decoder = Decoder::new(&config, autoencoder, context.device);
    let model = LatentSlotDiffusion::new(&config.model, Sizes::of(&config), Initial::Unset, context.device);
    let stores = open_stores(&config, &context.run)?;
    let step = load_weights(&stores, &model, config.evaluate.ema, &mut context.collective, &context.runtime)?;

    let judge = Judge::open(context)?;
    let library = Library::collect(context, &model, &source)?;
    let slots = config.model.slot_attention.slots as usize;
    let concepts = k_means(&to_vec(&library.slots)?, config.model.slot_attention.slot_size as usize, slots, config.run.seed);
    tracing::info!(slots = library.slots.size()[0], concepts = slots, "the slot library is sorted");

    let mut random = ChaCha8Rng::seed_from_u64(config.run.seed);
    let recipes: Vec<Vec<usize>> = (0..config.evaluate.pictures).map(|_| concepts.draw(&mut random)).collect();
    let fid = match &judge {
        Some(judge) => {
            let scenes: Vec<Vec<usize>> = (0..judge.images()).map(|_| concepts.draw(&mut random)).collect();
            let painted =
                |rows: Range<u64>| Ok(compose(&library, &decoder, &model, &scenes, rows.start as usize..rows.end as usize));
            judge.judge(context, step, (&model, &decoder), &painted)?
        }
        None => Value::Null,
    };
    if !context.place.is_leader() {
        return Ok(Value::Null);
    }
    let mut cutter = Cutter { context, model: &model, source: &source };
    let composed = compose(&library, &decoder, &model, &recipes, 0..recipes.len());
    let composed = composed_grid(&mut cutter, &recipes, &composed)?;
    let members = library_grid(&mut cutter, &concepts)?;
    let picture = figure::save(&context.run, "compose.png", &composed)?;
    let library_picture = figure::save(&context.run, "library.png", &members)?;
    let sizes: Vec<usize> = concepts.members.iter().map(Vec::len).collect();
    Ok(json!({
        "step": step,
        "images": library.images,
        "members_per_concept": sizes,
        "composed": recipes.len(),
        "picture": picture,
        "fid": fid,
        "library_picture": library_picture,
    }))
}

/// The slots of the first images of the training split. Slot k of image i is member i * K + k.
struct Library {
    images: u64,
    /// [images * K, D].
    slots: Tensor,
    /// [images * K, out].
    conditioning: Tensor,
}

impl Library {
    /// Finds the slots of all images on all workers; every worker gets the whole library.
    fn collect(context: &mut JobContext, model: &LatentSlotDiffusion, source: &LabelledImages) -> Result<Self> {
        let config = &context.config;
        let images = source.count().min(config.evaluate.library as u64);
        let draws = Draws::new(config.run.seed);
        let [count, size] = model.slot_attention.slots_shape();
        let zeros = |channels: i64| Tensor::zeros([images as i64, count, channels], (Kind::Float, tch::Device::Cpu));
        let (slots, conditioning) = (zeros(size), zeros(config.model.slot_attention.out_size));
        let mine = share(images, context.place);
        for start in mine.clone().step_by(config.evaluate.batch) {
            let rows = start..(start + config.evaluate.batch as u64).min(mine.end);
            let batch = source.images(&rows.clone().collect::<Vec<_>>())?;
            let found = find_slots(model, draws, &batch, rows.start as usize..rows.end as usize, context.device);
            let length = (rows.end - rows.start) as i64;
            slots.narrow(0, rows.start as i64, length).copy_(&found.slots);
            conditioning.narrow(0, rows.start as i64, length).copy_(&found.conditioning);
            context.reporter.progress(rows.end - mine.start, mine.end - mine.start, "images", &[]);
        }
        // Every row is zero on all workers but one, so the sum gathers.
        context.collective.all_reduce_sum(&slots)?;
        context.collective.all_reduce_sum(&conditioning)?;
        Ok(Self { images, slots: slots.flatten(0, 1), conditioning: conditioning.flatten(0, 1) })
    }
}

/// Decodes one image u8 [H, W, 3] for each of the recipes number `rows`; a recipe is a list of members.
fn compose(
    library: &Library,
    decoder: &Decoder,
    model: &LatentSlotDiffusion,
    recipes: &[Vec<usize>],
    rows: Range<usize>,
) -> Tensor {
    let chosen: Vec<i64> = recipes[rows.clone()].iter().flatten().map(|&member| member as i64).collect();
    let chosen = library.conditioning.index_select(0, &Tensor::from_slice(&chosen));
    let size = library.conditioning.size()[1];
    decoder.decode(model, &chosen.view([rows.len() as i64, -1, size]), rows)
}

/// Cuts members of the library out of the images they come from.
struct Cutter<'a> {
    context: &'a JobContext,
    model: &'a LatentSlotDiffusion,
    source: &'a LabelledImages,
}

impl Cutter<'_> {
    /// The image of a member where its slot attends, paper elsewhere.
    fn cut(&self, member: usize) -> Result<Picture> {
        let slots = self.context.config.model.slot_attention.slots as usize;
        let (image, slot) = (member / slots, member % slots);
        let images = self.source.images(&[image as u64])?;
        let draws = Draws::new(self.context.config.run.seed);
        let found = find_slots(self.model, draws, &images, image..image + 1, self.context.device);
        let attention = enlarge(&found.attention, self.source.side());
        Ok(image_picture(&images.get(0))?.cut_out(&to_vec(&attention.get(0).get(slot as i64))?))
    }
}

/// One row per composed scene: the scene, then where its slots come from.
fn composed_grid(cutter: &mut Cutter<'_>, recipes: &[Vec<usize>], composed: &Tensor) -> Result<Picture> {
    let mut rows = Vec::new();
    for (index, recipe) in recipes.iter().enumerate() {
        let mut row = vec![image_picture(&composed.get(index as i64))?];
        for &member in recipe {
            row.push(cutter.cut(member)?);
        }
        rows.push(row);
    }
    let concepts = (1..=recipes.first().map_or(0, Vec::len)).map(|concept| format!("concept {concept}"));
    Ok(grid(&std::iter::once("composed".to_owned()).chain(concepts).collect::<Vec<_>>(), &rows))
}

/// One row per concept: members evenly spaced from the centre of the cluster to its edge.
fn library_grid(cutter: &mut Cutter<'_>, concepts: &Clusters) -> Result<Picture> {
    let mut rows = Vec::new();
    for members in &concepts.members {
        let shown = SHOWN_MEMBERS.min(members.len());
        let spaced = (0..shown).map(|k| members[k * members.len() / shown]);
        rows.push(spaced.map(|member| cutter.cut(member)).collect::<Result<_>>()?);
    }
    Ok(grid(&["centre".to_owned()], &rows))
}
