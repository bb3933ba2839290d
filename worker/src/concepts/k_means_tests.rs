//! Clusters of points that lie with one worker or with several.

use proptest::prelude::*;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tch::{Device, Tensor};

use super::{Clustering, Clusters, Points, RowFile, Rows};
use crate::collectives::InProcess;

/// Clusters points f32 [n, D], shared out evenly among `world` workers, each with its file; the clusters of all points in order.
fn cluster(points: &Tensor, clustering: Clustering, world: usize) -> Clusters {
    let total = points.rows();
    let border = |rank: usize| total * rank as u64 / world as u64;
    let shares = (0..world).map(|rank| (border(rank), border(rank + 1) - border(rank)));
    let shares: Vec<_> = shares.map(|(first, length)| (first, points.narrow(0, first as i64, length as i64).copy())).collect();
    let found: Vec<Clusters> = std::thread::scope(|scope| {
        let worker = |(first, share): (u64, Tensor), mut collective: InProcess| {
            tch::set_num_threads(1);
            let folder = tempfile::tempdir().unwrap();
            let mut file = RowFile::create(&folder.path().join("points"), share.width()).unwrap();
            file.append(&share).unwrap();
            clustering.run(&Points { rows: &file, first, total, device: Device::Cpu }, &mut collective, |_| ()).unwrap()
        };
        let workers = shares.into_iter().zip(InProcess::world(world));
        let workers: Vec<_> = workers.map(|(share, end)| scope.spawn(move || worker(share, end))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let mut found = found.into_iter();
    let mut all = found.next().unwrap();
    for other in found {
        assert_eq!((&all.centres, &all.sizes, &all.inertias), (&other.centres, &other.sizes, &other.inertias));
        all.nearest.extend(other.nearest);
        all.distances.extend(other.distances);
    }
    all
}

/// 360 points of 6 heaps in turns, the first three of which are twice as large.
fn heaps() -> Tensor {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut point = |heap: usize| {
        let middle = [heap as f32 * 10.0 + 500.0, (heap as f32 * 7.0) % 4.0, -3.0];
        middle.map(|middle| middle + random.random_range(-1.0..1.0))
    };
    let points: Vec<f32> = (0..360).flat_map(|index| point([0, 1, 2, 0, 1, 2, 3, 4, 5][index % 9])).collect();
    Tensor::from_slice(&points).view([-1, 3])
}

#[test]
fn heaps_are_found_by_full_rounds_and_by_mini_batches_with_any_number_of_workers() {
    let points = heaps();
    for batch in [0, 60] {
        let clustering = Clustering { clusters: 6, restarts: 3, batch, seed: 1 };
        let alone = cluster(&points, clustering, 1);
        assert_eq!(alone.sizes, [80, 80, 80, 40, 40, 40], "mini-batches of {batch}");
        for (index, concept) in alone.nearest.iter().enumerate() {
            // Points of the same heap are nine apart.
            assert_eq!(*concept, alone.nearest[index % 9], "mini-batches of {batch}");
        }
        for world in [2, 3] {
            let shared = cluster(&points, clustering, world);
            assert_eq!((&shared.nearest, &shared.sizes), (&alone.nearest, &alone.sizes));
            assert!(shared.centres.allclose(&alone.centres, 1e-6, 1e-6, false));
            assert!((shared.inertia() / alone.inertia() - 1.0).abs() < 1e-6);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_point_is_in_one_cluster_none_is_empty_and_no_round_loosens_them(
        values in prop::collection::vec(-2i8..3, 40..90), clusters in 1usize..12, world in 1usize..4, batch in prop::sample::select(&[0, 13]), seed: u64,
    ) {
        // Few distinct values: many points coincide, often fewer than there are clusters.
        let values: Vec<f32> = values[..values.len() / 2 * 2].iter().map(|&value| f32::from(value)).collect();
        let points = Tensor::from_slice(&values).view([-1, 2]);
        let found = cluster(&points, Clustering { clusters, restarts: 2, batch, seed }, world);
        prop_assert_eq!(found.nearest.len() as u64, points.rows());
        let mut sizes = vec![0; clusters];
        found.nearest.iter().for_each(|&cluster| sizes[cluster] += 1);
        prop_assert_eq!(&sizes, &found.sizes);
        prop_assert!(sizes.iter().all(|&size| size > 0) && sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
        prop_assert!(found.inertias.is_sorted_by(|before, after| *after <= before * (1.0 + 1e-9) + 1e-9), "{:?}", found.inertias);
        let sum: f64 = found.distances.iter().map(|&distance| f64::from(distance)).sum();
        prop_assert!((sum - found.inertia()).abs() <= 1e-4 * (1.0 + sum), "{sum} and {}", found.inertia());
    }
}

#[test]
fn fewer_points_than_clusters_are_refused() {
    let points = Tensor::from_slice(&[1.0_f32, 2.0]).view([2, 1]);
    let points = Points { rows: &points, first: 0, total: 2, device: Device::Cpu };
    let clustering = Clustering { clusters: 3, restarts: 1, batch: 0, seed: 1 };
    let refused = clustering.run(&points, &mut crate::collectives::Solo, |_| ()).unwrap_err().to_string();
    assert!(refused.contains("2 slots cannot be sorted into 3 concepts"), "{refused}");
}
