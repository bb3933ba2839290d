//! From the recipes of `[edit]` to the edits that they ask for, checked against the model and against each other.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::edit::{Exchange, Recipe};
use super::error::OutOfRange;
use super::validate::require;
use super::{Config, ConfigError, EditConfig};

/// Most pictures of one interpolation: more do not fit into a grid that anyone can look at.
const MOST_STEPS: usize = 64;

/// An image to edit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EditImage {
    /// A row of the split, from 0.
    Row(u64),
    /// A file.
    File(String),
}

impl std::fmt::Display for EditImage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Row(row) => write!(formatter, "image {row}"),
            Self::File(file) => formatter.write_str(Path::new(file).file_name().unwrap_or_default().to_string_lossy().as_ref()),
        }
    }
}

/// One image and what is done to it. Slots are counted from 0 here.
#[derive(Debug, Clone, PartialEq)]
pub struct EditTask {
    /// Name of the files that come out.
    pub name: String,
    /// Where it was asked for, `edit.recipe[2]`, for messages.
    pub key: String,
    /// The image.
    pub image: EditImage,
    /// What is done to it.
    pub edit: Edit,
}

impl EditTask {
    /// The image, and the other one if there is one.
    pub fn images(&self) -> impl Iterator<Item = &EditImage> {
        let other = match &self.edit {
            Edit::Mix { with, .. } => Some(with),
            Edit::Show | Edit::Remove(_) => None,
        };
        std::iter::once(&self.image).chain(other)
    }
}

/// What can be done to the slots of an image.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// Nothing: its slots are shown.
    Show,
    /// These slots are left out.
    Remove(Vec<usize>),
    /// A slot is mixed with one of another image. No slot: the background, the one that wins most pixels.
    Mix {
        /// Slot of the image.
        slot: Option<usize>,
        /// The other image.
        with: EditImage,
        /// Slot of the other image.
        with_slot: Option<usize>,
        /// How much of the other slot there is in each of the pictures: 0 none, 1 nothing else.
        shares: Vec<f64>,
    },
}

impl Edit {
    /// Number of pictures that come out.
    #[must_use]
    pub fn pictures(&self) -> usize {
        match self {
            Self::Show => 0,
            Self::Remove(_) => 1,
            Self::Mix { shares, .. } => shares.len(),
        }
    }
}

/// Everything that `[edit]` of `config` asks for, in order; without recipes, the first `evaluate.pictures` of the `rows` images are shown.
///
/// # Errors
/// A recipe file that cannot be read or is no TOML, and the first key of a recipe that does not fit the model, the `rows` or the others.
pub fn edit_tasks(config: &Config, rows: u64) -> Result<Vec<EditTask>, ConfigError> {
    let edit = config.edit.clone().unwrap_or_default();
    let slots = config.model.slot_attention.slots;
    let mut tasks = tasks_of(&edit, slots).map_err(refused("the configuration"))?;
    if let Some(file) = &edit.recipes {
        let Recipes { recipe } = read("edit.recipes", Path::new(file))?;
        let read = listed("recipe", &recipe, edit.recipe.len(), slots).and_then(|more| {
            tasks.extend(more);
            distinct("recipe", names(&tasks))
        });
        read.map_err(refused(file))?;
    }
    if tasks.is_empty() {
        let shown = rows.min(config.evaluate.pictures as u64);
        let show = |row| EditTask { name: format!("{row:02}"), key: "edit".into(), image: EditImage::Row(row), edit: Edit::Show };
        return Ok((0..shown).map(show).collect());
    }
    let url = format!("{}/{}", config.data.latents.trim_end_matches('/'), edit.split.name());
    for task in &tasks {
        for image in task.images() {
            if let EditImage::Row(row) = image {
                row_there(&format!("{}: image", task.key), *row, rows, &url).map_err(refused("the recipes"))?;
            }
        }
    }
    Ok(tasks)
}

/// The edits of the recipes that lie in the configuration itself, for a model with `slots` slots.
pub(super) fn tasks_of(edit: &EditConfig, slots: i64) -> Result<Vec<EditTask>, OutOfRange> {
    let tasks = listed("edit.recipe", &edit.recipe, 0, slots)?;
    distinct("recipe", names(&tasks)).map(|()| tasks)
}

/// A file of recipes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipes {
    recipe: Vec<Recipe>,
}

/// The TOML file at `path`, which `key` names.
pub(super) fn read<T: DeserializeOwned>(key: &'static str, path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Recipes { key, path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map(|span| 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count());
        let place = super::Place::File { name: path.display().to_string(), line };
        ConfigError::Syntax { place, message: error.message().replace('\n', ", ") }
    })
}

/// Says that a problem lies in the file `name`.
pub(super) fn refused(name: &str) -> impl FnOnce(OutOfRange) -> ConfigError {
    let place = super::Place::File { name: name.to_owned(), line: None };
    move |problem| ConfigError::OutOfRange { place, problem }
}

/// The edits of a list of recipes under `table`, the first of which is number `first` of all.
fn listed(table: &str, recipes: &[Recipe], first: usize, slots: i64) -> Result<Vec<EditTask>, OutOfRange> {
    let mut tasks = Vec::new();
    for (index, recipe) in recipes.iter().enumerate() {
        let reader = Reader { key: format!("{table}[{index}]"), slots };
        tasks.extend(reader.tasks(recipe, first + index)?);
    }
    Ok(tasks)
}

fn names(tasks: &[EditTask]) -> impl Iterator<Item = (&str, &str)> {
    tasks.iter().map(|task| (task.key.as_str(), task.name.as_str()))
}

/// No two of these `things`, each with its key and its name, write the same files.
pub(super) fn distinct<'a>(things: &str, named: impl Iterator<Item = (&'a str, &'a str)>) -> Result<(), OutOfRange> {
    let mut names = BTreeSet::new();
    for (key, name) in named {
        require(names.insert(name), &format!("{key}.name"), format!("{name:?}"), format!("a name that no other {things} has"))?;
    }
    Ok(())
}

/// The name of what lies at `key` can be that of a file.
pub(super) fn plain_name(key: &str, name: &str) -> Result<(), OutOfRange> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_plain = !name.is_empty() && !name.starts_with('.') && name.chars().all(plain);
    require(is_plain, &format!("{key}.name"), format!("{name:?}"), "a file name of letters, digits, '-', '_' and '.'")
}

/// A row is among the `rows` of the split at `url`.
pub(super) fn row_there(key: &str, row: u64, rows: u64, url: &str) -> Result<(), OutOfRange> {
    require(row < rows, key, row, format!("less than {rows}, the images in {url}"))
}

/// A slot counted from 0, of a model with `slots`.
pub(super) fn slot_from_0(key: &str, slot: i64, slots: i64) -> Result<usize, OutOfRange> {
    let allowed = format!("from 1 to {slots}, the slots of the model (model.slot_attention.slots)");
    require((1..=slots).contains(&slot), key, slot, allowed)?;
    Ok(slot as usize - 1)
}

/// Reads one recipe.
struct Reader {
    /// Where it lies.
    key: String,
    /// Slots of the model.
    slots: i64,
}

impl Reader {
    /// The edits that the recipe number `index` asks for: two for a swap, otherwise one.
    fn tasks(&self, recipe: &Recipe, index: usize) -> Result<Vec<EditTask>, OutOfRange> {
        let key = self.key.clone();
        let image = self.image("", recipe.image, recipe.file.as_ref())?;
        let verb = self.verb(recipe)?;
        let name = recipe.name.clone().unwrap_or_else(|| format!("{index:02}-{verb}"));
        plain_name(&key, &name)?;
        if let Some(swap) = &recipe.swap {
            let (slot, other, other_slot) = self.exchange("swap", swap)?;
            let mix = |slot, with, with_slot| Edit::Mix { slot: Some(slot), with, with_slot: Some(with_slot), shares: vec![1.0] };
            let there = mix(slot, other.clone(), other_slot);
            let back = mix(other_slot, image.clone(), slot);
            return Ok(vec![
                EditTask { name: format!("{name}-1"), key: key.clone(), image, edit: there },
                EditTask { name: format!("{name}-2"), key, image: other, edit: back },
            ]);
        }
        Ok(vec![EditTask { name, key, image, edit: self.edit(recipe)? }])
    }

    /// What is asked for, if it is one thing.
    fn verb(&self, recipe: &Recipe) -> Result<&'static str, OutOfRange> {
        let given = [
            ("remove", recipe.remove.is_some()),
            ("replace", recipe.replace.is_some()),
            ("swap", recipe.swap.is_some()),
            ("background", recipe.background.is_some()),
            ("interpolate", recipe.interpolate.is_some()),
        ];
        let mut verbs = given.into_iter().filter_map(|(verb, given)| given.then_some(verb));
        let first = verbs.next().unwrap_or("show");
        match verbs.next() {
            None => Ok(first),
            Some(second) => Err(OutOfRange {
                key: format!("{}.{second}", self.key),
                value: "{ .. }".into(),
                allowed: format!("absent where there is {first}: a recipe does one thing"),
            }),
        }
    }

    fn edit(&self, recipe: &Recipe) -> Result<Edit, OutOfRange> {
        let mix = |(slot, with, with_slot), shares| Edit::Mix { slot: Some(slot), with, with_slot: Some(with_slot), shares };
        if let Some(slots) = &recipe.remove {
            return self.remove(slots);
        }
        if let Some(replace) = &recipe.replace {
            return Ok(mix(self.exchange("replace", replace)?, vec![1.0]));
        }
        if let Some(interpolate) = &recipe.interpolate {
            let steps = interpolate.steps;
            let allowed = format!("from 2 to {MOST_STEPS}");
            require((2..=MOST_STEPS).contains(&steps), &format!("{}.interpolate.steps", self.key), steps, allowed)?;
            let exchange = Exchange { slot: interpolate.slot, with: interpolate.with.clone() };
            let shares = (0..steps).map(|step| step as f64 / (steps - 1) as f64).collect();
            return Ok(mix(self.exchange("interpolate", &exchange)?, shares));
        }
        if let Some(background) = &recipe.background {
            let with = self.image(".background", background.image, background.file.as_ref())?;
            let named =
                |name: &str, slot: Option<i64>| slot.map(|slot| self.slot(&format!(".background.{name}"), slot)).transpose();
            let (slot, with_slot) = (named("instead_of", background.instead_of)?, named("slot", background.slot)?);
            return Ok(Edit::Mix { slot, with, with_slot, shares: vec![1.0] });
        }
        Ok(Edit::Show)
    }

    fn remove(&self, slots: &[i64]) -> Result<Edit, OutOfRange> {
        let removed: BTreeSet<usize> = slots.iter().map(|slot| self.slot(".remove", *slot)).collect::<Result<_, _>>()?;
        let fits = !removed.is_empty() && (removed.len() as i64) < self.slots;
        let allowed = format!("from 1 to {} of the {} slots: something has to be painted", self.slots - 1, self.slots);
        require(fits, &format!("{}.remove", self.key), format!("{slots:?}"), allowed)?;
        Ok(Edit::Remove(removed.into_iter().collect()))
    }

    /// The image's slot, the other image and its slot.
    fn exchange(&self, verb: &str, exchange: &Exchange) -> Result<(usize, EditImage, usize), OutOfRange> {
        let slot = self.slot(&format!(".{verb}.slot"), exchange.slot)?;
        let with = &exchange.with;
        let image = self.image(&format!(".{verb}.with"), with.image, with.file.as_ref())?;
        Ok((slot, image, self.slot(&format!(".{verb}.with.slot"), with.slot)?))
    }

    fn image(&self, within: &str, image: Option<u64>, file: Option<&String>) -> Result<EditImage, OutOfRange> {
        let key = &self.key;
        match (image, file) {
            (Some(row), None) => Ok(EditImage::Row(row)),
            (None, Some(file)) => Ok(EditImage::File(file.clone())),
            (None, None) => Err(OutOfRange {
                key: format!("{key}{within}.image"),
                value: "nothing".into(),
                allowed: "a row of the split edit.split, or file = \"PICTURE.png\" in its place".into(),
            }),
            (Some(_), Some(file)) => Err(OutOfRange {
                key: format!("{key}{within}.file"),
                value: format!("{file:?}"),
                allowed: "absent where there is image".into(),
            }),
        }
    }

    /// A slot from 0.
    fn slot(&self, within: &str, slot: i64) -> Result<usize, OutOfRange> {
        slot_from_0(&format!("{}{within}", self.key), slot, self.slots)
    }
}

#[cfg(test)]
#[path = "recipes_tests.rs"]
mod tests;
