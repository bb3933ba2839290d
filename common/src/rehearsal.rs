//! A misfortune that is ordered: `orchestrator rehearse` names it in the environment, and the worker that it is meant for lets it happen
//! at exactly that step, once. Without the variable nothing here does anything.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// The environment variable, as `kill-rank@120:1`.
pub const VARIABLE: &str = "LSD_REHEARSAL";

/// What shall happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A worker is killed, as by the kernel for want of memory.
    KillRank,
    /// Every process of the run on one host is killed.
    KillHost,
    /// A worker never gets to the next collective.
    Hang,
    /// The system asks to end, as Slurm before it gives the hosts to somebody else.
    Preempt,
    /// The next checkpoint cannot be written.
    FullDisk,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::KillRank, Self::KillHost, Self::Hang, Self::Preempt, Self::FullDisk];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KillRank => "kill-rank",
            Self::KillHost => "kill-host",
            Self::Hang => "hang",
            Self::Preempt => "preempt",
            Self::FullDisk => "full-disk",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A fault that does not exist, or an order that makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not understood: kill-rank, kill-host, hang, preempt or full-disk, in the variable as FAULT@STEP:RANK")]
pub struct UnknownFault(String);

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(name: &str) -> Result<Self, UnknownFault> {
        Self::ALL.into_iter().find(|fault| fault.name() == name).ok_or_else(|| UnknownFault(name.into()))
    }
}

/// What shall happen, when and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What.
    pub fault: Fault,
    /// After how many steps.
    pub step: u64,
    /// To which rank.
    pub rank: usize,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}", self.fault, self.step, self.rank)
    }
}

impl FromStr for Order {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let parse = || {
            let (fault, rest) = text.split_once('@')?;
            let (step, rank) = rest.split_once(':')?;
            Some(Self { fault: fault.parse().ok()?, step: step.parse().ok()?, rank: rank.parse().ok()? })
        };
        parse().ok_or_else(|| UnknownFault(text.into()))
    }
}

/// What the worker notes down the moment before it happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Struck {
    /// When (UTC, RFC 3339, milliseconds).
    pub time: String,
    /// Steps done.
    pub step: u64,
}

impl Struck {
    /// Now, after `step` steps.
    #[must_use]
    pub fn now(step: u64) -> Self {
        Self { time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(), step }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_it_is_written() {
        for fault in Fault::ALL {
            let order = Order { fault, step: 120, rank: 3 };
            assert_eq!(order.to_string().parse(), Ok(order));
        }
        for nonsense in ["", "kill-rank", "kill-rank@x:1", "kill@1:1", "hang@1"] {
            assert_eq!(nonsense.parse::<Order>(), Err(UnknownFault(nonsense.into())));
        }
    }
}
