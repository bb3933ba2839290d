//! How far the reading of many bytes is, on a terminal: bytes, rate and time to go.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const STYLE: &str = "{prefix}  {wide_bar}  {decimal_bytes}/{decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left";

/// A bar on standard error, if that is a terminal; and the time taken in any case.
pub(in crate::commands) struct Reading {
    bar: ProgressBar,
    begun: Instant,
}

impl Reading {
    /// Of so many bytes in all.
    pub(in crate::commands) fn of(bytes: u64) -> Self {
        let bar = ProgressBar::new(bytes);
        if let Ok(style) = ProgressStyle::with_template(STYLE) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, begun: Instant::now() }
    }

    /// What is being read from now on.
    pub(in crate::commands) fn now(&self, what: String) {
        self.bar.set_prefix(what);
    }

    /// So many more were read.
    pub(in crate::commands) fn read(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Prints a line above the bar.
    pub(in crate::commands) fn print(&self, line: &str) -> std::io::Result<()> {
        self.bar.suspend(|| {
            crate::commands::output::unless_unread(std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{line}\n")))
        })
    }

    pub(in crate::commands) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
