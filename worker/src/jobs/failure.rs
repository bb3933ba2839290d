//! Which failures a user mends by changing the input, and which are the program's or the machine's.

use crate::checkpointing::CheckpointingError;
use crate::collectives::CollectiveError;
use crate::data::DataError;
use crate::data::datasets::ImportError;
use crate::model::weights::WeightsError;
use crate::training::reduction::ReductionError;
use crate::training::window::NotFinite;
use common::cause;
use common::checkpoint::CheckpointError;
use common::control::FailureKind;
use common::shards::{NoLabels, NoScalingFactor, ShardError};
use common::storage::StorageError;
use std::fmt;

/// Marks an error whose cause is the user's input: configuration, data set, checkpoint, folder. It prints as the error itself.
#[derive(Debug)]
pub struct BadInput(anyhow::Error);

impl BadInput {
    /// Marks `error` as caused by input.
    pub fn new(error: impl Into<anyhow::Error>) -> Self {
        Self(error.into())
    }

    /// Bad input described in one line.
    pub fn message(text: impl fmt::Display) -> Self {
        Self(anyhow::anyhow!("{text}"))
    }
}

impl fmt::Display for BadInput {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl std::error::Error for BadInput {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// What the chain of `error` says about the kind of failure.
pub fn failure_kind(error: &anyhow::Error) -> FailureKind {
    if error.chain().any(|cause| cause.is::<NotFinite>()) {
        FailureKind::NotFinite
    } else if error.chain().any(is_bad_data) {
        FailureKind::BadData
    } else if error.chain().any(is_bad_input) {
        FailureKind::BadInput
    } else if error.chain().any(is_of_another_worker) {
        FailureKind::PeerLost
    } else if error.chain().any(|cause| is_out_of_memory(&cause.to_string())) {
        FailureKind::OutOfMemory
    } else {
        FailureKind::Fault
    }
}

/// Whether it is another worker that has failed, and knows why.
fn is_of_another_worker(cause: &(dyn std::error::Error + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(CollectiveError::Transport { .. }))
        || matches!(cause.downcast_ref(), Some(CheckpointingError::FailedElsewhere))
}

fn is_bad_data(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<ShardError>().is_some_and(|error| !matches!(error, ShardError::Storage(_)))
}

fn is_bad_input(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<BadInput>()
        || cause.downcast_ref::<DataError>().is_some_and(DataError::is_bad_input)
        || cause.is::<NoLabels>()
        || cause.is::<NoScalingFactor>()
        || cause.downcast_ref::<ImportError>().is_some_and(ImportError::is_bad_input)
        || cause.downcast_ref::<CheckpointingError>().is_some_and(CheckpointingError::is_bad_input)
        || cause.downcast_ref::<WeightsError>().is_some_and(WeightsError::is_bad_input)
        || storage_error(cause).is_some_and(StorageError::is_refusal)
        // Where a data set is written nothing else goes on, as training does without a checkpoint.
        || matches!(cause.downcast_ref(), Some(ShardError::Storage(error)) if error.is_of_the_place())
        || matches!(cause.downcast_ref(), Some(ReductionError::Unused { .. }))
}

/// What a store has said, where it is told by others.
fn storage_error<'e>(cause: &'e (dyn std::error::Error + 'static)) -> Option<&'e StorageError> {
    match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(ShardError::Storage(error)), _) | (_, Some(CheckpointError::Storage(error))) => Some(error),
        _ => cause.downcast_ref(),
    }
}

/// Whether a message of libtorch or of the system says that there is no memory left.
pub fn is_out_of_memory(text: &str) -> bool {
    ["DefaultCPUAllocator: can't allocate memory", "out of memory", "Cannot allocate memory"]
        .iter()
        .any(|words| text.contains(words))
}

/// What libtorch says in a panic of its Rust binding, without the addresses of its stack.
pub fn libtorch_cause(panic: &str) -> Option<&str> {
    let (_, said) = panic.split_once("Torch(\"")?;
    let said = said.split("\\nframe #").next()?.split("\\nException raised").next()?;
    Some(said.trim_end_matches("\")").trim_end())
}

/// The error and its causes in one line.
pub fn one_line(error: &anyhow::Error) -> String {
    cause::one_line(error.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn bad_input_is_found_below_context_and_prints_as_itself() {
        let error: anyhow::Error = BadInput::message("data.latents: no such folder").into();
        let error = Err::<(), _>(error).context("training could not start").unwrap_err();
        assert_eq!(failure_kind(&error), FailureKind::BadInput);
        assert_eq!(one_line(&error), "training could not start: data.latents: no such folder");
        assert_eq!(failure_kind(&anyhow::anyhow!("disk full")), FailureKind::Fault);
    }
    #[test]
    fn libtorch_is_quoted_without_its_stack() {
        let panic = "panicked at tensor.rs:7:9: called `Result::unwrap()` on an `Err` value: Torch(\"DefaultCPUAllocator: can't allocate \
                     memory: you tried to allocate 47 bytes.\\nframe #0: c10::alloc_cpu + 0x365 (0x7f5e in libc10.so)\\n\")";
        let cause = libtorch_cause(panic).unwrap();
        assert_eq!(cause, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 47 bytes.");
        assert_eq!(failure_kind(&anyhow::anyhow!("{cause}")), FailureKind::OutOfMemory);
        assert_eq!(libtorch_cause("index out of bounds"), None);
    }
}
