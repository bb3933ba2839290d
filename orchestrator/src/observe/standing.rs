//! Where a run stands, from what its coordinator wrote last and how long ago that was.

use serde::Serialize;

use crate::coordinator::Status;
use crate::story::{Outline, Over, Time};
use crate::supervisor::State;

/// A running coordinator writes every second; after this long without it is taken for gone.
pub(super) const STALE: Time = Time::from_secs(15);

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Standing {
    /// It waits for Slurm.
    Queued,
    /// Workers are starting.
    Starting,
    /// All workers have reported.
    Running,
    /// Too few hosts answer.
    Waiting,
    /// Workers were asked to save and end.
    Stopping,
    /// A generation is over but for its last processes.
    Ending,
    /// The job did all it was to do.
    Finished,
    /// Stopped when asked to.
    Stopped,
    /// Ended by a failure.
    Failed,
    /// The coordinator fell silent without saying how it ended: it was killed, or its host was lost.
    Vanished,
}

impl Standing {
    /// Where it stands: `silence` is how long ago the status was written, if there is one.
    pub(crate) fn of(status: Option<&Status>, silence: Option<Time>, outline: &Outline, now: Time) -> Self {
        let fresh = silence.is_some_and(|silence| silence <= STALE);
        match (status, outline.over) {
            (Some(status), None) if status.exit_code.is_none() && fresh => status.state.into(),
            _ if outline.pending.is_some() => Self::Queued,
            (_, Some(Over::Finished | Over::Ended(0))) => Self::Finished,
            (_, Some(Over::Ended(130 | 143))) => Self::Stopped,
            (_, Some(Over::Ended(_))) => Self::Failed,
            // It takes charge in the journal before it writes its first status.
            (_, None) if outline.last.is_some_and(|last| now.saturating_sub(last) <= STALE) => Self::Starting,
            (Some(status), None) if outline.launched.is_none() && status.exit_code.is_some() => status.state.into(),
            _ => Self::Vanished,
        }
    }

    /// Whether a coordinator is there.
    pub(crate) fn is_alive(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Waiting | Self::Stopping | Self::Ending)
    }

    /// Whether that is bad news.
    pub(crate) fn is_bad(self) -> bool {
        matches!(self, Self::Failed | Self::Vanished)
    }

    /// The name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Waiting => "waiting for hosts",
            Self::Stopping => "stopping",
            Self::Ending => "ending",
            Self::Finished => "finished",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Vanished => "vanished",
        }
    }
}

impl From<State> for Standing {
    fn from(state: State) -> Self {
        match state {
            State::Starting => Self::Starting,
            State::Running => Self::Running,
            State::Waiting => Self::Waiting,
            State::Stopping => Self::Stopping,
            State::Ending => Self::Ending,
            State::Finished => Self::Finished,
            State::Stopped => Self::Stopped,
            State::Failed => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::testing::status;

    #[test]
    fn the_journal_and_the_age_of_the_status_decide() {
        let now = Time::from_secs(1000);
        let ago = |seconds: u64| now - Time::from_secs(seconds);
        let charge = Outline { launched: Some(ago(500)), last: Some(ago(400)), ..Outline::default() };
        let over = |over| Outline { over: Some(over), ..charge.clone() };
        let running = status(State::Running, 2);
        let stand = |status, silence: u64, outline: &Outline| Standing::of(status, Some(Time::from_secs(silence)), outline, now);
        assert_eq!(stand(Some(&running), 1, &charge), Standing::Running);
        assert_eq!(stand(Some(&running), 16, &charge), Standing::Vanished);
        assert_eq!(stand(None, 0, &charge), Standing::Vanished);
        assert_eq!(stand(None, 0, &Outline { last: Some(ago(1)), ..charge.clone() }), Standing::Starting);
        assert_eq!(stand(Some(&running), 16, &over(Over::Finished)), Standing::Finished);
        assert_eq!(stand(Some(&running), 0, &over(Over::Ended(143))), Standing::Stopped);
        assert_eq!(stand(None, 0, &over(Over::Ended(3))), Standing::Failed);
        let pending = Some("7".to_owned());
        assert_eq!(stand(None, 0, &Outline { pending: pending.clone(), ..Outline::default() }), Standing::Queued);
        assert_eq!(stand(Some(&running), 16, &Outline { pending: pending.clone(), ..over(Over::Ended(143)) }), Standing::Queued);
        assert_eq!(stand(Some(&running), 1, &Outline { pending, ..charge }), Standing::Running, "it will be requeued");
    }
}
