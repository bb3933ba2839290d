//! K-means over the slots of all workers: k-means++, then Lloyd's rounds or mini-batches (Sculley 2010), the best of a few starts.
//!
//! Points stay with the worker that has them: it finds the nearest centres of its own, and sums of points are summed over the workers in f64.
//! Every random choice depends on seed and index of a point alone. So the result is that of one worker, up to rounding. In memory are
//! [`CHUNK`] points and 20 bytes for every other; the points themselves are read from their file again in every round.

use std::ops::Range;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tch::{Device, Kind, Tensor};

use super::election::{Candidate, elect};
use super::seeding::spread;
use super::{ConceptsError, Rows};
use crate::collectives::Collective;

/// Points that are looked at together.
pub(super) const CHUNK: usize = 8192;
/// Most rounds of assignment and update per start.
const ROUNDS: usize = 100;
/// Mini-batches per start.
const MINI_BATCHES: u64 = 100;
/// A later start has to be tighter by this share, so that rounding does not choose among equal ones.
const TIGHTER: f64 = 1e-4;
/// Streams of random numbers per start.
const STREAMS: u64 = 1 << 32;
/// The first stream of the mini-batches, behind those of the seeding.
const BATCHES: u64 = 1 << 31;

/// The points of this worker.
#[derive(Clone, Copy)]
pub struct Points<'a> {
    /// Their coordinates.
    pub rows: &'a dyn Rows,
    /// Index of the first among the points of all workers.
    pub first: u64,
    /// Points of all workers.
    pub total: u64,
    /// Where distances are computed.
    pub device: Device,
}

impl Points<'_> {
    /// Indices of this worker's points.
    fn own(&self) -> Range<u64> {
        self.first..self.first + self.rows.rows()
    }

    /// Coordinates f32 [n, D] of points of this worker, on the CPU.
    pub(super) fn read(&self, indices: &[u64]) -> Result<Tensor, ConceptsError> {
        self.rows.read(&indices.iter().map(|index| index - self.first).collect::<Vec<_>>())
    }

    /// Squared distances f32 [n] of points of this worker from `centre` f64 [D].
    pub(super) fn distances(&self, indices: &[u64], centre: &Tensor) -> Result<Tensor, ConceptsError> {
        let points = self.read(indices)?.to_device(self.device);
        Ok(squares(&(points - centre.to_kind(Kind::Float).to_device(self.device))))
    }
}

/// Sums of squares over the last dimension.
fn squares(x: &Tensor) -> Tensor {
    (x * x).sum_dim_intlist(-1, false, Kind::Float).to_device(Device::Cpu)
}

/// How points are clustered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clustering {
    /// Number of clusters.
    pub clusters: usize,
    /// Starts, of which the tightest clustering wins.
    pub restarts: usize,
    /// Points per mini-batch; 0 for all points in every round.
    pub batch: u64,
    /// Decides everything random.
    pub seed: u64,
}

/// Points sorted into clusters, the largest first. No cluster is empty.
#[derive(Debug)]
pub struct Clusters {
    /// Centres f32 [clusters, D].
    pub centres: Tensor,
    /// Points of all workers in each cluster.
    pub sizes: Vec<u64>,
    /// Sum of the squared distances of all points to their centres, after each of the rounds; of mini-batches, at the end alone.
    pub inertias: Vec<f64>,
    /// The cluster of each point of this worker.
    pub nearest: Vec<usize>,
    /// Squared distances of this worker's points to their centres.
    pub distances: Vec<f32>,
}

impl Clusters {
    /// Sum of the squared distances of all points to their centres.
    pub fn inertia(&self) -> f64 {
        self.inertias.last().copied().unwrap_or(f64::INFINITY)
    }
}

impl Clustering {
    /// Clusters the points of all workers; says after each start how many are done.
    ///
    /// # Errors
    /// Fewer points than clusters, a file that cannot be read, or a failure of the collective.
    pub fn run(
        &self,
        points: &Points<'_>,
        collective: &mut dyn Collective,
        mut done: impl FnMut(u64),
    ) -> Result<Clusters, ConceptsError> {
        if points.total < self.clusters as u64 {
            return Err(ConceptsError::TooFew { slots: points.total, clusters: self.clusters });
        }
        let mut best: Option<Clusters> = None;
        for start in 0..self.restarts as u64 {
            let found = self.start(points, start, collective)?;
            if best.as_ref().is_none_or(|best| found.inertia() < best.inertia() * (1.0 - TIGHTER)) {
                best = Some(found);
            }
            done(start + 1);
        }
        best.map(largest_first).ok_or(ConceptsError::TooFew { slots: points.total, clusters: self.clusters })
    }

    /// One start.
    fn start(&self, points: &Points<'_>, start: u64, collective: &mut dyn Collective) -> Result<Clusters, ConceptsError> {
        let own: Vec<u64> = points.own().collect();
        let stream = start * STREAMS;
        if self.batch == 0 || self.batch >= points.total {
            let centres = spread(points, &own, self.clusters, (self.seed, stream), collective)?;
            return lloyd(points, &own, centres, collective);
        }
        let among = self.sample(points, stream + BATCHES);
        let mut centres = spread(points, &among, self.clusters, (self.seed, stream), collective)?;
        let mut seen = Tensor::zeros([self.clusters as i64, 1], (Kind::Double, Device::Cpu));
        for batch in 1..=MINI_BATCHES {
            let among = self.sample(points, stream + BATCHES + batch);
            let round = Round::assign(points, &among, &centres, collective)?;
            seen += &round.counts;
            // Every centre is the mean of all points that were ever assigned to it.
            centres += (&round.sums - &round.counts * &centres) / seen.clamp_min(1.0);
        }
        let mut round = Round::assign(points, &own, &centres, collective)?;
        round.fill_empty(points, &own, collective)?;
        Ok(round.into_clusters(Vec::new()))
    }

    /// Indices of this worker's points in a mini-batch, in order; a point may be in it twice.
    fn sample(&self, points: &Points<'_>, stream: u64) -> Vec<u64> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(stream);
        let mut drawn: Vec<u64> = (0..self.batch).map(|_| random.random_range(0..points.total)).collect();
        drawn.retain(|index| points.own().contains(index));
        drawn.sort_unstable();
        drawn
    }
}

/// Alternates between giving points to the nearest centre and moving centres to the mean of their points, until nothing changes.
fn lloyd(points: &Points<'_>, own: &[u64], centres: Tensor, collective: &mut dyn Collective) -> Result<Clusters, ConceptsError> {
    let mut inertias = Vec::new();
    let mut round = Round::assign(points, own, &centres, collective)?;
    round.fill_empty(points, own, collective)?;
    for _ in 1..ROUNDS {
        inertias.push(round.inertia);
        let mut next = Round::assign(points, own, &(&round.sums / &round.counts), collective)?;
        next.fill_empty(points, own, collective)?;
        let moved = next.nearest.iter().zip(&round.nearest).filter(|(a, b)| a != b).count();
        let moved = Tensor::from_slice(&[moved as i64]);
        collective.all_reduce_sum(&moved)?;
        round = next;
        if moved.int64_value(&[0]) == 0 {
            break;
        }
    }
    Ok(round.into_clusters(inertias))
}

/// Points given to the nearest of the centres.
struct Round {
    /// The centres, f64 [clusters, D].
    centres: Tensor,
    /// The nearest centre of each of this worker's points, and its squared distance.
    nearest: Vec<usize>,
    distances: Vec<f32>,
    /// Sums of the points of all workers per centre, f64 [clusters, D], and their numbers, f64 [clusters, 1].
    sums: Tensor,
    counts: Tensor,
    /// Sum of the squared distances of all workers' points.
    inertia: f64,
}

impl Round {
    /// Gives the points `among`, this worker's, to the nearest of `centres` f64 [clusters, D].
    fn assign(
        points: &Points<'_>,
        among: &[u64],
        centres: &Tensor,
        collective: &mut dyn Collective,
    ) -> Result<Self, ConceptsError> {
        let (clusters, dimensions) = centres.size2()?;
        // Around the middle of the centres products cancel less.
        let middle = centres.mean_dim(0, true, Kind::Double).to_kind(Kind::Float).to_device(points.device);
        let around = centres.to_kind(Kind::Float).to_device(points.device) - &middle;
        let half_norms = (&around * &around).sum_dim_intlist(1, false, Kind::Float) / 2.0;
        let (mut nearest, mut distances) = (Vec::with_capacity(among.len()), Vec::with_capacity(among.len()));
        // Sums, numbers, and the inertia in a row of its own.
        let totals = Tensor::zeros([clusters + 1, dimensions + 1], (Kind::Double, points.device));
        for chunk in among.chunks(CHUNK) {
            let chunk = points.read(chunk)?.to_device(points.device);
            let chunk_around = &chunk - &middle;
            // The nearest centre is the one with the largest c x - |c|^2 / 2.
            let index = (chunk_around.matmul(&around.tr()) - &half_norms).argmax(1, false);
            let squares = squares(&(chunk_around - around.index_select(0, &index)));
            let chunk = chunk.to_kind(Kind::Double);
            let extended = Tensor::cat(&[&chunk, &chunk.new_ones([chunk.size()[0], 1], (Kind::Double, points.device))], 1);
            let _ = totals.narrow(0, 0, clusters).g_add_(&index.one_hot(clusters).to_kind(Kind::Double).tr().matmul(&extended));
            let inertia = squares.sum(Kind::Double).to_device(points.device);
            let _ = totals.get(clusters).get(0).g_add_(&inertia);
            nearest.extend(Vec::<i64>::try_from(index.to_device(Device::Cpu))?.into_iter().map(|index| index as usize));
            distances.extend(Vec::<f32>::try_from(squares)?);
        }
        let totals = totals.to_device(Device::Cpu);
        collective.all_reduce_sum(&totals)?;
        let of_clusters = totals.narrow(0, 0, clusters);
        Ok(Self {
            centres: centres.copy(),
            nearest,
            distances,
            sums: of_clusters.narrow(1, 0, dimensions).copy(),
            counts: of_clusters.narrow(1, dimensions, 1).copy(),
            inertia: totals.double_value(&[clusters, 0]),
        })
    }

    /// Gives to every centre without points the one that is farthest from its own, unless it is the only one there.
    fn fill_empty(&mut self, points: &Points<'_>, own: &[u64], collective: &mut dyn Collective) -> Result<(), ConceptsError> {
        let dimensions = self.centres.size()[1] as usize;
        for empty in 0..self.centres.size()[0] {
            if self.count(empty) > 0.0 {
                continue;
            }
            let shared = (0..own.len()).filter(|&place| self.count(self.nearest[place] as i64) > 1.0);
            let farthest = shared.max_by(|&a, &b| self.distances[a].total_cmp(&self.distances[b]).then(b.cmp(&a)));
            let candidate = match farthest {
                Some(place) => Some(Candidate {
                    score: f64::from(self.distances[place]),
                    index: own[place],
                    label: self.nearest[place],
                    point: points.read(&own[place..=place])?.get(0).to_kind(Kind::Double),
                }),
                None => None,
            };
            let Some(Candidate { score, index, label, point }) = elect(candidate, dimensions, collective)? else { return Ok(()) };
            let _ = self.sums.get(label as i64).g_sub_(&point);
            let _ = self.counts.get(label as i64).g_sub_scalar_(1.0);
            self.sums.get(empty).copy_(&point);
            let _ = self.counts.get(empty).fill_(1.0);
            self.centres.get(empty).copy_(&point);
            self.inertia -= score;
            if let Ok(place) = own.binary_search(&index) {
                (self.nearest[place], self.distances[place]) = (empty as usize, 0.0);
            }
        }
        Ok(())
    }

    fn count(&self, cluster: i64) -> f64 {
        self.counts.double_value(&[cluster, 0])
    }

    /// The end, after rounds with these `inertias`.
    fn into_clusters(self, mut inertias: Vec<f64>) -> Clusters {
        inertias.push(self.inertia);
        let sizes = (0..self.centres.size()[0]).map(|cluster| self.count(cluster) as u64).collect();
        let centres = self.centres.to_kind(Kind::Float);
        Clusters { centres, sizes, inertias, nearest: self.nearest, distances: self.distances }
    }
}

/// The same clusters, numbered by size.
fn largest_first(clusters: Clusters) -> Clusters {
    let mut order: Vec<usize> = (0..clusters.sizes.len()).collect();
    order.sort_by_key(|&cluster| std::cmp::Reverse(clusters.sizes[cluster]));
    let mut number = vec![0; order.len()];
    order.iter().enumerate().for_each(|(new, &old)| number[old] = new);
    let places: Vec<i64> = order.iter().map(|&cluster| cluster as i64).collect();
    Clusters {
        centres: clusters.centres.index_select(0, &Tensor::from_slice(&places)),
        sizes: order.iter().map(|&cluster| clusters.sizes[cluster]).collect(),
        nearest: clusters.nearest.iter().map(|&cluster| number[cluster]).collect(),
        ..clusters
    }
}
