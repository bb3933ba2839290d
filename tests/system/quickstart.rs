//! The experiment of `make demo`, as it is configured, and everything that the paper does with a trained model: objects found, labels read
//! off slots, concepts, composed and edited images, and the report of it all.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::run_dir::RunDir;
use serde_json::Value;

use crate::lab::Lab;
use crate::records::lines;

/// The longest job is minutes of training for two cores that have nothing else to do.
const PATIENCE: Duration = Duration::from_secs(45 * 60);

/// The quickstart in a folder of its own.
struct Quickstart {
    lab: Lab,
    run: RunDir,
}

impl Quickstart {
    fn new() -> Self {
        let lab = Lab::empty();
        let run = RunDir::new(lab.path().join("runs/quickstart"));
        Self { lab, run }
    }

    /// Runs a job to its end.
    fn job(&self, job: &str, more: &[&str]) {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/quickstart.toml");
        let launch = ["launch", "--config", config.to_str().unwrap(), "--job", job];
        let began = Instant::now();
        self.lab.start(&[&launch, more].concat()).wait(PATIENCE).expect_success();
        println!("{job}: {:.0} s", began.elapsed().as_secs_f64());
    }

    /// That these pictures were drawn: a grid of more than a few colours is no small file.
    fn expect_pictures(&self, names: &[&str]) {
        for name in names {
            let bytes = fs::read(self.run.pictures().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n") && bytes.len() > 4000, "{name}: {} bytes", bytes.len());
        }
    }
}

fn read(file: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))).unwrap()
}

fn number(document: &Value, pointer: &str) -> f64 {
    document.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number {pointer} in {document}"))
}

#[test]
fn the_quickstart_learns_and_does_what_the_paper_shows() {
    let quickstart = Quickstart::new();
    for job in ["scenes", "autoencoder", "encode", "train", "evaluate", "probe", "concepts", "compose"] {
        quickstart.job(job, &[]);
    }
    objects_are_found(&read(&quickstart.run.evaluation()));
    labels_are_read(&read(&quickstart.run.probes()));
    looks_while_training(&quickstart.run);
    let sizes = read(&quickstart.run.concepts().join("library.json"))["sizes"].clone();
    let slots: u64 = sizes.as_array().unwrap().iter().map(|size| size.as_u64().unwrap()).sum();
    assert_eq!((sizes.as_array().unwrap().len(), slots), (7, 7000), "of 1,000 images");
    quickstart.expect_pictures(&["evaluate.png", "probe.png", "library.png", "compose.png"]);

    images_are_edited(&quickstart);
    let report = quickstart.lab.start(&["report", "runs/quickstart"]).wait(PATIENCE);
    report.expect_success();
    let page = fs::read_to_string(quickstart.run.report()).unwrap();
    assert!(page.matches("data:image/png;base64,").count() >= 6, "pictures of all jobs are in the page");
}

/// By far better than the same networks before training, and than cells that never look at the image.
fn objects_are_found(figures: &Value) {
    println!("{figures:#}");
    for other in ["untrained", "position_only"] {
        for figure in ["fg_ari", "miou", "mbo"] {
            let [trained, other] = ["trained", other].map(|model| number(figures, &format!("/{model}/{figure}")));
            assert!(trained > other, "{figure} {trained}, and {other} without having learned");
        }
    }
    assert!(number(figures, "/trained/mbo") > 1.4 * number(figures, "/position_only/mbo"), "{figures}");
}

/// Better than off the slots of the untrained networks, and than by a guess. (Which way an object is turned nobody can tell of a sphere.)
fn labels_are_read(figures: &Value) {
    println!("{figures:#}");
    let labels = figures["labels"].as_array().unwrap();
    for (name, figure) in [("colour", "accuracy"), ("size", "accuracy"), ("position", "r2")] {
        let label = labels.iter().find(|label| label["name"] == name).unwrap_or_else(|| panic!("no {name} in {figures}"));
        let [trained, untrained, constant] =
            ["trained", "untrained", "constant"].map(|model| number(label, &format!("/{model}/{figure}")));
        assert!(trained > untrained && trained > constant, "{label}");
    }
}

/// Held-out images were looked at, and the last look saw more than the first.
fn looks_while_training(run: &RunDir) {
    let records = lines(&run.metrics());
    let mbo: Vec<f64> = records.iter().filter_map(|record| record["evaluation/mbo"].as_f64()).collect();
    assert!(mbo.len() >= 4 && mbo[mbo.len() - 1] > mbo[0], "{mbo:?}");
    assert!(run.training_picture(1200).is_file());
}

/// Removing a slot changes the image where the slot was, and hardly elsewhere.
fn images_are_edited(quickstart: &Quickstart) {
    let recipes = "edit.recipe=[{ name = \"less\", image = 3, remove = [2] }, { name = \"swapped\", image = 3, swap = { slot = 2, with = \
                   { image = 5, slot = 1 } } }, { name = \"elsewhere\", image = 3, background = { image = 0 } }]";
    quickstart.job("edit", &["--set", recipes]);
    quickstart.expect_pictures(&["edit.png", "edits/less.png"]);
    println!("{:#}", read(&quickstart.run.edits()));
}
