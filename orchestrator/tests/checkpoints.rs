//! `orchestrator checkpoints` on real checkpoints, written as a training writes them but for the tensors, which are made up.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use bytes::Bytes;
use common::checkpoint::{CheckpointStore, Manifest, VERSION};
use common::journal::{Event, Journal};
use common::run_dir::RunDir;
use common::storage::Store;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// Runs `a` and `b`, whose checkpoints lie in two places each.
struct Lab {
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

/// What a checkpoint holds: one weight per network and its first moment.
#[derive(Clone, Copy)]
struct Save {
    step: u64,
    weight: f32,
    figure: f64,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let lab = Self { folder, runtime };
        for run in ["a", "b"] {
            let path = lab.path(&format!("runs/{run}"));
            fs::create_dir_all(&path).unwrap();
            let config = include_str!("../../configs/quickstart.toml");
            let checkpoint = format!("[checkpoint]\nalso = [\"{}\"]\nkeep_last = 2\n", lab.path(&format!("also/{run}")));
            let table = config.find("[checkpoint]").unwrap();
            let rest = config[table..].find("\n\n").map_or("", |end| &config[table + end..]);
            fs::write(Path::new(&path).join("run.toml"), format!("{}{checkpoint}{rest}", &config[..table])).unwrap();
        }
        lab
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Commits a checkpoint of run `run` in its first place, and in both if `also`; tells the journal.
    fn save(&self, run: &str, save: Save, also: bool) {
        let places = [self.path(&format!("runs/{run}/checkpoints")), self.path(&format!("also/{run}"))];
        for place in places.iter().take(1 + usize::from(also)) {
            let store = CheckpointStore::new(Store::open(place).unwrap());
            self.runtime.block_on(async {
                let attempt = store.join(save.step, 1, save.step, None);
                let mut parts = Vec::new();
                for network in ["unetencoder", "multiheadstevesa", "unet2dconditionmodelwithpos"] {
                    // Longer than the pieces in which a part is read.
                    let values = if network == "unetencoder" { 6 << 20 } else { 3 };
                    parts.push(attempt.write_part(&format!("weights-{network}"), tensors(save.weight, values)).await.unwrap());
                }
                parts.push(attempt.write_part("exp_avg-unet", tensors(0.5, 3)).await.unwrap());
                let manifest = Manifest {
                    version: VERSION,
                    run_id: run.into(),
                    step: save.step,
                    generation: 1,
                    world: 2,
                    config_hash: "c0".repeat(32),
                    data_fingerprint: "d0".repeat(32),
                    parts,
                    extra: json!({"position": 8 * save.step}),
                    figure: Some(save.figure),
                    figure_of: common::config::BestBy::default(),
                };
                attempt.commit(&manifest).await.unwrap();
            });
        }
        let run = RunDir::new(self.path(&format!("runs/{run}")));
        let event = Event::CheckpointCommitted { step: save.step, seconds: 0.5 };
        Journal::open(&run.journal()).unwrap().append(1, event, "reported by a worker").unwrap();
    }

    /// Three checkpoints in both places, and the remains of an interrupted save.
    fn with_checkpoints() -> Self {
        let lab = Self::new();
        for (step, figure) in [(10, 0.3), (20, 0.1), (30, 0.2)] {
            lab.save("a", Save { step, weight: step as f32, figure }, true);
        }
        let store = CheckpointStore::new(Store::open(&lab.path("runs/a/checkpoints")).unwrap());
        let remains = store.begin(15, 1).unwrap();
        lab.runtime.block_on(remains.write_part("weights-unetencoder", Bytes::from_static(&[7; 2000]))).unwrap();
        lab
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        command.arg("checkpoints").args(arguments).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
    }

    fn text(&self, arguments: &[&str], code: i32) -> String {
        let output = self.ask(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains('\u{1b}'), "colours are for terminals: {text}");
        text
    }

    fn json(&self, arguments: &[&str], code: i32) -> Value {
        serde_json::from_str(&self.text(&[arguments, &["--json"]].concat(), code)).unwrap()
    }

    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{arguments:?}: {text}");
        text
    }

    /// Flips a bit in the largest part of `step` in the first place.
    fn damage(&self, step: u64) {
        let folder = self.path(&format!("runs/a/checkpoints/{step:010}/000001-{step:016x}"));
        let part = Path::new(&folder).join("weights-unetencoder.safetensors");
        let mut bytes = fs::read(&part).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(part, bytes).unwrap();
    }
}

/// A safetensors file with two tensors: `weight`, full of one value, and `bias`.
fn tensors(weight: f32, values: usize) -> Bytes {
    let weight: Vec<u8> = std::iter::repeat_n(weight, values).flat_map(f32::to_le_bytes).collect();
    let bias: Vec<u8> = [1.0_f32, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = |shape: Vec<usize>, bytes| TensorView::new(Dtype::F32, shape, bytes).unwrap();
    let tensors = HashMap::from([("weight", tensor(vec![values], &weight)), ("bias", tensor(vec![2], &bias))]);
    safetensors::serialize(&tensors, None).unwrap().into()
}

fn steps(rows: &Value) -> Vec<u64> {
    rows.as_array().unwrap().iter().map(|row| row["step"].as_u64().unwrap()).collect()
}

#[test]
fn the_list_says_what_lies_where() {
    let lab = Lab::with_checkpoints();
    lab.save("a", Save { step: 40, weight: 1.0, figure: 0.5 }, false);
    let listed = lab.json(&["list", "runs/a"], 0);
    assert_eq!(steps(&listed["checkpoints"]), [40, 30, 20, 10]);
    let newest = &listed["checkpoints"][0];
    let expected = (json!(1), json!(2), json!(0.5), json!(["url"]), json!(1));
    let found = (&newest["generation"], &newest["world"], &newest["figure"], &newest["places"], &listed["partial_attempts"]);
    assert_eq!(found, (&expected.0, &expected.1, &expected.2, &expected.3, &expected.4));
    assert_eq!(listed["checkpoints"][1]["places"], json!(["url", "also 1"]));
    assert!(newest["committed_at"].is_string() && newest["bytes"].as_u64().unwrap() > 4 * (6 << 20), "{newest}");
    assert_eq!(steps(&lab.json(&["list", "runs/a", "--all"], 0)["checkpoints"]), [40, 30, 20, 15, 10]);

    let text = lab.text(&["list", "runs/a"], 0);
    assert!(
        text.contains("25.2 MB") && text.contains("url, also 1") && text.contains("1 remainder of interrupted saves"),
        "{text}"
    );
    let partial = lab.text(&["list", "runs/a", "--all"], 0);
    assert!(partial.lines().any(|line| line.contains("15") && line.contains("2.0 kB") && line.contains("partial")), "{partial}");
    // A place without its run: no age, and everything else.
    let bare = lab.json(&["list", &format!("file://{}", lab.path("also/a"))], 0);
    assert_eq!((steps(&bare["checkpoints"]), &bare["checkpoints"][0]["committed_at"]), (vec![30, 20, 10], &Value::Null));
    assert!(lab.text(&["list", "runs/b"], 0).contains("no checkpoints in "));
}

#[test]
fn verification_reads_every_byte_of_every_place() {
    let lab = Lab::with_checkpoints();
    let found = lab.json(&["verify", "runs/a"], 0);
    assert_eq!((steps(&found["checkpoints"]), &found["damaged"]), (vec![30, 30, 20, 20, 10, 10], &json!(0)));
    lab.damage(20);
    let text = lab.text(&["verify", "runs/a"], 1);
    let damaged: Vec<&str> = text.lines().filter(|line| line.contains("damaged: ")).collect();
    assert!(
        damaged.len() == 1 && damaged[0].starts_with("step 20, generation 1 in url") && damaged[0].contains("unetencoder"),
        "{text}"
    );
    assert!(text.ends_with(": 1 damaged\n"), "{text}");
    lab.text(&["verify", "runs/a", "--step", "30"], 0);
    let found = lab.json(&["verify", "runs/a", "--step", "20"], 1);
    assert_eq!(
        found["checkpoints"].as_array().unwrap().iter().map(|row| &row["verdict"]).collect::<Vec<_>>(),
        ["damaged", "whole"]
    );
    let line = lab.refused(&["verify", "runs/a", "--step", "25"]);
    assert!(line.contains("no checkpoint of step 25") && line.contains("30, 20, 10"), "{line}");
}

#[test]
fn pruning_says_what_would_go_and_removes_that_when_told_to() {
    let lab = Lab::with_checkpoints();
    // In the first place the interrupted save goes too; everything is there twice.
    let plan = lab.json(&["prune", "runs/a"], 0);
    assert_eq!(
        (steps(&plan["goes"]), steps(&plan["stays"]), &plan["removed"]),
        (vec![15, 10, 10], vec![30, 20, 30, 20], &json!(false))
    );
    assert_eq!(steps(&lab.json(&["prune", "runs/a", "--keep-every", "10"], 0)["goes"]), [15]);
    assert_eq!(steps(&lab.json(&["prune", "runs/a", "--keep-last", "3"], 0)["goes"]), [15]);
    lab.save("a", Save { step: 40, weight: 1.0, figure: 0.5 }, true);
    assert_eq!(steps(&lab.json(&["prune", "runs/a", "--keep-best", "1"], 0)["goes"]), [15, 10, 10], "20 is the best");
    assert_eq!(steps(&lab.json(&["list", "runs/a", "--all"], 0)["checkpoints"]), [40, 30, 20, 15, 10], "nothing has gone yet");
    // The newest is damaged: one more stays in its place.
    lab.damage(40);
    let done = lab.text(&["prune", "runs/a", "--yes"], 0);
    assert!(done.contains("4 attempts, 75.5 MB: removed\n5 attempts, "), "{done}");
    assert_eq!(steps(&lab.json(&["list", "runs/a", "--all"], 0)["checkpoints"]), [40, 30, 20]);
    assert!(lab.text(&["prune", "runs/a", "--yes"], 0).starts_with("nothing to clear away in "));
    assert!(!Path::new(&lab.path("runs/a/checkpoints/0000000010")).exists());
    assert!(lab.refused_by_clap(&["prune", "runs/a", "--keep-last", "1"]).contains("--keep-last"));
}

impl Lab {
    fn refused_by_clap(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    }
}

#[test]
fn differences_are_measured_and_identity_is_said() {
    let lab = Lab::with_checkpoints();
    lab.save("b", Save { step: 30, weight: 30.0, figure: 0.2 }, false);
    let same = lab.text(&["diff", "runs/a", "runs/b@30"], 0);
    assert!(same.contains("identical: all 4 parts, bit by bit") && same.lines().any(|line| line.starts_with("run ")), "{same}");
    assert!(!same.contains("configuration"), "{same}");

    let found = lab.json(&["diff", "runs/a@20", "30"], 1);
    let facts: Vec<&Value> = found["facts"].as_array().unwrap().iter().map(|fact| &fact[0]).collect();
    assert_eq!(facts, ["step", "loss", "position"]);
    let parts = found["parts"].as_array().unwrap();
    let weights = parts.iter().find(|part| part["name"] == "weights-unetencoder").unwrap();
    let tensor = &weights["differing"][0];
    assert_eq!((&weights["tensors"], weights["differing"].as_array().unwrap().len()), (&json!(2), 1));
    assert_eq!((&tensor["name"], &tensor["shape"]), (&json!("weight"), &json!([6 << 20])));
    let distance = json!({"values": 6 << 20, "differing": 6 << 20, "max_abs": 10.0, "relative": 0.5});
    assert_eq!(tensor["distance"], distance);
    let text = lab.text(&["diff", "runs/a@20", "30"], 1);
    assert!(text.lines().any(|line| line.starts_with("exp_avg-unet") && line.ends_with("identical")), "{text}");
    assert!(text.contains("farthest apart"), "{text}");

    // Another network: what cannot be compared is named.
    let place = lab.path("other");
    let store = CheckpointStore::new(Store::open(&place).unwrap());
    lab.runtime.block_on(async {
        let attempt = store.begin(30, 1).unwrap();
        let parts = vec![
            attempt.write_part("weights-unetencoder", tensors(30.0, 4)).await.unwrap(),
            attempt.write_part("ema-unetencoder", tensors(30.0, 4)).await.unwrap(),
        ];
        let (newest, _) = CheckpointStore::new(Store::open(&lab.path("also/a")).unwrap()).newest_verified().await.unwrap();
        attempt.commit(&Manifest { parts, ..newest.unwrap() }).await.unwrap();
    });
    let text = lab.text(&["diff", "runs/a", &place], 1);
    assert!(text.contains("weights-unetencoder: weight [6291456] in a, F32 [4] in b"), "{text}");
    assert!(text.contains("parts that only b has: ema-unetencoder"), "{text}");

    // A flipped bit is damage and no difference.
    lab.damage(20);
    let output = lab.ask(&["diff", "runs/a@20", "30"]);
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && output.stdout.is_empty() && line.contains("is damaged"), "{line}");
}

#[test]
fn a_chosen_step_is_exported_and_the_newest_whole_one_otherwise() {
    let lab = Lab::with_checkpoints();
    let weight = |folder: &str| {
        let bytes = fs::read(format!("{}/unetencoder/diffusion_pytorch_model.safetensors", lab.path(folder))).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        f32::from_le_bytes(file.tensor("weight").unwrap().data()[..4].try_into().unwrap())
    };
    let done = lab.json(&["export", "runs/a", "--to", "chosen", "--step", "10"], 0);
    assert_eq!((&done["step"], weight("chosen")), (&json!(10), 10.0));
    lab.damage(30);
    lab.text(&["export", "runs/a", "--to", "newest"], 0);
    assert_eq!(weight("newest"), 30.0, "the other place has it whole");
    fs::remove_dir_all(lab.path("also/a")).unwrap();
    let text = lab.text(&["export", "runs/a", "--to", "older"], 0);
    assert!(text.starts_with("weights of step 20 in ") && weight("older") == 20.0, "{text}");

    assert!(lab.refused(&["export", "runs/a", "--to", "older"]).contains("already holds networks"));
    assert!(
        lab.refused(&["export", "runs/a", "--to", "average", "--ema", "--step", "10"]).contains("no moving average in step 10")
    );
    assert!(lab.refused(&["export", "runs/a/checkpoints", "--to", "bare"]).contains("name the run's folder"));
}

#[test]
fn what_is_no_run_and_no_checkpoint_is_answered_in_one_line() {
    let lab = Lab::new();
    for command in ["list", "verify", "prune"] {
        assert!(lab.refused(&[command, "runs/c"]).contains("runs/c holds no run"), "{command}");
        assert!(lab.refused(&[command, "ftp://x/y"]).contains("unknown scheme ftp://"), "{command}");
    }
    assert!(lab.refused(&["verify", "runs/a"]).contains("no checkpoints in "));
    assert!(lab.refused(&["diff", "runs/a", "runs/b"]).contains("no checkpoints in "));
    assert!(lab.refused(&["export", "runs/a", "--to", "x"]).contains("no checkpoints in "));
}
