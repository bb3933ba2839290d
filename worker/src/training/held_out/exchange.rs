//! What the workers have found on its way to all of them, and what comes of it.

use super::findings::Findings;
use super::sheet::Sheet;
use crate::collectives::{Submitter, Ticket};
use crate::inference::to_vec;
use common::config::Wire;
use common::control::Evaluation;
use tch::{Device, Tensor};

/// Sums that were asked for.
pub(super) struct Exchange {
    step: u64,
    seconds: f64,
    /// f64 [n].
    numbers: Tensor,
    painted: Option<Tensor>,
    tickets: Vec<Ticket>,
}

impl Exchange {
    /// Asks for the sums of this worker's findings and pictures with those of the others.
    ///
    /// # Errors
    /// A failure of the collective.
    pub(super) fn begin(
        submitter: &Submitter,
        device: Device,
        step: u64,
        seconds: f64,
        findings: &Findings,
        painted: Option<&Tensor>,
    ) -> anyhow::Result<Self> {
        let numbers = Tensor::from_slice(&findings.numbers()).to_device(device);
        let painted = painted.map(|painted| painted.to_device(device));
        let mut tickets: Vec<Ticket> =
            std::iter::once(&numbers).chain(&painted).map(|tensor| submitter.sum(tensor, Wire::Fp32)).collect();
        if device.is_cuda() {
            // There a sum is only queued when it is answered, and waits for the others in its queue. A step that is launched as a graph
            // with sums of its own has to come behind it, on all workers.
            tickets.drain(..).try_for_each(|ticket| submitter.wait(ticket))?;
        }
        Ok(Self { step, seconds, numbers, painted, tickets })
    }

    /// Steps done, this worker's seconds, everybody's findings and pictures.
    ///
    /// # Errors
    /// A failure of the collective.
    pub(super) fn end(self, submitter: &Submitter) -> anyhow::Result<(u64, f64, Findings, Option<Tensor>)> {
        self.tickets.into_iter().try_for_each(|ticket| submitter.wait(ticket))?;
        let findings = Findings::from_numbers(&to_vec(&self.numbers)?);
        Ok((self.step, self.seconds, findings, self.painted))
    }
}

/// What all workers have found together.
pub struct Found {
    /// Figures and what looks like collapse.
    pub evaluation: Evaluation,
    /// How long this worker has looked.
    pub seconds: f64,
    /// What it looks like, on rank 0.
    pub sheet: Option<Sheet>,
}

impl Found {
    pub(super) fn new(step: u64, seconds: f64, findings: &Findings, sheet: Option<Sheet>) -> Self {
        let (figures, collapse) = (findings.figures(), findings.collapse());
        Self { evaluation: Evaluation { step, figures, collapse }, seconds, sheet }
    }
}
