//! What the orchestrator asks Slurm, through its command line tools and nothing else: so it works with every version, and a test can
//! put other tools into PATH.

mod allocation;
mod job;
mod submit;
mod tool;

pub(crate) use allocation::Allocation;
pub(crate) use job::{cancel, job_info, queue_state, requeue};
pub(crate) use submit::{Submission, gpus_per_node, sbatch_arguments, submit, test_only};
pub(crate) use tool::{SlurmError, is_here};
