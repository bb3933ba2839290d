//! Whether the kernel has killed processes for want of memory. It does so by SIGKILL, which looks like anybody's.

use std::fs;
use std::path::PathBuf;

/// The kernel's counters as they were when the watch began.
#[derive(Debug)]
pub(super) struct OutOfMemory(Vec<(PathBuf, &'static str, u64)>);

impl OutOfMemory {
    /// Notes the counters of the control group of this process, if it has one with a limit, and of the whole host.
    pub(super) fn watch() -> Self {
        let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let files = own_group(&group).map(|file| (file, "oom_kill")).into_iter().chain([("/proc/vmstat".into(), "oom_kill")]);
        Self(
            files
                .filter_map(|(file, name)| Some((counter(&file, name)?, file, name)))
                .map(|(n, file, name)| (file, name, n))
                .collect(),
        )
    }

    /// Whether one of them has moved.
    pub(super) fn has_struck(&self) -> bool {
        self.0.iter().any(|(file, name, before)| counter(file, name).is_some_and(|now| now > *before))
    }
}

/// The file of events of a process's group, in the unified hierarchy.
fn own_group(cgroup: &str) -> Option<PathBuf> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(PathBuf::from("/sys/fs/cgroup").join(path).join("memory.events"))
}

/// The number after `name` in a file of `name number` lines.
fn counter(file: &std::path::Path, name: &str) -> Option<u64> {
    number(&fs::read_to_string(file).ok()?, name)
}

fn number(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_of_the_kernel_is_read_by_its_whole_name() {
        assert_eq!(number("oom_kill_disable 0\noom_kill 3\n", "oom_kill"), Some(3));
        assert_eq!(number("low 0\nmax 7\n", "oom_kill"), None);
        let file = own_group("12:memory:/old\n0::/slurm/job_7/step_0\n");
        assert_eq!(file, Some("/sys/fs/cgroup/slurm/job_7/step_0/memory.events".into()));
        assert!(!OutOfMemory::watch().has_struck());
    }
}
