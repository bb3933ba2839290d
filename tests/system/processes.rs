//! Processes under test: waiting for them, seeing their descendants, ending them.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::Ended;

/// How often a condition that no one announces is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A child process whose output is collected while it runs. Dropping it kills it and everything that it started.
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts `command`, both of whose output streams are pipes.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        Self { child, stdout, stderr }
    }

    /// Starts `command` with pipes, in a group of its own, so that a test's Ctrl-C reaches it as a terminal's would and nobody else.
    pub fn start_piped(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        Self::start(command)
    }

    /// The process's id.
    pub fn pid(&self) -> Pid {
        pid(self.child.id())
    }

    /// Waits for the end; a process that takes longer than `patience` is killed and fails the test.
    pub fn wait(mut self, patience: Duration) -> Ended {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break Some(status);
            }
            if started.elapsed() > patience {
                break None;
            }
            sleep(LOOK_AGAIN);
        };
        if status.is_none() {
            self.kill_all();
        }
        let stdout = self.stdout.take().map_or_else(String::new, |thread| thread.join().unwrap());
        let stderr = self.stderr.take().map_or_else(String::new, |thread| thread.join().unwrap());
        let Some(status) = status else {
            panic!("still running after {patience:?}\nstandard output:\n{stdout}\nstandard error:\n{stderr}");
        };
        Ended { status, stdout, stderr }
    }

    /// Whether the process has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until `found` gives something, at most `patience`; the process has to live until then.
    pub fn wait_until<T>(&mut self, what: &str, patience: Duration, mut found: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            // Asked first: what the process did last before it ended counts.
            let running = self.is_running();
            if let Some(value) = found() {
                return value;
            }
            assert!(running && started.elapsed() < patience, "{what} did not happen (still running: {running})");
            sleep(LOOK_AGAIN);
        }
    }

    /// The ids of all living descendants whose program is called `name`, in order.
    pub fn descendants(&self, name: &str) -> Vec<Pid> {
        let all = processes();
        let mut found: Vec<_> = below(&all, self.child.id()).into_iter().filter(|id| all[id].name == name).collect();
        found.sort_unstable();
        found.into_iter().map(pid).collect()
    }

    /// SIGKILL to the process and everything below it, as when the machine loses power.
    pub fn kill_all(&mut self) {
        let all = processes();
        let doomed = below(&all, self.child.id());
        // Stopped first, so that none of them can react to the death of another.
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            for id in doomed.iter().copied().chain([self.child.id()]) {
                // One that has just ended by itself is as dead as the others.
                let _ = kill(pid(id), signal);
            }
        }
        self.child.wait().unwrap();
        for id in doomed {
            while alive(pid(id)) {
                sleep(LOOK_AGAIN);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_running() {
            self.kill_all();
        }
    }
}

/// Whether a process exists and is more than a zombie.
pub fn alive(id: Pid) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| parse(&stat).is_some_and(|process| process.state != 'Z'))
}

struct Process {
    parent: u32,
    name: String,
    state: char,
}

/// Every process of this machine by its id.
fn processes() -> HashMap<u32, Process> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter_map(|id| Some((id, parse(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?))).collect()
}

/// `PID (NAME) STATE PARENT ...`; the name may hold spaces and brackets.
fn parse(stat: &str) -> Option<Process> {
    let (head, tail) = stat.rsplit_once(") ")?;
    let mut fields = tail.split(' ');
    let state = fields.next()?.chars().next()?;
    Some(Process { parent: fields.next()?.parse().ok()?, name: head.split_once('(')?.1.to_owned(), state })
}

fn below(all: &HashMap<u32, Process>, root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(all.iter().filter(|(_, process)| process.parent == parent).map(|(id, _)| *id));
        next += 1;
    }
    found.remove(0);
    found
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap())
}

fn collect(mut stream: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    })
}
