//! The processes of a test: this very test binary, playing a part.
//!
//! An actor says lines that begin with `> ` on its standard output, and hears lines on its standard input.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long an actor may take for what it does, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Environment variables and their values.
pub(crate) type Environment = Vec<(&'static str, OsString)>;

/// A process that plays a part. Dropping it kills it.
pub(crate) struct Actor {
    child: Child,
    said: Receiver<String>,
    complaints: Option<JoinHandle<String>>,
}

impl Actor {
    /// Starts the part of this name, see `parts.rs`, with `environment` on top of this process's without anything of NCCL.
    pub(crate) fn start(part: &str, environment: Environment) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "parts::play", "--ignored", "--nocapture", "--test-threads", "1"]);
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("NCCL")).for_each(|(name, _)| {
            command.env_remove(name);
        });
        command.env("PART", part).envs(environment);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (output, mut errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (saying, said) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some((_, words)) = line.split_once("> ") {
                    // Nobody listens once the test is over.
                    let _ = saying.send(words.to_owned());
                }
            }
        });
        let complaints = thread::spawn(move || {
            let mut text = Vec::new();
            errors.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { child, said, complaints: Some(complaints) }
    }

    /// The next line that the actor says.
    pub(crate) fn hear(&mut self) -> String {
        match self.said.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(error) => panic!("an actor says nothing: {error}; its complaints:\n{}", self.end()),
        }
    }

    /// Says a line to the actor.
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// SIGKILL. The process stays a zombie until it is waited for.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Waits for the end, which has to be a success.
    pub(crate) fn succeed(mut self) {
        let started = Instant::now();
        let status: ExitStatus = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(started.elapsed() < PATIENCE, "an actor does not end; its complaints:\n{}", self.end());
            thread::sleep(Duration::from_millis(2));
        };
        assert!(status.success(), "{status}:\n{}", self.end());
    }

    /// Kills the actor; what it wrote to standard error.
    fn end(&mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.complaints.take().map_or_else(String::new, |complaints| complaints.join().unwrap())
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.end();
    }
}

/// The variables that have an actor load the stand-in.
pub(crate) fn stand_in() -> Environment {
    vec![("NCCL_LIB", nccl_stand_in::library_path().unwrap().into())]
}

/// Starts the actor of one rank with the stand-in, and with `environment`.
pub(crate) fn rank(part: &str, rank: usize, world: usize, environment: Environment) -> Actor {
    let place: Environment = vec![("RANK", rank.to_string().into()), ("WORLD", world.to_string().into())];
    Actor::start(part, [stand_in(), place, environment].concat())
}

/// Starts all ranks of a world, each with what `environment` says for it.
pub(crate) fn world(part: &str, world: usize, environment: impl Fn(usize) -> Environment) -> Vec<Actor> {
    (0..world).map(|number| rank(part, number, world, environment(number))).collect()
}

/// Passes an id from rank 0 to the others.
pub(crate) fn pass_id(actors: &mut [Actor]) -> String {
    let id = actors[0].hear();
    actors[1..].iter_mut().for_each(|actor| actor.tell(&id));
    id
}
