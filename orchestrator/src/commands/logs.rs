//! `orchestrator logs`: what the workers of the newest generation wrote.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use common::job::Job;
use common::run_dir::RunDir;

use crate::exit::Failure;

/// How often files are looked at again: no portable way tells when a file on a shared file system grows.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// Prints the logs of one worker or of all, each line with its file's name in front when there are several.
pub(crate) fn run(run: PathBuf, job: Job, rank: Option<usize>, follow: bool) -> Result<ExitCode, Failure> {
    let folder = RunDir::new(run).job_dir(job);
    let Some(newest) = newest_generation(&folder)? else {
        return Err(Failure::bad_input(format!("{}: no logs here; nothing was launched yet", folder.path().display())));
    };
    let mut files = log_files(&newest)?;
    if let Some(rank) = rank {
        let name = format!("rank-{rank:05}.log");
        files.retain(|file| file.ends_with(&name));
        if files.is_empty() {
            return Err(Failure::bad_input(format!("{}: no {name} here", newest.display())));
        }
    }
    let several = files.len() > 1;
    let mut readers = files.iter().map(|file| LogReader::open(file, several)).collect::<Result<Vec<_>, _>>()?;
    loop {
        for reader in &mut readers {
            if !reader.print_new_lines()? {
                return Ok(ExitCode::SUCCESS);
            }
        }
        if !follow {
            return Ok(ExitCode::SUCCESS);
        }
        sleep(LOOK_AGAIN);
    }
}

/// The folder of the newest generation's logs.
fn newest_generation(folder: &RunDir) -> Result<Option<PathBuf>, Failure> {
    let logs = folder.path().join("logs");
    let generations = match fs::read_dir(&logs) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.with_context(|| format!("cannot read {}", logs.display()))?,
    };
    let number = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("gen-")?.parse::<u64>().ok();
    Ok(generations.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| number(path).is_some()).max_by_key(number))
}

fn log_files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "log"));
    files.sort_unstable();
    Ok(files)
}

/// A log file that is read as it grows.
struct LogReader {
    reader: BufReader<File>,
    prefix: String,
    line: Vec<u8>,
}

impl LogReader {
    fn open(path: &Path, several: bool) -> Result<Self, Failure> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let prefix = if several { format!("{name}: ") } else { String::new() };
        Ok(Self { reader: BufReader::new(file), prefix, line: Vec::new() })
    }

    /// Prints all whole lines that were added; false when nobody reads them any more.
    fn print_new_lines(&mut self) -> Result<bool, Failure> {
        let mut out = io::stdout().lock();
        while self.reader.read_until(b'\n', &mut self.line)? > 0 {
            if self.line.last() != Some(&b'\n') {
                // The rest of this line is still to come.
                break;
            }
            let written = out.write_all(self.prefix.as_bytes()).and_then(|()| out.write_all(&self.line));
            match written {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
                written => written?,
            }
            self.line.clear();
        }
        Ok(true)
    }
}

/// The last `count` lines of a file, read from its end.
///
/// # Errors
/// Any failure of the file system.
pub(crate) fn tail(path: &Path, count: usize) -> io::Result<Vec<String>> {
    /// More than any eight lines worth showing.
    const WINDOW: u64 = 16 << 10;
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(WINDOW)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    Ok(lines[lines.len().saturating_sub(count)..].iter().map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_long_log_is_its_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rank-00000.log");
        let text: String = (0..10_000).map(|number| format!("line {number}\n\n")).collect();
        fs::write(&path, text).unwrap();
        assert_eq!(tail(&path, 2).unwrap(), ["line 9998", "line 9999"]);
        fs::write(&path, "one").unwrap();
        assert_eq!(tail(&path, 2).unwrap(), ["one"]);
        assert!(tail(&folder.path().join("absent"), 2).is_err());
    }
}
