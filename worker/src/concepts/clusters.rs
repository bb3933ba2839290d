//! K-means over slots, and drawing one slot of every concept.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Starts, of which the tightest clustering wins.
const STARTS: u64 = 4;
/// Most rounds of assignment and update per start.
const ROUNDS: usize = 100;

/// Points sorted into concepts.
#[derive(Debug, Clone, PartialEq)]
pub struct Clusters {
    /// Indices of the points of each cluster, nearest to its centre first. No cluster is empty.
    pub members: Vec<Vec<usize>>,
    /// Sum of the squared distances of all points to their centres.
    pub inertia: f64,
}

impl Clusters {
    /// One random member of every cluster: the slots of a new scene.
    pub fn draw(&self, random: &mut impl Rng) -> Vec<usize> {
        self.members.iter().map(|members| members[random.random_range(0..members.len())]).collect()
    }
}

/// Sorts points `[n, dimensions]`, `n >= clusters >= 1`, into clusters: k-means++ and Lloyd's rounds, the best of a few starts.
/// Deterministic by `seed`.
pub fn k_means(points: &[f32], dimensions: usize, clusters: usize, seed: u64) -> Clusters {
    let points: Vec<&[f32]> = points.chunks_exact(dimensions).collect();
    let starts: Vec<Clusters> = (0..STARTS)
        .map(|start| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(start);
            lloyd(&points, spread(&points, clusters, &mut random))
        })
        .collect();
    let tightest = starts.into_iter().min_by(|a, b| a.inertia.total_cmp(&b.inertia));
    tightest.unwrap_or(Clusters { members: Vec::new(), inertia: 0.0 })
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// First centres: each point is taken with probability proportional to its squared distance from those taken before (k-means++).
fn spread(points: &[&[f32]], clusters: usize, random: &mut ChaCha8Rng) -> Vec<Vec<f32>> {
    let mut centres = vec![points[random.random_range(0..points.len())].to_vec()];
    let mut nearest = vec![f64::INFINITY; points.len()];
    while centres.len() < clusters {
        let newest = &centres[centres.len() - 1];
        nearest.par_iter_mut().zip(points).for_each(|(nearest, point)| *nearest = nearest.min(distance(point, newest)));
        let mut left = random.random_range(0.0..1.0) * nearest.iter().sum::<f64>();
        let chosen = nearest.iter().position(|share| {
            left -= share;
            left < 0.0
        });
        centres.push(points[chosen.unwrap_or_else(|| random.random_range(0..points.len()))].to_vec());
    }
    centres
}

/// Alternates between giving points to the nearest centre and moving centres to the mean of their points, until nothing changes.
fn lloyd(points: &[&[f32]], mut centres: Vec<Vec<f32>>) -> Clusters {
    let mut nearest = assign(points, &centres);
    for _ in 0..ROUNDS {
        centres = means(points, &nearest, centres.len());
        let next = assign(points, &centres);
        let settled = next.iter().zip(&nearest).all(|(a, b)| a.0 == b.0);
        nearest = next;
        if settled {
            break;
        }
    }
    let mut members = vec![Vec::new(); centres.len()];
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| nearest[a].1.total_cmp(&nearest[b].1));
    order.into_iter().for_each(|index| members[nearest[index].0].push(index));
    Clusters { members, inertia: nearest.iter().map(|(_, distance)| distance).sum() }
}

/// The nearest centre of every point and the squared distance to it; a centre without points gets the point farthest from its own.
fn assign(points: &[&[f32]], centres: &[Vec<f32>]) -> Vec<(usize, f64)> {
    let closest = |point: &&[f32]| {
        let distances = centres.iter().map(|centre| distance(point, centre)).enumerate();
        distances.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, 0.0))
    };
    let mut nearest: Vec<(usize, f64)> = points.par_iter().map(closest).collect();
    let mut sizes = vec![0_usize; centres.len()];
    nearest.iter().for_each(|(cluster, _)| sizes[*cluster] += 1);
    for empty in 0..centres.len() {
        if sizes[empty] > 0 {
            continue;
        }
        let shared = (0..points.len()).filter(|&index| sizes[nearest[index].0] > 1);
        if let Some(farthest) = shared.max_by(|&a, &b| nearest[a].1.total_cmp(&nearest[b].1)) {
            sizes[nearest[farthest].0] -= 1;
            sizes[empty] = 1;
            nearest[farthest] = (empty, 0.0);
        }
    }
    nearest
}

fn means(points: &[&[f32]], nearest: &[(usize, f64)], clusters: usize) -> Vec<Vec<f32>> {
    let mut sums = vec![(vec![0.0_f64; points[0].len()], 0.0_f64); clusters];
    for (point, (cluster, _)) in points.iter().zip(nearest) {
        let (sum, count) = &mut sums[*cluster];
        sum.iter_mut().zip(*point).for_each(|(sum, value)| *sum += f64::from(*value));
        *count += 1.0;
    }
    sums.into_iter().map(|(sum, count)| sum.into_iter().map(|sum| (sum / f64::max(count, 1.0)) as f32).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn well_separated_heaps_become_clusters() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let heaps = 6;
        let points: Vec<f32> = (0..300)
            .flat_map(|index| {
                let heap = (index % heaps) as f32;
                [heap * 10.0 + random.random_range(-1.0..1.0), (heap * 7.0) % 4.0 + random.random_range(-1.0..1.0)]
            })
            .collect();
        let clusters = k_means(&points, 2, heaps, 1);
        assert_eq!(clusters, k_means(&points, 2, heaps, 1));
        for members in &clusters.members {
            assert_eq!(members.len(), 50);
            assert!(members.iter().all(|member| member % heaps == members[0] % heaps), "{members:?}");
        }
        let drawn = clusters.draw(&mut random);
        let mut heaps_drawn: Vec<usize> = drawn.iter().map(|member| member % heaps).collect();
        heaps_drawn.sort_unstable();
        assert_eq!(heaps_drawn, (0..heaps).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn every_point_is_in_one_cluster_and_no_cluster_is_empty(
            values in prop::collection::vec(-2i8..2, 24..80), clusters in 1usize..12, seed: u64,
        ) {
            // Few distinct values: many points coincide, often fewer than there are clusters.
            let points: Vec<f32> = values[..values.len() / 2 * 2].iter().map(|&value| f32::from(value)).collect();
            let found = k_means(&points, 2, clusters, seed);
            let mut all: Vec<usize> = found.members.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..points.len() / 2).collect::<Vec<_>>());
            prop_assert_eq!(found.members.len(), clusters);
            prop_assert!(found.members.iter().all(|members| !members.is_empty()));
        }
    }
}
