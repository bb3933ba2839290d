//! NCCL's version numbers.

use std::ffi::c_int;
use std::fmt;

/// A version of NCCL, ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Two for every NCCL of today.
    pub major: u32,
    /// The release.
    pub minor: u32,
    /// Its repairs.
    pub patch: u32,
}

impl Version {
    /// The oldest version that is accepted. The functions that are used here exist since 2.14; what releases before 2.18 do with a
    /// non-blocking communicator that fails was not looked into.
    pub const NEEDED: Self = Self { major: 2, minor: 18, patch: 0 };

    /// Takes `ncclGetVersion`'s number apart: 22809 is 2.28.9. Up to 2.8 there was a digit less: 2708 is 2.7.8.
    pub(crate) fn from_code(code: c_int) -> Self {
        let code = code.unsigned_abs();
        let major = if code < 10_000 { 1_000 } else { 10_000 };
        Self { major: code / major, minor: code % major / 100, patch: code % 100 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_counting_are_read() {
        let written = [2708, 21000, 21805, 22809, 23007].map(|code| Version::from_code(code).to_string());
        assert_eq!(written, ["2.7.8", "2.10.0", "2.18.5", "2.28.9", "2.30.7"]);
        assert!(Version::from_code(2708) < Version::from_code(21000));
        assert!(Version::from_code(21714) < Version::NEEDED && Version::NEEDED <= Version::from_code(21801));
    }
}
