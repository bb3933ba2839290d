//! First centres by k-means++ (Arthur and Vassilvitskii 2007): each point is taken with a probability proportional to its squared distance
//! from those taken before.
//!
//! Every point draws an exponential number by its index alone, and the largest quotient of distance and draw wins: that is such a choice, and
//! it takes no worker to know the distances of another.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tch::{Kind, Tensor};

use super::ConceptsError;
use super::election::{Candidate, elect};
use super::k_means::{CHUNK, Points};
use crate::collectives::Collective;

/// Centres [clusters, D], f64, chosen among the points with the indices `among`, which are this worker's and in order. `stream` tells starts
/// apart.
pub(super) fn spread(
    points: &Points<'_>,
    among: &[u64],
    clusters: usize,
    (seed, stream): (u64, u64),
    collective: &mut dyn Collective,
) -> Result<Tensor, ConceptsError> {
    let dimensions = points.rows.width();
    let mut centres: Vec<Tensor> = Vec::new();
    let mut distances = vec![1.0_f32; among.len()];
    for round in 0..clusters as u64 {
        let mut best: Option<(f64, usize)> = None;
        for (place, chunk) in among.chunks(CHUNK).enumerate() {
            let start = place * CHUNK;
            let distances = &mut distances[start..start + chunk.len()];
            if let Some(newest) = centres.last() {
                let to_newest: Vec<f32> = Vec::try_from(&points.distances(chunk, newest)?)?;
                let first = round == 1;
                distances.iter_mut().zip(to_newest).for_each(|(known, new)| *known = if first { new } else { known.min(new) });
            }
            for (offset, (draw, &distance)) in exponentials(seed, stream + round, chunk).into_iter().zip(&*distances).enumerate() {
                let score = f64::from(distance) / draw;
                if best.is_none_or(|(highest, _)| score > highest) {
                    best = Some((score, start + offset));
                }
            }
        }
        let candidate = match best {
            Some((score, place)) => {
                let point = points.read(&among[place..=place])?.get(0).to_kind(Kind::Double);
                Some(Candidate { score, index: among[place], label: 0, point })
            }
            None => None,
        };
        let none = ConceptsError::TooFew { slots: 0, clusters };
        centres.push(elect(candidate, dimensions, collective)?.ok_or(none)?.point);
    }
    Ok(Tensor::stack(&centres, 0))
}

/// Draws of the exponential distribution with mean 1, more than 0: each a function of seed, stream and index alone.
fn exponentials(seed: u64, stream: u64, indices: &[u64]) -> Vec<f64> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    let mut draws = Vec::with_capacity(indices.len());
    for run in indices.chunk_by(|a, b| a + 1 == *b) {
        // A draw takes two words.
        random.set_word_pos(2 * u128::from(run[0]));
        // In (0, 1), exact in f64.
        let uniform = |bits: u64| ((bits >> 12) as f64 + 0.5) * 2_f64.powi(-52);
        draws.extend(run.iter().map(|_| -uniform(random.next_u64()).ln()));
    }
    draws
}
