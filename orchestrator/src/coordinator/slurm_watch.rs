//! What the coordinator has to hear from Slurm while it runs: when the allocation ends, and whose signal a signal was. The tools are run
//! on threads of their own; nothing waits for them.

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::slurm::job_info;
use crate::supervisor::Event;

/// Allocations may be made longer or shorter while they run.
const AGAIN: Duration = Duration::from_secs(60);

/// Tells the end of the allocation, now and whenever it has changed. `started` is the supervisor's time zero.
pub(super) async fn deadlines(
    job: String,
    started: Instant,
    events: mpsc::UnboundedSender<Event>,
    known: tokio::sync::watch::Sender<Option<SystemTime>>,
) {
    while !events.is_closed() {
        let asked = job.clone();
        let end = spawn_blocking(move || job_info(&asked)).await.ok().and_then(Result::ok).and_then(|info| info.end);
        if let Some(end) = end
            && *known.borrow() != Some(end)
        {
            let left = end.duration_since(SystemTime::now()).unwrap_or_default();
            known.send_replace(Some(end));
            let _ = events.send(Event::Deadline(started.elapsed() + left));
        }
        sleep(AGAIN).await;
    }
}

/// Tells what the signal that has just come was about.
pub(super) async fn reason(job: String, events: mpsc::UnboundedSender<Event>) {
    if let Ok(Ok(info)) = spawn_blocking(move || job_info(&job)).await {
        let _ = events.send(Event::StopIs(info.reason()));
    }
}
