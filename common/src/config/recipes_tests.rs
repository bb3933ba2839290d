//! Recipes that can be followed, and wrong ones, each of which is answered in one line.

use super::*;
use crate::config::load::from_str;

fn config(overrides: &[&str]) -> Result<Config, String> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    from_str(include_str!("fixture.toml"), "fixture.toml", &overrides).map_err(|error| error.to_string())
}

fn tasks(recipes: &str) -> Result<Vec<EditTask>, String> {
    let config = config(&["model.slot_attention.slots=7", &format!("edit.recipe=[{recipes}]")])?;
    edit_tasks(&config, 9).map_err(|error| error.to_string())
}

#[test]
fn every_kind_of_recipe_is_read_with_slots_counted_from_0() {
    let all = tasks(
        "{ image = 8, remove = [2, 2, 1] }, { image = 0, replace = { slot = 7, with = { file = 'a.png', slot = 1 } } }, \
         { name = 'both', file = 'b/c.png', swap = { slot = 3, with = { image = 5, slot = 4 } } }, \
         { image = 1, background = { image = 2, instead_of = 1 } }, \
         { image = 1, interpolate = { slot = 1, with = { image = 2, slot = 2 }, steps = 3 } }, { image = 3 }",
    );
    let all = all.unwrap();
    let names: Vec<&str> = all.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["00-remove", "01-replace", "both-1", "both-2", "03-background", "04-interpolate", "05-show"]);
    let (row, file) = (EditImage::Row, |name: &str| EditImage::File(name.into()));
    let mix = |slot, with, with_slot, shares: &[f64]| Edit::Mix { slot, with, with_slot, shares: shares.to_vec() };
    assert_eq!((&all[0].image, &all[0].edit), (&row(8), &Edit::Remove(vec![0, 1])));
    assert_eq!(all[1].edit, mix(Some(6), file("a.png"), Some(0), &[1.0]));
    assert_eq!((&all[2].image, &all[2].edit), (&file("b/c.png"), &mix(Some(2), row(5), Some(3), &[1.0])));
    assert_eq!((&all[3].image, &all[3].edit), (&row(5), &mix(Some(3), file("b/c.png"), Some(2), &[1.0])));
    assert_eq!(all[4].edit, mix(Some(0), row(2), None, &[1.0]));
    assert_eq!(all[5].edit, mix(Some(0), row(2), Some(1), &[0.0, 0.5, 1.0]));
    assert_eq!((&all[6].edit, all[2].image.to_string()), (&Edit::Show, "c.png".to_owned()));
}

#[test]
fn what_a_recipe_cannot_mean_is_named_in_one_line() {
    for (recipe, expected) in [
        ("{ image = 1, remove = [8] }", "edit.recipe[0].remove = 8 is out of range: from 1 to 7, the slots of the model"),
        ("{ image = 1, remove = [0] }", "edit.recipe[0].remove = 0 is out of range"),
        ("{ image = 1, remove = [] }", "edit.recipe[0].remove = [] is out of range: from 1 to 6 of the 7 slots"),
        ("{ image = 1, remove = [1, 2, 3, 4, 5, 6, 7] }", "edit.recipe[0].remove = [1, 2, 3, 4, 5, 6, 7] is out of range"),
        (
            "{ image = 1, swap = { slot = 1, with = { image = 1, slot = -1 } } }",
            "edit.recipe[0].swap.with.slot = -1 is out of range",
        ),
        (
            "{ image = 1, replace = { slot = 1, with = { slot = 1 } } }",
            "edit.recipe[0].replace.with.image = nothing is out of range",
        ),
        ("{ image = 1, background = { image = 2, slot = 9 } }", "edit.recipe[0].background.slot = 9 is out of range"),
        ("{ image = 1 }, { remove = [1] }", "edit.recipe[1].image = nothing is out of range: a row of the split"),
        ("{ image = 1, file = 'a.png' }", "edit.recipe[0].file = \"a.png\" is out of range: absent where there is image"),
        ("{ image = 1, name = '../x' }", "edit.recipe[0].name = \"../x\" is out of range: a file name"),
        (
            "{ image = 1, name = 'x' }, { image = 2, name = 'x' }",
            "edit.recipe[1].name = \"x\" is out of range: a name that no other",
        ),
        (
            "{ image = 1, remove = [1], background = { image = 2 } }",
            "edit.recipe[0].background = { .. } is out of range: absent where there is remove: a recipe does one thing",
        ),
        (
            "{ image = 1, interpolate = { slot = 1, with = { image = 2, slot = 1 }, steps = 1 } }",
            "edit.recipe[0].interpolate.steps = 1 is out of range: from 2 to 64",
        ),
        ("{ image = 9 }", "edit.recipe[0]: image = 9 is out of range: less than 9, the images in"),
        ("{ image = 1, background = { image = 10 } }", "edit.recipe[0]: image = 10 is out of range"),
        ("{ image = 1, removed = [1] }", "edit.recipe[0].removed in --set"),
    ] {
        let message = tasks(recipe).unwrap_err();
        assert!(message.starts_with(expected) && !message.contains('\n'), "{recipe}: {message}");
    }
}

#[test]
fn a_file_of_recipes_comes_after_those_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("edits.toml");
    let edits = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let own = "edit.recipe=[{ image = 1, remove = [1] }]";
        let config = config(&[own, &format!("edit.recipes={}", file.display())]).unwrap();
        edit_tasks(&config, 9).map_err(|error| error.to_string())
    };
    let names = |tasks: Vec<EditTask>| tasks.into_iter().map(|task| task.name).collect::<Vec<_>>();
    assert_eq!(edits("[[recipe]]\nimage = 2\nremove = [2]\n").map(names).unwrap(), ["00-remove", "01-remove"]);
    let said = edits("[[recipe]]\nimage = 2\nremove = [200]\n").unwrap_err();
    assert!(said.starts_with("recipe[0].remove = 200 is out of range") && said.contains("edits.toml"), "{said}");
    let said = edits("[[recipe]]\nimage = 2\nremoved = [2]\n").unwrap_err();
    assert!(said.contains("edits.toml:3") && said.contains("removed") && !said.contains('\n'), "{said}");
    std::fs::remove_file(&file).unwrap();
    let config = config(&[&format!("edit.recipes={}", file.display())]).unwrap();
    let said = edit_tasks(&config, 9).unwrap_err().to_string();
    assert!(said.starts_with("edit.recipes: cannot read") && said.contains("edits.toml"), "{said}");
}

#[test]
fn without_recipes_the_first_images_are_shown() {
    let config = config(&["evaluate.pictures=3"]).unwrap();
    let rows = |rows| edit_tasks(&config, rows).unwrap().into_iter().map(|task| (task.image, task.edit)).collect::<Vec<_>>();
    assert_eq!(rows(9), [0, 1, 2].map(|row| (EditImage::Row(row), Edit::Show)));
    assert_eq!(rows(1).len(), 1);
}
