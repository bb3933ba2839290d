//! Figures as people read them: durations, shares, ranks.

use std::time::Duration;

/// A duration in its two largest units: `0.4 s`, `37 s`, `4m 37s`, `3d 4h`.
pub(super) fn brief(time: Duration) -> String {
    let seconds = time.as_secs();
    let two = |large: u64, name: &str, small: u64, small_name: &str| match small {
        0 => format!("{large}{name}"),
        small => format!("{large}{name} {small}{small_name}"),
    };
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// The same for a number of seconds, whatever it is.
pub(super) fn brief_seconds(seconds: f64) -> String {
    brief(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// A share in percent: `0.4 %`, `87 %`.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent != 0.0 && percent.abs() < 9.95 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}

/// `1 failure`, `3 failures`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Numbers in order, neighbours as a range, the first few of them: `0-7, 9 and 12 more`.
pub(crate) fn ranges(numbers: impl IntoIterator<Item = usize>) -> String {
    /// Ranges that are shown.
    const SHOWN: usize = 6;
    let mut numbers: Vec<usize> = numbers.into_iter().collect();
    numbers.sort_unstable();
    let runs: Vec<&[usize]> = numbers.chunk_by(|a, b| a + 1 == *b).collect();
    let text = |run: &&[usize]| match run {
        [one] => one.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    };
    let shown: Vec<String> = runs.iter().take(SHOWN).map(text).collect();
    let hidden: usize = runs.iter().skip(SHOWN).map(|run| run.len()).sum();
    if hidden == 0 { shown.join(", ") } else { format!("{} and {hidden} more", shown.join(", ")) }
}

/// The first few names, and how many there are beside them.
pub(crate) fn names<T: AsRef<str>>(names: &[T], shown: usize) -> String {
    let first: Vec<&str> = names.iter().take(shown).map(AsRef::as_ref).collect();
    match names.len().saturating_sub(shown) {
        0 => first.join(", "),
        hidden => format!("{} and {hidden} more", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let cases = [
            (0.44, "0.4 s"),
            (37.9, "37 s"),
            (277.0, "4m 37s"),
            (3600.0, "1h"),
            (7380.0, "2h 3m"),
            (273_600.0, "3d 4h"),
            (f64::NAN, "0.0 s"),
        ];
        for (seconds, text) in cases {
            assert_eq!(brief_seconds(seconds), text);
        }
        assert_eq!([0.0, 0.004, 0.0994, 0.0996, 0.87].map(percent), ["0 %", "0.4 %", "9.9 %", "10 %", "87 %"]);
        assert_eq!(ranges([7, 1, 2, 3]), "1-3, 7");
        assert_eq!(ranges((0..40).filter(|rank| rank % 4 != 3)), "0-2, 4-6, 8-10, 12-14, 16-18, 20-22 and 12 more");
        assert_eq!(names(&["a", "b", "c"], 2), "a, b and 1 more");
    }
}
