//! Real servers of the clouds' protocols: all that data sets and checkpoints do to a store, and checkpoints of processes that are killed.
//!
//! S3 is spoken by moto and by s3s-fs, Azure's protocol by Azurite (installed by `make peers servers`). Google's has no server to be had as a package: the
//! tests' own object server speaks as much of it as a store needs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;

use crate::lab::{Ended, Lab, PATIENCE, binary};
use crate::object_server::{ANY, ObjectServer, READING};
use crate::processes::Running;
use crate::records::final_weights;
use crate::survival::{STEPS, undisturbed};
use crate::torture::{Savers, memory_folder, seed};

/// A server with one empty bucket called `box`; gone when dropped.
struct Cloud {
    scheme: &'static str,
    settings: Vec<(&'static str, String)>,
    _server: Option<Running>,
    _folder: TempDir,
}

fn environment() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv")
}

/// Where a tool of the environment is. Nothing if it is not installed: then `test` is to return, and counts as skipped.
fn tool(path: &str, test: &str) -> Option<PathBuf> {
    let path = environment().join(path);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing: `make peers servers` installs it", path.display());
    // Past the capture of test output, for the summary of `make test`.
    let line = format!("skipped clouds::{test}: {} is missing, `make peers servers` installs it\n", path.display());
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

impl Cloud {
    /// Amazon's protocol.
    fn s3(test: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(tool("bin/moto_server", test)?);
        command.args(["-H", "127.0.0.1", "-p", "0"]);
        let (server, url) = serve(command, folder.path());
        make_bucket("s3", &url);
        let settings = vec![
            ("AWS_ENDPOINT", url),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ACCESS_KEY_ID", "test".into()),
            ("AWS_SECRET_ACCESS_KEY", "test".into()),
        ];
        Some(Self { scheme: "s3", settings, _server: Some(server), _folder: folder })
    }

    /// Amazon's protocol by another server, which checks signatures, and knows conditions without keeping to them.
    fn s3s(test: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(tool("s3s/bin/s3s-fs", test)?);
        // A folder is a bucket.
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("box")).unwrap();
        command.args(["--access-key", "test", "--secret-key", "secret", "--host", "127.0.0.1", "--port", "0"]).arg(root);
        command.env("RUST_LOG", "info");
        let (server, url) = serve(command, folder.path());
        let settings = vec![
            ("AWS_ENDPOINT", url),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ACCESS_KEY_ID", "test".into()),
            ("AWS_SECRET_ACCESS_KEY", "secret".into()),
        ];
        Some(Self { scheme: "s3", settings, _server: Some(server), _folder: folder })
    }

    /// Microsoft's protocol.
    fn azure(test: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(tool("azurite/node_modules/.bin/azurite-blob", test)?);
        command.args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--skipApiVersionCheck", "--disableTelemetry", "--location"]);
        command.arg(folder.path().join("azurite"));
        let (server, url) = serve(command, folder.path());
        make_bucket("az", &url);
        let settings = vec![
            ("AZURE_STORAGE_USE_EMULATOR", "true".into()),
            ("AZURE_ALLOW_HTTP", "true".into()),
            ("AZURITE_BLOB_STORAGE_URL", url),
        ];
        Some(Self { scheme: "az", settings, _server: Some(server), _folder: folder })
    }

    /// Google's protocol.
    fn google() -> Self {
        let server = ObjectServer::start(ANY, u32::MAX, 0);
        server.behave();
        let settings =
            vec![("GOOGLE_BASE_URL", server.url()), ("GOOGLE_BEARER_TOKEN", "test".into()), ("GOOGLE_ALLOW_HTTP", "true".into())];
        Self { scheme: "gs", settings, _server: None, _folder: tempfile::tempdir().unwrap() }
    }

    fn url(&self, place: &str) -> String {
        format!("{}://box/{place}", self.scheme)
    }

    fn introduce(&self, command: &mut Command) {
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
    }

    fn run(&self, mut command: Command) -> Ended {
        self.introduce(&mut command);
        Running::start_piped(command).wait(PATIENCE)
    }
}

/// Starts a server and waits for the line in which it says where it is.
fn serve(mut command: Command, folder: &Path) -> (Running, String) {
    let said = folder.join("said");
    let file = std::fs::File::create(&said).unwrap();
    command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    let mut server = Running::start(command);
    let url = server.wait_until("the server's address", PATIENCE, || {
        let text = std::fs::read_to_string(&said).unwrap();
        let (_, rest) = text.split_once("http://127.0.0.1:")?;
        let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
        // The number is whole when something follows it.
        (rest.len() > port.len()).then(|| format!("http://127.0.0.1:{port}"))
    });
    (server, url)
}

fn make_bucket(kind: &str, url: &str) {
    let mut command = Command::new(environment().join("bin/python3"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clouds/bucket.py")).args([kind, url, "box"]);
    Running::start_piped(command).wait(PATIENCE).expect_success();
}

/// All that is done to a store; whether the store keeps one object from replacing another.
fn probe(cloud: &Cloud) -> bool {
    let mut command = Command::new(binary("examples/store_probe"));
    command.arg(cloud.url("probe"));
    let ended = cloud.run(command);
    ended.expect_success();
    ended.stdout.contains("cannot have one name")
}

/// Two writers save there, one of them is killed, and others go on from what `checkpoints verify` finds whole.
fn survive(cloud: &Cloud) {
    let folder = tempfile::tempdir_in(memory_folder()).unwrap();
    let url = cloud.url("run");
    let savers = Savers::saving_at(url.clone(), folder.path().join("run"), 2);
    let mut first = savers.start(1, 0, 100_000, |command| cloud.introduce(command));
    first[0].wait_until("two checkpoints", PATIENCE, || (savers.acknowledged() >= 2).then_some(()));
    kill(first[1].pid(), Signal::SIGKILL).unwrap();
    drop(first);
    let from = savers.acknowledged();
    for saver in savers.start(2, from + 1, from + 3, |command| cloud.introduce(command)) {
        saver.wait(PATIENCE).expect_success();
    }
    let checkpoints = |verb: &str| {
        let mut command = Command::new(binary("orchestrator"));
        command.args(["checkpoints", verb, &url, "--json"]);
        let ended = cloud.run(command);
        ended.expect_success();
        ended.stdout
    };
    for verb in ["list", "verify"] {
        let told = checkpoints(verb);
        for step in [from + 2, from + 3] {
            assert!(told.contains(&format!("\"step\": {step}")), "{verb}: {told}");
        }
    }
}

#[test]
fn s3_holds_checkpoints_and_data() {
    let Some(cloud) = Cloud::s3("s3_holds_checkpoints_and_data") else { return };
    assert!(probe(&cloud));
    survive(&cloud);
}

#[test]
fn another_server_of_s3_holds_checkpoints_and_data() {
    let Some(mut cloud) = Cloud::s3s("another_server_of_s3_holds_checkpoints_and_data") else { return };
    probe(&cloud);
    survive(&cloud);
    // It looks at what a signature is made with.
    cloud.settings.push(("AWS_SECRET_ACCESS_KEY", "another".into()));
    let mut command = Command::new(binary("orchestrator"));
    command.args(["checkpoints", "list", &cloud.url("run")]);
    let ended = cloud.run(command);
    let words = "the store does not accept the credentials (SignatureDoesNotMatch)";
    assert!(ended.code() != 0 && ended.stderr.contains(words), "{}", ended.stderr);
}

#[test]
fn azure_holds_checkpoints_and_data() {
    let Some(cloud) = Cloud::azure("azure_holds_checkpoints_and_data") else { return };
    assert!(probe(&cloud));
    survive(&cloud);
}

#[test]
fn google_holds_checkpoints_and_data() {
    let cloud = Cloud::google();
    assert!(probe(&cloud));
    survive(&cloud);
}

/// Data from a bucket that refuses, hangs up, keeps silent, cuts answers short and flips bits: the same training, bit by bit. And one that
/// is really damaged ends it in a line.
#[test]
fn data_from_a_bucket_that_misbehaves_train_the_same_weights() {
    let lab = Lab::prepared();
    let server = ObjectServer::start(READING, 4, seed());
    server.fill("latents", &lab.path().join("data/latents"));
    let launch = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(binary("orchestrator"));
        command.args(["launch", "--config", "tiny.toml", "--set", "data.latents=s3://bucket/latents", "--set", name]);
        command.args(arguments).current_dir(lab.path());
        server.introduce(&mut command);
        Running::start_piped(command).wait(PATIENCE)
    };
    launch("run.name=tiny", &["--set", "data.cache_folder=cache"]).expect_success();
    assert_eq!(&final_weights(&lab.run(), STEPS), undisturbed());
    let faults = server.faults();
    println!("{faults:?}");
    assert!(faults.values().sum::<usize>() > 0, "{faults:?}");

    server.behave();
    server.spoil(|name| name.starts_with("latents/train/00002-"));
    let ended = launch("run.name=spoilt", &[]);
    ended.expect_code(2);
    for words in ["s3://bucket/latents/train/00002-", "is damaged: expected crc32c", "found", "twice"] {
        assert!(ended.stderr.contains(words), "{}", ended.stderr);
    }
}
