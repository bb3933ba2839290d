//! What a launch shows while it runs: a progress bar on a terminal, a line every ten seconds anywhere else.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use common::control::Progress;
use indicatif::{ProgressBar, ProgressStyle};

use crate::commands::words::percent;

/// Time between two lines of progress.
const EVERY: Duration = Duration::from_secs(10);

/// Where progress goes.
pub(crate) struct Display {
    target: Target,
    /// Whether standard output is reserved for the summary as JSON.
    json: bool,
}

enum Target {
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Display {
    /// Shows a bar if standard error is a terminal, else lines: on standard output, or with `json` on standard error.
    pub(crate) fn new(json: bool) -> Self {
        let target = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg}") {
                bar.set_style(style);
            }
            Target::Bar(bar)
        } else {
            Target::Lines { last: Instant::now() }
        };
        Self { target, json }
    }

    /// How far the job is, and what share of the devices it makes use of.
    pub(crate) fn progress(&mut self, progress: &Progress, utilisation: Option<f64>) {
        let text = || match utilisation {
            Some(share) => format!("{}, MFU {}", describe(progress), percent(share)),
            None => describe(progress),
        };
        match &mut self.target {
            Target::Bar(bar) => {
                bar.set_length(progress.total);
                bar.set_position(progress.done);
                bar.set_message(text());
            }
            Target::Lines { last } => {
                if last.elapsed() >= EVERY {
                    *last = Instant::now();
                    let text = text();
                    self.note(&text);
                }
            }
        }
    }

    /// Something that happens once.
    pub(crate) fn note(&self, text: &str) {
        match &self.target {
            Target::Bar(bar) => bar.println(text),
            Target::Lines { .. } if self.json => eprintln!("{text}"),
            Target::Lines { .. } => {
                // A reader that has gone away is no reason to end a training run.
                let _ = writeln!(std::io::stdout(), "{text}");
            }
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Target::Bar(bar) = &self.target {
            bar.finish_and_clear();
        }
    }
}

/// `1200/3000 steps, 6.5/s, 4m 37s left, loss 0.412`.
pub(crate) fn describe(progress: &Progress) -> String {
    let mut text = format!("{}/{} {}", progress.done, progress.total, progress.unit);
    if progress.rate > 0.0 {
        text += &format!(", {}/s", significant(progress.rate));
        let left = (progress.total.saturating_sub(progress.done)) as f64 / progress.rate;
        if progress.done < progress.total && left < 1e9 {
            text += &format!(", {} left", humantime::format_duration(Duration::from_secs(left.ceil() as u64)));
        }
    }
    for (name, value) in &progress.fields {
        text += &format!(", {name} {}", significant(*value));
    }
    text
}

/// A figure with four significant digits and no more noughts than needed.
pub(crate) fn significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let magnitude = value.abs().log10().floor() as i32;
    if !(-4..9).contains(&magnitude) {
        return format!("{value:.3e}");
    }
    let text = format!("{value:.*}", usize::try_from(3 - magnitude).unwrap_or(0));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_keep_their_size() {
        let cases =
            [(0.0, "0"), (0.41249, "0.4125"), (6.5, "6.5"), (12345.6, "12346"), (1e-7, "1.000e-7"), (-2.0, "-2"), (100.0, "100")];
        for (value, text) in cases {
            assert_eq!(significant(value), text);
        }
    }

    #[test]
    fn progress_reads_as_a_sentence() {
        let fields = [("loss".to_owned(), 0.4123)].into();
        let progress = Progress { done: 1200, total: 3000, unit: "steps".into(), rate: 6.5, fields };
        assert_eq!(describe(&progress), "1200/3000 steps, 6.5/s, 4m 37s left, loss 0.4123");
        let idle = Progress { rate: 0.0, fields: [].into(), ..progress };
        assert_eq!(describe(&idle), "1200/3000 steps");
    }
}
