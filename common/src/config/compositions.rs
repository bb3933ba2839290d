//! From the scenes of `[compose]` to what each is made of, checked against the model and against each other.

use std::path::Path;

use serde::Deserialize;

use super::concepts::{ComposeConfig, SceneRecipe};
use super::error::OutOfRange;
use super::recipes::{distinct, plain_name, read, refused, row_there, slot_from_0};
use super::validate::require;
use super::{Config, ConfigError};

/// A scene to compose. Slots and concepts are counted from 0 here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComposeTask {
    /// Name of the file that comes out.
    pub name: String,
    /// Where it was asked for, `compose.scene[2]`, for messages.
    pub key: String,
    /// Decides the members of the concepts and the noise of the picture.
    pub seed: u64,
    /// Slots of images: row of the split, and slot.
    pub slots: Vec<(u64, usize)>,
    /// Concepts of which a random member is taken.
    pub concepts: Vec<usize>,
}

impl Config {
    /// Number of concepts in the library.
    #[must_use]
    pub fn concept_count(&self) -> usize {
        self.concepts.count.unwrap_or(self.model.slot_attention.slots.unsigned_abs() as usize)
    }
}

/// Everything that `[compose]` of `config` asks for, in order; without scenes, `evaluate.pictures` of one slot per concept. `rows` is the
/// number of images in the split `compose.split`.
///
/// # Errors
/// A file of scenes that cannot be read or is no TOML, and the first key of a scene that does not fit the model, the `rows` or the others.
pub fn compose_tasks(config: &Config, rows: u64) -> Result<Vec<ComposeTask>, ConfigError> {
    let compose = config.compose.clone().unwrap_or_default();
    let mut tasks = tasks_of(config, &compose).map_err(refused("the configuration"))?;
    if let Some(file) = &compose.scenes {
        let Scenes { scene } = read("compose.scenes", Path::new(file))?;
        let read = listed("scene", &scene, compose.scene.len(), config).and_then(|more| {
            tasks.extend(more);
            distinct("scene", tasks.iter().map(|task| (task.key.as_str(), task.name.as_str())))
        });
        read.map_err(refused(file))?;
    }
    if tasks.is_empty() {
        let scenes = vec![SceneRecipe::default(); config.evaluate.pictures];
        tasks = listed("compose.scene", &scenes, 0, config).map_err(refused("the configuration, by default"))?;
    }
    let url = format!("{}/{}", config.data.latents.trim_end_matches('/'), compose.split.name());
    for task in &tasks {
        for (image, _) in &task.slots {
            row_there(&format!("{}.slots: image", task.key), *image, rows, &url).map_err(refused("the scenes"))?;
        }
    }
    Ok(tasks)
}

/// A file of scenes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenes {
    scene: Vec<SceneRecipe>,
}

/// The scenes that lie in the configuration itself.
pub(super) fn tasks_of(config: &Config, compose: &ComposeConfig) -> Result<Vec<ComposeTask>, OutOfRange> {
    let tasks = listed("compose.scene", &compose.scene, 0, config)?;
    distinct("scene", tasks.iter().map(|task| (task.key.as_str(), task.name.as_str()))).map(|()| tasks)
}

/// The scenes of a list under `table`, the first of which is number `first` of all.
fn listed(table: &str, scenes: &[SceneRecipe], first: usize, config: &Config) -> Result<Vec<ComposeTask>, OutOfRange> {
    let task = |(index, scene)| task(format!("{table}[{index}]"), scene, first + index, config);
    scenes.iter().enumerate().map(task).collect()
}

fn task(key: String, scene: &SceneRecipe, index: usize, config: &Config) -> Result<ComposeTask, OutOfRange> {
    let name = scene.name.clone().unwrap_or_else(|| format!("{index:02}"));
    plain_name(&key, &name)?;
    let seed = scene.seed.unwrap_or(index as u64);
    require(seed <= i64::MAX as u64, &format!("{key}.seed"), seed, "2^63 - 1 or less")?;
    let (most, count) = (config.model.slot_attention.slots, config.concept_count());
    let mut slots = Vec::new();
    for named in scene.slots.iter().flatten() {
        slots.push((named.image, slot_from_0(&format!("{key}.slots: slot"), named.slot, most)?));
    }
    let concepts = match (&scene.concepts, &scene.slots) {
        (None, None) => (0..count).collect(),
        (named, _) => named.iter().flatten().map(|&number| concept(&key, number, count)).collect::<Result<Vec<_>, _>>()?,
    };
    let taken = slots.len() + concepts.len();
    let allowed = format!("from 1 to {most} of concepts and slots together, as many as the model has slots");
    require((1..=most).contains(&(taken as i64)), &key, format!("{taken} slots"), allowed)?;
    Ok(ComposeTask { name, key, seed, slots, concepts })
}

/// A concept from 0.
fn concept(key: &str, number: i64, count: usize) -> Result<usize, OutOfRange> {
    let allowed = format!("from 1 to {count}, the concepts of the library (concepts.count)");
    require((1..=count as i64).contains(&number), &format!("{key}.concepts"), number, allowed)?;
    Ok(number as usize - 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::load::from_str;

    fn tasks(overrides: &[&str]) -> Result<Vec<ComposeTask>, String> {
        let overrides: Vec<String> = ["model.slot_attention.slots=3"].iter().chain(overrides).map(ToString::to_string).collect();
        let config = from_str(include_str!("fixture.toml"), "fixture.toml", &overrides).map_err(|error| error.to_string())?;
        compose_tasks(&config, 9).map_err(|error| error.to_string())
    }

    #[test]
    fn scenes_are_made_of_what_they_name_and_else_of_every_concept() {
        let scene = |name: &str, seed, slots: &[(u64, usize)], concepts: &[usize]| {
            (name.to_owned(), seed, slots.to_vec(), concepts.to_vec())
        };
        let read = |overrides: &[&str]| {
            let tasks = tasks(overrides).unwrap();
            tasks.into_iter().map(|task| (task.name, task.seed, task.slots, task.concepts)).collect::<Vec<_>>()
        };
        assert_eq!(read(&["evaluate.pictures=2"]), [scene("00", 0, &[], &[0, 1, 2]), scene("01", 1, &[], &[0, 1, 2])]);
        let mixed = "compose.scene=[{ seed = 7 }, { concepts = [1, 1] }, { name = 'mine', slots = [{ image = 8, slot = 3 }], \
                     concepts = [2] }, { slots = [{ image = 0, slot = 1 }] }]";
        assert_eq!(
            read(&[mixed]),
            [
                scene("00", 7, &[], &[0, 1, 2]),
                scene("01", 1, &[], &[0, 0]),
                scene("mine", 2, &[(8, 2)], &[1]),
                scene("03", 3, &[(0, 0)], &[])
            ]
        );
        assert_eq!(read(&["concepts.count=2", "evaluate.pictures=1"]), [scene("00", 0, &[], &[0, 1])]);
    }

    #[test]
    fn what_a_scene_cannot_be_is_named_in_one_line() {
        for (scene, expected) in [
            ("{ concepts = [4] }", "compose.scene[0].concepts = 4 is out of range: from 1 to 3, the concepts of the library"),
            ("{ seed = 1 }, { concepts = [0] }", "compose.scene[1].concepts = 0 is out of range"),
            ("{ concepts = [1, 1, 2, 3] }", "compose.scene[0] = 4 slots is out of range: from 1 to 3 of concepts and slots"),
            ("{ concepts = [] }", "compose.scene[0] = 0 slots is out of range"),
            ("{ slots = [{ image = 1, slot = 4 }] }", "compose.scene[0].slots: slot = 4 is out of range: from 1 to 3"),
            (
                "{ slots = [{ image = 9, slot = 1 }] }",
                "compose.scene[0].slots: image = 9 is out of range: less than 9, the images in",
            ),
            ("{ name = '../x' }", "compose.scene[0].name = \"../x\" is out of range: a file name"),
            ("{ name = 'x' }, { name = 'x' }", "compose.scene[1].name = \"x\" is out of range: a name that no other scene has"),
            ("{ concept = [1] }", "compose.scene[0]"),
        ] {
            let error = tasks(&[&format!("compose.scene=[{scene}]")]).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{scene}: {error}");
        }
        let error = tasks(&["concepts.count=5"]).unwrap_err();
        assert!(error.contains("compose.scene[0] = 5 slots") && error.contains("by default"), "{error}");
        let error = tasks(&["compose.scenes=absent.toml"]).unwrap_err();
        assert!(error.contains("compose.scenes: cannot read absent.toml"), "{error}");
    }

    #[test]
    fn a_file_adds_scenes_to_those_of_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("scenes.toml");
        std::fs::write(&file, "[[scene]]\nconcepts = [3]\n\n[[scene]]\nname = 'last'\n").unwrap();
        let place = format!("compose.scenes=\"{}\"", file.display());
        let all = tasks(&[&place, "compose.scene=[{ concepts = [1] }]"]).unwrap();
        let names: Vec<(&str, u64)> = all.iter().map(|task| (task.name.as_str(), task.seed)).collect();
        assert_eq!(names, [("00", 0), ("01", 1), ("last", 2)]);
        std::fs::write(&file, "[[scene]]\nconcept = [3]\n").unwrap();
        let error = tasks(&[&place]).unwrap_err();
        assert!(error.contains("scenes.toml:2") && error.contains("concept"), "{error}");
    }
}
