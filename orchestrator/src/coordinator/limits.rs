//! How many files this process may have open: every worker and every guard holds a connection.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files that have nothing to do with the number of workers: journal, logs, pipes, and those of the runtime.
const OTHERS: u64 = 100;

/// Raises the soft limit on open files to the hard one: the soft one is often as low as 1024.
///
/// # Errors
/// When even the hard limit is too low for the connections of `workers` workers and their guards.
pub(super) fn raise_open_files(workers: usize) -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    let needed = needed(workers);
    anyhow::ensure!(
        hard >= needed,
        "{workers} workers need {needed} open files on this host, and {hard} are allowed: raise the hard limit (ulimit -Hn)"
    );
    Ok(())
}

fn needed(workers: usize) -> u64 {
    (workers as u64).saturating_mul(2).saturating_add(OTHERS)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_rises_and_a_hard_limit_that_is_too_low_is_named() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        raise_open_files(1).unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
        let many = usize::try_from(hard).unwrap_or(usize::MAX);
        if needed(many) > hard {
            let text = raise_open_files(many).unwrap_err().to_string();
            assert!(text.contains("ulimit -Hn") && text.contains(&hard.to_string()), "{text}");
        }
    }
}
