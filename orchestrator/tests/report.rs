//! `orchestrator report` on run folders as a cluster leaves them, and the page in a real browser.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use common::control::{Evaluation, FailureKind};
use common::job::Job;
use common::journal::{Entry, Event, Revisions};
use common::run_dir::RunDir;
use serde_json::{Value, json};

/// A colour that nothing of the page has but the picture.
const PICTURE: [u8; 3] = [255, 0, 255];
/// The first curve of a chart, on light paper.
const CURVE: [u8; 3] = [0x0b, 0x62, 0xc4];

/// A folder of runs, told with times relative to now.
struct Lab {
    folder: tempfile::TempDir,
    now: SystemTime,
}

impl Lab {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), now: SystemTime::now() }
    }

    fn run(&self, name: &str) -> RunDir {
        let run = RunDir::new(self.folder.path().join("runs").join(name));
        fs::create_dir_all(run.path()).unwrap();
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/quickstart.toml");
        fs::copy(config, run.run_toml()).unwrap();
        run
    }

    /// Adds entries: seconds ago, generation, what happened, why.
    fn journal(&self, run: &RunDir, events: Vec<(f64, u64, Event, &str)>) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(run.journal()).unwrap();
        for (ago, generation, event, reason) in events {
            let time = humantime::format_rfc3339_micros(self.now - Duration::from_secs_f64(ago)).to_string();
            writeln!(file, "{}", serde_json::to_string(&Entry { time, generation, event, reason: reason.into() }).unwrap())
                .unwrap();
        }
    }

    /// One record a second up to now.
    fn metrics(&self, run: &RunDir, steps: u64) {
        let now = self.now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        let mut file = fs::File::create(run.metrics()).unwrap();
        for step in 1..=steps {
            let loss = 2.0 / (step as f64).sqrt() + 0.05 * (step as f64).sin().abs();
            let record = json!({"step": step, "generation": 1, "time": now - (steps - step) as f64, "seconds": 1.0, "loss": loss,
                "grad_norm": 1.0 + 0.1 * (step as f64).cos(), "images_per_second": 320.0, "learning_rate/unet": 1e-4,
                "learning_rate/backbone": 2e-5, "learning_rate/slot_attention": 5e-5});
            writeln!(file, "{record}").unwrap();
            if step % 50 == 0 {
                let found = 0.7 - 20.0 / (step + 50) as f64;
                let figures = json!({"step": step, "generation": 1, "time": now - (steps - step) as f64, "evaluation/seconds": 0.5,
                    "evaluation/loss": 1.2 * loss, "evaluation/fg_ari": found, "evaluation/miou": found - 0.2,
                    "evaluation/mbo": found - 0.15, "evaluation/active_slots": 5.5, "evaluation/largest_slot": 0.4,
                    "evaluation/slot_similarity": 0.1, "evaluation/slot_usage_entropy": 0.9, "evaluation/attention_entropy": 0.2});
                writeln!(file, "{figures}").unwrap();
            }
        }
    }

    fn evaluated(run: &RunDir) {
        let figures = |fg_ari: f64| json!({"fg_ari": fg_ari, "miou": 0.5, "mbo": 0.51, "images": 200, "objects": 812});
        let report = json!({"step": 400, "trained": figures(0.6712), "untrained": figures(0.39), "position_only": figures(0.57),
            "picture": "evaluate.png"});
        fs::write(run.evaluation(), report.to_string()).unwrap();
        fs::create_dir(run.pictures()).unwrap();
        fs::write(run.pictures().join("evaluate.png"), png(&PICTURE.repeat(120 * 80), 120)).unwrap();
        fs::create_dir(run.training_pictures()).unwrap();
        [50, 400].iter().for_each(|step| fs::write(run.training_picture(*step), png(&[9; 3 * 16], 4)).unwrap());
    }

    fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        command.args(arguments).current_dir(self.folder.path()).env("PATH", self.folder.path());
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// What the report says is in it, and the page.
    fn report(&self, run: &RunDir) -> (Value, String) {
        let output = self.command(&["report", &run.path().display().to_string(), "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let inventory: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(inventory["path"], json!(run.path().join("report.html")));
        let page = fs::read_to_string(run.path().join("report.html")).unwrap();
        assert_eq!(inventory["bytes"], json!(page.len()));
        (inventory, page)
    }
}

fn png(rgb: &[u8], width: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, u32::try_from(rgb.len()).unwrap() / 3 / width);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(rgb).unwrap();
    bytes
}

fn launched(host: &str) -> Event {
    let revision = |name: &str| Some(format!("{name}123456"));
    let revisions = Revisions { orchestrator: revision("aaaaaa"), worker: revision("bbbbbb"), config: revision("cccccc") };
    let slurm_job = Some("4711".into());
    Event::Launched { job: Job::Train, world: 2, version: "0.1.0".into(), slurm_job, host: host.into(), revisions }
}

fn begun(hosts: &[&str]) -> Event {
    Event::GenerationStarted { world: 2, hosts: hosts.iter().map(ToString::to_string).collect() }
}

/// Trained for 400 s, with a rank out of memory at step 190 and a restart from step 100.
fn story(lab: &Lab, run: &RunDir, host: &str, log: &str) {
    let killed = Event::Failed {
        rank: Some(1),
        host: Some(host.into()),
        step: 190,
        kind: Some(FailureKind::OutOfMemory),
        log: vec![log.into()],
    };
    lab.journal(run, vec![(420.0, 1, launched(host), ""), (420.0, 1, begun(&[host]), "first")]);
    lab.journal(run, vec![(400.0, 1, Event::FirstStep { step: 1 }, "")]);
    lab.journal(run, vec![(300.0, 1, Event::CheckpointCommitted { step: 100, seconds: 3.0 }, "")]);
    lab.journal(run, vec![(210.0, 1, killed, "killed by signal 9 (SIGKILL)"), (208.0, 2, begun(&[host]), "restart 1 of 2")]);
    lab.journal(run, vec![(200.0, 2, Event::FirstStep { step: 101 }, "")]);
    let figures = [("fg_ari".to_owned(), 0.61), ("active_slots".to_owned(), 1.0)].into();
    let why = "one slot wins 97.0 % of the pixels of an image";
    let evaluation = Evaluation { step: 400, figures, collapse: Some(why.into()) };
    lab.journal(run, vec![(1.0, 2, Event::Evaluated(evaluation), ""), (1.0, 2, Event::SlotsCollapsed { step: 400 }, why)]);
    lab.metrics(run, 400);
}

fn contains(page: &str, all: &[&str]) {
    for words in all {
        assert!(page.contains(words), "{words} is not in {page}");
    }
}

#[test]
fn a_finished_run_is_told_in_full_and_again_in_place() {
    let lab = Lab::new();
    let run = lab.run("a");
    story(&lab, &run, "n000", "last words");
    lab.journal(&run, vec![(0.0, 2, Event::Finished, "all steps done")]);
    Lab::evaluated(&run);
    fs::write(run.pictures().join("notes.txt"), "no picture").unwrap();
    fs::write(run.report(), "the report before").unwrap();
    let (inventory, page) = lab.report(&run);
    contains(&inventory["heading"].to_string(), &["finished", "generation 2"]);
    assert_eq!((&inventory["failures"], &inventory["goodput"], &inventory["figures"]), (&json!(1), &json!(true), &json!(true)));
    assert_eq!(
        (&inventory["pictures"], &inventory["points"]["Loss"]),
        (&json!(["evaluate.png", "step-00000400.png"]), &json!(400))
    );
    assert_eq!(inventory["pictures_left_out"][0]["name"], json!("notes.txt"));
    let evaluated = ["Objects found", "Held-out loss", "Active slots", "Slots"].map(|chart| inventory["points"][chart].clone());
    assert_eq!(evaluated, [24, 8, 8, 32].map(|points| json!(points)));
    contains(
        &page,
        &[
            "<dt>seed</dt><dd>1</dd>",
            "<th scope=\"row\">position only</th><td>0.570</td>",
            "rank 1 on n000: out of memory: killed by signal 9",
            "restarted as generation 2 from step 100",
            "<title>generation 2: first step 101",
            "last words",
            "with hosts was useful",
            "<code>model.slot_attention.slots</code></th><td><code>7</code>",
            "alt=\"evaluate.png: held-out scenes",
            "notes.txt: not a PNG",
            "<dt>held out</dt><dd>step 400: FG-ARI 0.610, active slots 1.000</dd>",
            "after step 400 the slots look collapsed: one slot wins 97.0 %",
            "mIoU from 0.3 at step 50",
            "<dt>worker</dt><dd>0.1.0, git bbbbbb123456</dd>",
            "<dt>configuration</dt><dd>git cccccc123456</dd>",
        ],
    );
    assert!(!page.contains("cannot be"), "{page}");
    let elsewhere = lab.folder.path().join("page.html");
    let output = lab.command(&["report", "runs/a", "--to", "page.html"]);
    let words = String::from_utf8(output.stdout).unwrap();
    assert!(
        words.starts_with("page.html: finished") && words.ends_with("15 curves, 2 pictures, 1 picture left out, 1 failure\n"),
        "{words}"
    );
    assert!(elsewhere.is_file());
    let names = fs::read_dir(run.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().ends_with("tmp"));
    assert_eq!(names.count(), 0);
}

#[test]
fn a_run_that_has_not_come_far_is_told_as_far_as_it_has() {
    let lab = Lab::new();
    let run = lab.run("new");
    let (inventory, page) = lab.report(&run);
    assert_eq!((&inventory["heading"], &inventory["points"]["Loss"]), (&json!("never launched"), &json!(0)));
    contains(
        &page,
        &["not launched yet", "no records yet", "Not evaluated yet", "None yet", "no time to account for", "Nothing has failed"],
    );

    lab.journal(&run, vec![(500.0, 0, Event::Submitted { slurm_job: "4711".into() }, "sbatch")]);
    contains(&lab.report(&run).1, &["train: queued as Slurm job 4711", "waiting for Slurm"]);

    lab.journal(
        &run,
        vec![(5.0, 1, launched("n000"), ""), (4.0, 1, begun(&["n000"]), ""), (3.0, 1, Event::FirstStep { step: 1 }, "")],
    );
    lab.metrics(&run, 2);
    contains(&lab.report(&run).1, &["train: starting, generation 1", "<polyline"]);
    fs::write(run.run_toml(), "[run]\nname = 7\n").unwrap();
    fs::write(run.evaluation(), "{").unwrap();
    contains(&lab.report(&run).1, &["The configuration cannot be understood", "The figures cannot be read", "name = 7"]);

    let output = lab.command(&["report", "runs"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{text}");
}

#[test]
fn a_long_run_makes_a_page_that_is_not_larger() {
    let lab = Lab::new();
    let run = lab.run("long");
    lab.journal(&run, vec![(90_000.0, 1, launched("n000"), ""), (90_000.0, 1, begun(&["n000"]), "")]);
    lab.metrics(&run, 80_000);
    let (inventory, page) = lab.report(&run);
    assert!(inventory["points"]["Loss"].as_u64().unwrap() > 1000);
    assert!(page.len() < 400_000, "{}", page.len());
}

/// What a browser makes of a page.
struct Seen {
    dom: String,
    /// What it complains of in its console: also of anything to fetch or run, which the page's policy forbids.
    console: Vec<String>,
    /// The picture of the page, as RGB, and its width.
    pixels: Vec<[u8; 3]>,
}

/// Debian's chromium, or another of the family. Nothing where there is none: then `test` is to return, and counts as skipped.
fn browser(test: &str) -> Option<PathBuf> {
    let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    });
    if found.is_none() {
        // Past the capture of test output, for the summary of `make test`.
        let line = format!("skipped report::{test}: it needs chromium\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    found.map(PathBuf::from)
}

fn look(browser: &Path, page: &Path, profile: &Path) -> Seen {
    let url = format!("file://{}", page.display()).replace('<', "%3C").replace('>', "%3E");
    let screenshot = profile.join("page.png");
    let ask = |what: &str| {
        let mut command = Command::new("timeout");
        command.arg("180").arg(browser).args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        command.args([
            "--hide-scrollbars",
            "--window-size=1200,3000",
            "--enable-logging=stderr",
            "--disable-background-networking",
        ]);
        command.args(["--host-resolver-rules=MAP * ~NOTFOUND", &format!("--user-data-dir={}", profile.display()), what, &url]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{what}: {log}");
        (String::from_utf8(output.stdout).unwrap(), log)
    };
    let (dom, log) = ask("--dump-dom");
    ask(&format!("--screenshot={}", screenshot.display()));
    let mut decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(&screenshot).unwrap()));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    let pixels = bytes[..info.buffer_size()].chunks_exact(info.color_type.samples()).map(|pixel| [pixel[0], pixel[1], pixel[2]]);
    Seen {
        dom,
        console: log.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect(),
        pixels: pixels.collect(),
    }
}

impl Seen {
    /// How many pixels have a colour, nearly.
    fn count(&self, colour: [u8; 3]) -> usize {
        let near = |pixel: &&[u8; 3]| pixel.iter().zip(colour).all(|(a, b)| a.abs_diff(b) < 24);
        self.pixels.iter().filter(near).count()
    }
}

#[test]
fn a_browser_shows_curves_and_pictures_and_neither_runs_nor_fetches_anything() {
    let Some(browser) = browser("a_browser_shows_curves_and_pictures_and_neither_runs_nor_fetches_anything") else { return };
    let lab = Lab::new();
    let hostile = "<script>document.title='run'<!--<b>";
    let run = lab.run(hostile);
    story(&lab, &run, hostile, "</pre></td><script>document.title='run'</script><img src=\"http://example.org/log.png\">");
    Lab::evaluated(&run);
    fs::write(run.pictures().join("'\" onerror=\"x<script>.png"), png(&PICTURE.repeat(16), 4)).unwrap();
    let (_, page) = lab.report(&run);
    let seen = look(&browser, &run.report(), &lab.folder.path().join("profile"));
    assert_eq!(seen.console, Vec::<String>::new());
    assert_eq!(seen.dom.matches("<polyline").count(), 15);
    assert_eq!(seen.dom.matches("<section").count(), 9);
    assert_eq!(seen.dom.matches("<img").count(), 3);
    for tag in seen.dom.split('<').skip(1).filter_map(|piece| piece.split('>').next()) {
        assert!(!tag.starts_with("script") && !tag.contains(" onerror=\""), "{tag}");
        let mut fetched = ["src=\"", "href=\""].into_iter().filter_map(|attribute| tag.split(attribute).nth(1));
        assert!(fetched.all(|url| url.starts_with("data:")), "{tag}");
    }
    assert!(!seen.dom.contains("<title>run"), "a script has run: {}", seen.dom);
    let (curve, picture) = (seen.count(CURVE), seen.count(PICTURE));
    assert!(curve > 1000 && picture >= 120 * 80, "{curve} pixels of curves, {picture} of the picture");

    // What was just not seen would have been: something to fetch, which the page's policy keeps the browser from, and no curves.
    let spoilt = page.replace("<main>", "<main><img src=\"http://example.org/a.png\">").replace("class=\"curve", "class=\"nothing");
    let path = lab.folder.path().join("spoilt.html");
    fs::write(&path, spoilt).unwrap();
    let seen = look(&browser, &path, &lab.folder.path().join("profile"));
    assert!(seen.console.iter().any(|line| line.contains("Content Security Policy")), "{:?}", seen.console);
    assert!(seen.count(CURVE) < curve / 2, "{} and {curve} pixels of curves", seen.count(CURVE));
}
