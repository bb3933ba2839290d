//! What the threads of a process are doing: their native stacks if a debugger is there, else what the kernel says of each.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::launchers::in_path;

/// Time that a debugger has. The coordinator waits a little longer.
const LIMIT: Duration = Duration::from_secs(2);
/// Most bytes of an answer: a message of the control channel has room for it.
const MOST: usize = 200_000;
/// Threads that are told about when no debugger is there.
const THREADS: usize = 64;

/// A report on process `id`.
pub(super) async fn of(id: u32) -> String {
    let process = id.to_string();
    let tools: [(&str, &[&str]); 2] = [
        ("eu-stack", &["-p", &process]),
        ("gdb", &["--batch", "-p", &process, "-ex", "set pagination off", "-ex", "thread apply all backtrace 32"]),
    ];
    let mut text = kernel_view(id);
    for (tool, arguments) in tools {
        if in_path(tool).is_none() {
            continue;
        }
        let output = Command::new(tool).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).output();
        if let Ok(Ok(output)) = timeout(LIMIT, output).await {
            let _ = write!(text, "{tool}:\n{}", String::from_utf8_lossy(&output.stdout));
            break;
        }
    }
    let end = (0..=MOST.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.truncate(end);
    text
}

/// State, name and place in the kernel of each thread.
fn kernel_view(id: u32) -> String {
    let mut text = String::new();
    let folder = format!("/proc/{id}/task");
    let Ok(threads) = fs::read_dir(&folder) else { return format!("{folder} cannot be read: the process is gone\n") };
    let mut threads: Vec<_> = threads.filter_map(Result::ok).map(|thread| thread.path()).collect();
    threads.sort_unstable();
    for thread in threads.iter().take(THREADS) {
        let name = line(thread, "comm").unwrap_or_default();
        let state = fs::read_to_string(thread.join("status")).unwrap_or_default();
        let state = state.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or(" ?").trim().to_owned();
        let place = line(thread, "wchan").filter(|place| place != "0").unwrap_or_else(|| "user code".into());
        let number = thread.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let _ = writeln!(text, "thread {number} {name}: {state}, in {place}");
    }
    text
}

fn line(folder: &Path, name: &str) -> Option<String> {
    Some(fs::read_to_string(folder.join(name)).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #[tokio::test(flavor = "current_thread")]
    async fn every_thread_is_told_about() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (say, said) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("a-thread".into()).spawn(move || {
            let _ = say.send(());
            wait.recv()
        });
        assert!(said.recv().is_ok());
        let text = super::of(std::process::id()).await;
        assert!(text.contains(" a-thread: "), "{text}");
        drop(go);
        assert!(thread.is_ok_and(|thread| thread.join().is_ok()));
        assert!(super::of(u32::MAX).await.contains("gone"));
    }
}
