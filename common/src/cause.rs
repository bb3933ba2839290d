//! Errors in one line, for people: what went wrong, and then why.

use std::error::Error;

/// The error and its causes in one line. A cause that the error before it has already told is not told twice.
#[must_use]
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    let (mut line, mut next) = (String::new(), Some(error));
    while let Some(error) = next {
        let cause = error.to_string();
        if !line.contains(&cause) {
            line = if line.is_empty() { cause } else { format!("{line}: {cause}") };
        }
        next = error.source();
    }
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Told {
        text: &'static str,
        source: std::io::Error,
    }

    #[test]
    fn no_cause_is_told_twice() {
        let cause = || std::io::Error::other("disk\non fire");
        assert_eq!(one_line(&Told { text: "cannot save: disk\non fire", source: cause() }), "cannot save: disk on fire");
        assert_eq!(one_line(&Told { text: "cannot save", source: cause() }), "cannot save: disk on fire");
    }
}
