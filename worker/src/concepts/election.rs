//! Choosing one point among those of all workers.

use tch::{Device, Kind, Tensor};

use super::ConceptsError;
use crate::collectives::Collective;

/// A point that a worker proposes.
#[derive(Debug)]
pub(super) struct Candidate {
    /// The highest wins; of equal ones that with the lowest index.
    pub(super) score: f64,
    /// Its index among all points.
    pub(super) index: u64,
    /// Something about it that the others shall know.
    pub(super) label: usize,
    /// Its coordinates [D], f64.
    pub(super) point: Tensor,
}

/// The winner among the candidates of all workers, the same on each of them; none if there is none. Points have `dimensions` coordinates.
pub(super) fn elect(
    candidate: Option<Candidate>,
    dimensions: usize,
    collective: &mut dyn Collective,
) -> Result<Option<Candidate>, ConceptsError> {
    // A row per worker: whether it has a candidate, score, index, label, point. Zeros on all others, so that the sum gathers.
    let (world, rank) = (collective.world() as i64, collective.rank() as i64);
    let ballots = Tensor::zeros([world, 4 + dimensions as i64], (Kind::Double, Device::Cpu));
    if let Some(Candidate { score, index, label, point }) = candidate {
        let head = Tensor::from_slice(&[1.0, score, index as f64, label as f64]);
        ballots.get(rank).copy_(&Tensor::cat(&[head, point], 0));
    }
    collective.all_reduce_sum(&ballots)?;
    let mut winner: Option<Candidate> = None;
    for ballot in ballots.unbind(0) {
        let [present, score, index, label] = [0, 1, 2, 3].map(|column| ballot.double_value(&[column]));
        let better = |best: &Candidate| score > best.score || (score == best.score && (index as u64) < best.index);
        if present > 0.0 && winner.as_ref().is_none_or(better) {
            let point = ballot.narrow(0, 4, dimensions as i64);
            winner = Some(Candidate { score, index: index as u64, label: label as usize, point });
        }
    }
    Ok(winner)
}
