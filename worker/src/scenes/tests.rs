//! What the data set promises: the same bytes for ever, exact masks, true attributes.

use super::*;
use proptest::prelude::*;

fn options(textured: bool) -> SceneOptions {
    SceneOptions { min_objects: 3, max_objects: 6, textured, seed: 7 }
}

/// FNV-1a over everything a rendering holds.
fn digest(rendering: &Rendering) -> u64 {
    let attributes = rendering.attributes.iter().flat_map(|value| value.to_le_bytes());
    let bytes = rendering.image.iter().copied().chain(rendering.mask.iter().copied()).chain(attributes);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A data set that was written once must be drawn the same by every later version: these digests only change with the format.
#[test]
fn scenes_are_the_same_for_ever() {
    let digests = [
        digest(&draw(&options(false), Split::Train, 0, 64)),
        digest(&draw(&options(false), Split::Validation, 0, 64)),
        digest(&draw(&options(true), Split::Train, 1, 48)),
    ];
    assert_eq!(digests.map(|digest| format!("{digest:016x}")), ["d71c41abe84c4938", "5c3889dfdbc9213a", "93bd98bb9d7abab0"]);
}

#[test]
fn a_full_room_can_be_furnished() {
    let options = SceneOptions { min_objects: MAX_OBJECTS, max_objects: MAX_OBJECTS, ..options(false) };
    assert_eq!(Scene::sample(&options, Split::Train, 0).objects.len(), MAX_OBJECTS);
}

/// The mask of `scene` with only object `k` in the room.
fn alone(scene: &Scene, k: usize, resolution: usize) -> Vec<u8> {
    render::mask(&Scene { objects: vec![scene.objects[k].clone()], ..scene.clone() }, resolution)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_room_is_the_same_at_every_resolution_and_shows_every_object(index: u64, resolution in MIN_RESOLUTION..80) {
        let scene = Scene::sample(&options(false), Split::Train, index);
        let mask = render::mask(&scene, resolution);
        let mut ids = mask.clone();
        ids.sort_unstable();
        ids.dedup();
        prop_assert_eq!(ids, (0..=scene.objects.len() as u8).collect::<Vec<_>>());
        // Pixel centres of one grid are pixel centres of the grid three times as fine.
        let fine = render::mask(&scene, 3 * resolution);
        let at = |x: usize, y: usize| fine[(3 * y + 1) * 3 * resolution + 3 * x + 1];
        let differing = (0..mask.len()).filter(|p| mask[*p] != at(p % resolution, p / resolution)).count();
        prop_assert!(differing <= 2, "{differing} pixel centres differ beyond rounding");
    }

    #[test]
    fn masks_show_the_nearest_object_and_nothing_else(index: u64) {
        let scene = Scene::sample(&options(false), Split::Validation, index);
        let mask = render::mask(&scene, 64);
        let alone: Vec<Vec<u8>> = (0..scene.objects.len()).map(|k| alone(&scene, k, 64)).collect();
        for (pixel, &id) in mask.iter().enumerate() {
            let covering = alone.iter().filter(|mask| mask[pixel] == 1).count();
            prop_assert_eq!(id == 0, covering == 0, "pixel {}", pixel);
            prop_assert!(id == 0 || alone[usize::from(id) - 1][pixel] == 1, "pixel {} shows {}, which is not there", pixel, id);
        }
    }

    #[test]
    fn attributes_tell_the_truth(index: u64, textured: bool) {
        let options = options(textured);
        let scene = Scene::sample(&options, Split::Train, index);
        let rendering = draw(&options, Split::Train, index, 64);
        for (k, row) in rendering.attributes.chunks_exact(ATTRIBUTES).enumerate() {
            let Some(object) = scene.objects.get(k) else {
                prop_assert!(row.iter().all(|&value| value == -1.0));
                continue;
            };
            let visible = rendering.mask.iter().filter(|&&id| usize::from(id) == k + 1).count();
            prop_assert_eq!(row[7], visible as f32);
            // The middle of an object at (x, y) lies on it in the picture, unless something hides it or it is out of view.
            let half = object.solid.half;
            let place = scene.camera.project(glam::Vec3::new(row[4], row[5], half)) * 64.0;
            let covered = alone(&scene, k, 64);
            let pixel = |mask: &[u8]| mask[place.y as usize * 64 + place.x as usize];
            if place.cmpge(glam::Vec2::ZERO).all() && place.cmplt(glam::Vec2::splat(64.0)).all() {
                prop_assert_eq!(pixel(&covered), 1, "object {} is not at {}", k, place);
                prop_assert!(pixel(&rendering.mask) != 0);
            }
        }
    }

    #[test]
    fn objects_stand_apart_on_the_ground(index: u64) {
        let scene = Scene::sample(&options(false), Split::Train, index);
        for (k, a) in scene.objects.iter().enumerate() {
            prop_assert_eq!(a.solid.centre.z, a.solid.half);
            for b in &scene.objects[..k] {
                let apart = a.solid.centre.truncate().distance(b.solid.centre.truncate());
                prop_assert!(apart > a.solid.footprint_radius() + b.solid.footprint_radius());
            }
        }
    }
}

/// Shape, colour, material and size are drawn evenly: no class is rarer than it should be.
#[test]
fn every_class_is_as_frequent_as_it_should_be() {
    let rows: Vec<[usize; 4]> = (0..150)
        .flat_map(|index| Scene::sample(&options(false), Split::Train, index).objects)
        .map(|object| [object.solid.shape as usize, object.colour, object.surface.code(), object.size as usize])
        .collect();
    for (attribute, classes) in [3, 8, 2, 2].into_iter().enumerate() {
        for class in 0..classes {
            let share = rows.iter().filter(|row| row[attribute] == class).count() as f64 / rows.len() as f64;
            assert!(
                (share * classes as f64 - 1.0).abs() < 0.35,
                "attribute {attribute}, class {class}: {share:.3} of {}",
                rows.len()
            );
        }
    }
}
