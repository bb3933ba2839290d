//! The end of a log file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// More bytes than any eight lines worth showing.
const WINDOW: u64 = 16 << 10;

/// The last `count` lines of a file, read from its end.
///
/// # Errors
/// Any failure of the file system.
pub(crate) fn tail(path: &Path, count: usize) -> io::Result<Vec<String>> {
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
    use std::fs;

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
