//! A task beside the loader that has the blocks of later steps fetched.

use super::DataError;
use super::loader::Source;
use common::shards::ReadAhead;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

/// Looks ahead of the batches until dropped.
pub(super) struct Ahead {
    done: UnboundedSender<u64>,
    task: JoinHandle<()>,
}

impl Ahead {
    /// Looks at `steps` as far ahead as the budget of `blocks` allows.
    pub(super) fn start(source: Arc<Source>, blocks: ReadAhead, steps: Range<u64>, runtime: &tokio::runtime::Handle) -> Self {
        let (done, steps_done) = unbounded_channel();
        let task = runtime.spawn(async move {
            if let Err(error) = look_ahead(&source, blocks, steps, steps_done).await {
                // The batch will say the same.
                tracing::debug!("looks ahead no further: {error}");
            }
        });
        Self { done, task }
    }

    /// The batch of `step` is complete.
    pub(super) fn done(&self, step: u64) {
        // After its last step nobody listens.
        let _ = self.done.send(step);
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn look_ahead(
    source: &Source,
    mut blocks: ReadAhead,
    steps: Range<u64>,
    mut done: UnboundedReceiver<u64>,
) -> Result<(), DataError> {
    let mut begin = steps.start;
    for step in steps {
        while let Ok(step) = done.try_recv() {
            blocks.done(step);
            begin = step + 1;
        }
        while !blocks.has_room() {
            let Some(step) = done.recv().await else { return Ok(()) };
            blocks.done(step);
            begin = step + 1;
        }
        // A batch that was faster than the look ahead needs none.
        if step >= begin {
            blocks.push(step, &source.needs(step))?;
        }
    }
    // What is on its way goes on while there are batches to come.
    while let Some(step) = done.recv().await {
        blocks.done(step);
    }
    Ok(())
}
